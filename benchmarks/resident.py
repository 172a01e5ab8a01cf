"""Memory of several processes and of Ray's object store, as the kernel accounts for it (Linux).

Shared pages are left out of the processes' figures and counted once, in the store's.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

MIB = 2**20
PAUSE_S = 0.01
_MMAP_THRESHOLD = -3  # of glibc's mallopt


def give_back_freed_memory() -> None:
    """Let this process's resident memory follow what it holds: each block of 64 KB and more is mapped by itself.

    Else the C library keeps what is freed, scattered, and how much more is resident for it differs from run to run.
    """
    library = ctypes.CDLL(None)
    library.malloc_trim(0)
    library.mallopt(_MMAP_THRESHOLD, 64 << 10)


def resident_mb(pids: Sequence[int]) -> float:
    """MB of memory that is these processes' own; 0 for one that has ended."""
    return sum(_own_mb(pid) for pid in pids)


def _own_mb(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("RssAnon:")), 0.0)


@dataclass(frozen=True)
class ObjectStore:
    """The files that a raylet keeps objects in; pages that were written once stay, and are used again."""

    files: tuple[str, ...]

    @classmethod
    def of_child(cls) -> ObjectStore:
        """The store of the Ray that this process has started."""
        raylets = [pid for pid in _children(os.getpid()) if "raylet" in os.readlink(f"/proc/{pid}/exe")]
        files = [f"/proc/{pid}/fd/{n}" for pid in raylets for n in os.listdir(f"/proc/{pid}/fd")]
        return cls(tuple(f for f in files if "/plasma" in os.readlink(f)))

    def resident_mb(self) -> float:
        return sum(os.stat(file).st_blocks * 512 for file in self.files) / MIB


class Watcher:
    """A process that looks at all parts many times a second; a context, which leaves `peaks` in MB behind."""

    def __init__(self, parts: Mapping[str, Sequence[int]], store: ObjectStore) -> None:
        self.peaks: dict[str, float] = {}
        self._parts, self._store = parts, store
        forks = get_context("fork")
        self._here, self._there = forks.Pipe()
        self._process = forks.Process(target=self._watch, args=(self._there,))

    def __enter__(self) -> Watcher:
        self._process.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._here.send("stop")
        self.peaks = self._here.recv()
        self._process.join()

    def _watch(self, connection: Connection) -> None:
        peaks: dict[str, float] = {}
        while not connection.poll(PAUSE_S):
            now = {name: resident_mb(pids) for name, pids in self._parts.items()} | {"store": self._store.resident_mb()}
            now["total"] = sum(now.values())
            peaks = {name: max(value, peaks.get(name, 0.0)) for name, value in now.items()}
        connection.send(peaks)


def _children(parent: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
