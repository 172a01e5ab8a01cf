"""A kind of process, and the memory of its parts."""

from __future__ import annotations

from dataclasses import dataclass, field

ALWAYS, LEARNING, GENERATING = "always", "learning", "generating"


@dataclass(frozen=True)
class Part:
    """One part of a process's memory, in bytes; `phase` says when it is there."""

    name: str
    bytes: int
    how: str = ""
    phase: str = ALWAYS


@dataclass(frozen=True)
class Process:
    """`count` processes of a kind, with `gpus` GPUs each. Bytes are those of one GPU (of the process, on a CPU)."""

    kind: str
    count: int
    gpus: float
    parts: tuple[Part, ...]
    available: int | None = None  # bytes that the parts may take; None where no GPU is known
    notes: tuple[str, ...] = field(default=())

    def bytes_in(self, phase: str) -> int:
        """Bytes while learning or generating, with what is always there."""
        return sum(p.bytes for p in self.parts if p.phase in (ALWAYS, phase))

    @property
    def height(self) -> str:
        """The phase that takes most."""
        return max((LEARNING, GENERATING), key=self.bytes_in)

    @property
    def total(self) -> int:
        """Bytes at the height."""
        return self.bytes_in(self.height)

    @property
    def fits(self) -> bool | None:
        return None if self.available is None else self.total <= self.available
