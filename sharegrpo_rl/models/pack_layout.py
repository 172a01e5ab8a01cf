"""Where packs lie in one row: all prompts first, then the branches (completions) of each pack.

The layout of a forward is set by a context, not handed down as an argument: no layer can drop it on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from sharegrpo_rl.models.varlen_attention import Sequences


class Bucket:
    """Branches of about equal length, run as one padded batch [G, T]."""

    def __init__(self, branches: Sequence[slice], device: torch.device) -> None:
        lengths = [b.stop - b.start for b in branches]
        self.size, self.width = len(branches), max(lengths)
        adjoining = all(a.stop == b.start for a, b in pairwise(branches))
        # Equal branches side by side are a view of the row; others are gathered.
        self.view = slice(branches[0].start, branches[-1].stop) if adjoining and min(lengths) == self.width else None
        starts = torch.tensor([b.start for b in branches], device=device)[:, None]
        sizes = torch.tensor(lengths, device=device)[:, None]
        steps = torch.arange(self.width, device=device)[None]
        # Padding repeats a branch's last token: it lies behind every real one, and its outputs are dropped.
        self._sources = (starts + torch.minimum(steps, sizes - 1)).flatten()
        self._cells = (steps < sizes).flatten().nonzero()[:, 0]
        self._tokens = self._sources[self._cells]

    def pad(self, x: Tensor) -> Tensor:
        """[L, H, D] of the row -> [G, H, T, D]."""
        rows = x[self.view] if self.view is not None else x.index_select(0, self._sources)
        return rows.unflatten(0, (self.size, self.width)).transpose(1, 2)

    def pad_gradient(self, x: Tensor) -> Tensor:
        """As `pad`, zeros in padded cells: they add nothing to any gradient."""
        if self.view is not None:
            return self.pad(x)
        rows = x.new_zeros(self.size * self.width, *x.shape[1:])
        rows.index_copy_(0, self._cells, x.index_select(0, self._tokens))
        return rows.unflatten(0, (self.size, self.width)).transpose(1, 2)

    def write(self, x: Tensor, row: Tensor) -> None:
        """[G, H, T, D] -> its places in the row [L, H, D]; padding is dropped."""
        flat = x.transpose(1, 2).flatten(0, 1)
        if self.view is not None:
            row[self.view] = flat
        else:
            row.index_copy_(0, self._tokens, flat.index_select(0, self._cells))


class Layout:
    """The packs of one row; `shapes` holds the prompt's and the branches' lengths of each. A branch may be empty, and a
    pack may have none: then what is called its prompt is all of it."""

    def __init__(self, shapes: Sequence[tuple[int, Sequence[int]]], device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        ends = list(accumulate((p for p, _ in shapes), initial=0))
        self.prompts = [slice(a, b) for a, b in pairwise(ends)]
        ends = list(accumulate((sum(lengths) for _, lengths in shapes), initial=ends[-1]))
        self.branches = [slice(a, b) for a, b in pairwise(ends)]
        self.length = ends[-1]
        self.each: list[list[slice]] = []
        for branches, (_, lengths) in zip(self.branches, shapes, strict=True):
            self.each.append([slice(a, b) for a, b in pairwise(accumulate(lengths, initial=branches.start))])

    @cached_property
    def buckets(self) -> list[Bucket]:
        """All branches by length, rounded up by at most a quarter (or to 8), so that little is padded."""
        by_width: dict[int, list[slice]] = {}
        for branch in (b for each in self.each for b in each if b.stop > b.start):
            length = branch.stop - branch.start
            step = max(8, 1 << max(0, length.bit_length() - 3))
            by_width.setdefault(-(-length // step) * step, []).append(branch)
        return [Bucket(branches, self.device) for branches in by_width.values()]

    @cached_property
    def own(self) -> Sequences:
        """Every prompt and every branch by itself, in the order of the row."""
        spans = [*self.prompts, *(b for each in self.each for b in each if b.stop > b.start)]
        return self._sequences(spans)

    @cached_property
    def prompt_parts(self) -> Sequences:
        """The prompt of each pack."""
        return self._sequences(self.prompts)

    @cached_property
    def branch_parts(self) -> Sequences:
        """All branches of each pack together."""
        return self._sequences(self.branches)

    def _sequences(self, spans: Sequence[slice]) -> Sequences:
        return Sequences.of([s.stop - s.start for s in spans], self.device)


_layout: ContextVar[Layout | None] = ContextVar("branch_layout", default=None)


def current_layout() -> Layout | None:
    """The layout of the forward that is running; None outside one."""
    return _layout.get()


@contextmanager
def use_layout(layout: Layout) -> Iterator[None]:
    """Inside, the language model's attention follows this layout."""
    token = _layout.set(layout)
    try:
        yield
    finally:
        _layout.reset(token)
