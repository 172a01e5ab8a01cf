"""A call in a process of its own, which begins as a copy of this one: libraries loaded, nothing computed yet."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any


def in_fresh_process(call: Callable[..., Any], *arguments: Any) -> Any:
    """What `call(*arguments)` returns; ends the program where the process gave nothing back."""
    forks = get_context("fork")
    receiver, sender = forks.Pipe(duplex=False)
    process = forks.Process(target=_send, args=(sender, call, *arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise SystemExit(f"a process of its own ended without a result: {call.__name__}{arguments}") from None
    finally:
        process.join()


def _send(sender: Connection, call: Callable[..., Any], *arguments: Any) -> None:
    sender.send(call(*arguments))
