"""RLlib callbacks that a run file names: a user's `--import` file registers them. Free of Ray until a run begins."""

from __future__ import annotations

from collections.abc import Sequence

from sharegrpo_rl.errors import UserError

CALLBACKS: dict[str, type] = {}


def register_callbacks(name: str, callbacks: type) -> None:
    """Make a subclass of RLlib's RLlibCallback known by `name`; UserError where another class has it already."""
    if CALLBACKS.get(name, callbacks) is not callbacks:
        raise UserError(f"callbacks {name!r} are registered already; choose another name")
    CALLBACKS[name] = callbacks


def find_callbacks(names: Sequence[str]) -> list[type]:
    """The classes of the names; UserError for one that nobody registered."""
    for name in names:
        if name not in CALLBACKS:
            known = ", ".join(CALLBACKS) or "none; --import FILE.py registers them with register_callbacks"
            raise UserError(f"user_callbacks: no callbacks {name!r} (known: {known})")
    return [CALLBACKS[name] for name in names]
