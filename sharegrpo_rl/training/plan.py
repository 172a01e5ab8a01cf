"""What each rank does in an update, planned once for all of them: minibatches, micro-batches, fillers, one denominator.

Pure, and called where the packs are made: pixels may be anywhere, they are never looked at.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice, pairwise
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.config.run import TrainingSettings
from sharegrpo_rl.data.types import PromptPack
from sharegrpo_rl.ops.policy_loss import Denominator
from sharegrpo_rl.training.loss import count

# ---- Work spread evenly: items of known cost over ranks and micro-batches, every rank with the same number of these.


def balanced(costs: Sequence[int], ranks: int, limit: int) -> list[list[list[int]]]:
    """[rank][micro-batch] -> indices of items, in order; a micro-batch costs `limit` at most, or is one item.

    As few micro-batches as fit. Within one step of all ranks, and over all steps, no two ranks are further apart than the
    dearest item (longest processing time first: Graham 1969). Some of the last ones may be empty.
    """
    order = sorted(range(len(costs)), key=lambda i: -costs[i])
    each = min(-(-sum(costs) // (ranks * limit)), -(-len(costs) // ranks))
    while (bins := _spread(order, costs, each * ranks, limit)) is None:
        each += 1
    bins.sort(key=lambda b: -_cost(b, costs))
    dealt: list[list[list[int]]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for step in range(each):
        poorest_first = sorted(range(ranks), key=lambda r: loads[r])
        for rank, items in zip(poorest_first, bins[step * ranks : (step + 1) * ranks], strict=True):
            dealt[rank].append(sorted(items))
            loads[rank] += _cost(items, costs)
    return dealt


def _spread(order: Sequence[int], costs: Sequence[int], count: int, limit: int) -> list[list[int]] | None:
    """Each item to the bin that holds least so far; None where one does not fit."""
    bins: list[list[int]] = [[] for _ in range(count)]
    heap = [(0, b) for b in range(count)]
    for item in order:
        load, least = heap[0]
        if load and load + costs[item] > limit:
            return None
        heapq.heapreplace(heap, (load + costs[item], least))
        bins[least].append(item)
    return bins


def _cost(items: Sequence[int], costs: Sequence[int]) -> int:
    return sum(costs[i] for i in items)


# ---- Cutting packs into minibatches of whole questions and micro-batches of a token budget.


class Grouped(Protocol):
    """What belongs to a seed question: a pack."""

    @property
    def group(self) -> int: ...


G = TypeVar("G", bound=Grouped)


def minibatches(packs: Sequence[G], questions: int | None) -> list[list[G]]:
    """Packs by seed question, `questions` of them in each minibatch (None = all); a question is never split."""
    by_group: dict[int, list[G]] = {}
    for pack in packs:
        by_group.setdefault(pack.group, []).append(pack)
    groups = list(by_group.values())
    size = questions or max(1, len(groups))
    return [[p for g in groups[i : i + size] for p in g] for i in range(0, len(groups), size)]


def micro_batches(packs: Sequence[PromptPack], max_tokens_per_microbatch: int) -> list[list[PromptPack]]:
    """Packs in order, as many as fit the budget; a pack that does not fit is cut into sub-packs that repeat its prompt."""
    batches: list[list[PromptPack]] = []
    room = 0
    for pack in (part for p in packs for part in cut(p, max_tokens_per_microbatch)):
        size = num_tokens(pack)
        if size > room:
            batches.append([])
            room = max_tokens_per_microbatch
        batches[-1].append(pack)
        room -= size
    return batches


def cut(pack: PromptPack, max_tokens_per_microbatch: int) -> list[PromptPack]:
    """The pack itself where it fits, else sub-packs; a single completion is never cut, even where it alone is too long."""
    if num_tokens(pack) <= max_tokens_per_microbatch:
        return [pack]
    prompt, size = len(pack.prompt.input_ids), 0
    parts: list[list[int]] = []
    current: list[int] = []
    for i, completion in enumerate(pack.completions):
        length = len(completion.token_ids)
        if current and prompt + size + length > max_tokens_per_microbatch:
            parts.append(current)
            current, size = [], 0
        current.append(i)
        size += length
    return [select(pack, rows) for rows in [*parts, current]]


def select(pack: PromptPack, rows: Sequence[int]) -> PromptPack:
    """The pack with some of its completions; their credit goes with them unchanged."""
    index = np.asarray(rows, dtype=np.int64)
    return replace(
        pack,
        completions=tuple(pack.completions[i] for i in rows),
        advantages=pack.advantages[index],
        native=pack.native[index],
        old_logprobs=None if pack.old_logprobs is None else tuple(pack.old_logprobs[i] for i in rows),
    )


def num_tokens(pack: PromptPack) -> int:
    """Tokens that run through the model: the prompt once and every completion once."""
    return len(pack.prompt.input_ids) + sum(len(c.token_ids) for c in pack.completions)


@dataclass(frozen=True)
class MicroBatch:
    """Packs that run together. A pair is a pack and one of its completions; `pairs` numbers them over the whole update.

    The last `fillers` packs weigh nothing: they keep a rank in step with the others.
    """

    packs: tuple[PromptPack, ...]
    pairs: tuple[int, ...]
    fillers: int = 0


@dataclass(frozen=True)
class Minibatch:
    """One optimizer step of one rank: what all ranks' losses are divided by, and this one's micro-batches."""

    denominator: Denominator
    micro: tuple[MicroBatch, ...]


@dataclass(frozen=True)
class UpdateShare:
    """What one rank does in an update, and facts of the whole update: its packs, and those that need no pass.

    Shared copies of a completion have the same tokens: `starts` [pairs] is where each pair's tokens lie in a row of the
    update's distinct completions, `tokens` long.
    """

    minibatches: tuple[Minibatch, ...]
    starts: NDArray[np.int64]
    tokens: int
    num_packs: int
    skipped_packs: int

    @property
    def packs(self) -> list[PromptPack]:
        """All packs that this rank runs, in order, fillers among them."""
        return [p for batch in self.minibatches for micro in batch.micro for p in micro.packs]

    def with_packs(self, packs: Sequence[PromptPack]) -> UpdateShare:
        """The same share with other packs in the places of `packs`: with their pixels fetched, say."""
        left = iter(packs)

        def renewed(micro: MicroBatch) -> MicroBatch:
            return replace(micro, packs=tuple(islice(left, len(micro.packs))))

        batches = [replace(b, micro=tuple(renewed(m) for m in b.micro)) for b in self.minibatches]
        return replace(self, minibatches=tuple(batches))


class _Piece(NamedTuple):
    """A pack, or a part of one, with the numbers of its pairs."""

    pack: PromptPack
    pairs: tuple[int, ...]

    @property
    def group(self) -> int:
        return self.pack.group

    @property
    def sees(self) -> bool:
        return bool(self.pack.prompt.images)


def plan_update(packs: Sequence[PromptPack], settings: TrainingSettings, ranks: int) -> list[UpdateShare]:
    """Each rank's share of an update. All have equally many micro-batches in each minibatch, of about equal cost.

    Denominators are counted before anything is cut, so the sum of all ranks' gradients does not depend on `ranks`. Packs
    without any advantage need no pass where no KL pulls on them, and stay in the denominator.
    """
    groups = minibatches(_whole(packs), settings.minibatch_size)
    active = [[p for p in g if settings.kl_in_loss or np.any(p.pack.advantages != 0)] for g in groups]
    return _shares(
        packs, active, [_denominator(g, settings) for g in groups], settings.max_tokens_per_microbatch, ranks
    )


def plan_kl(packs: Sequence[PromptPack], settings: TrainingSettings, ranks: int) -> list[UpdateShare]:
    """Each rank's share of the packs whose KL is asked for (`TrainingStep.kl_of`): every pack once, none left out."""
    return _shares(packs, [_whole(packs)], [count(packs, settings)], settings.max_tokens_per_microbatch, ranks)


def gather_kl(packs: Sequence[PromptPack], parts: Iterable[Mapping[int, float]]) -> list[NDArray[np.float64]]:
    """For each pack the KL of each completion, [G] nats, from what every rank found for its pairs."""
    found = {pair: nats for part in parts for pair, nats in part.items()}
    values = np.asarray([found[pair] for pair in range(len(found))])
    return np.split(values, np.cumsum([len(p.completions) for p in packs])[:-1])


def _whole(packs: Sequence[PromptPack]) -> list[_Piece]:
    ends = accumulate((len(p.completions) for p in packs), initial=0)
    return [_Piece(pack, tuple(range(a, b))) for pack, (a, b) in zip(packs, pairwise(ends), strict=True)]


def _denominator(pieces: Sequence[_Piece], settings: TrainingSettings) -> Denominator:
    return count([p.pack for p in pieces], settings)


def _shares(
    packs: Sequence[PromptPack],
    active: Sequence[Sequence[_Piece]],
    denominators: Sequence[Denominator],
    max_tokens_per_microbatch: int,
    ranks: int,
) -> list[UpdateShare]:
    cuts = [
        _in_order(p, max_tokens_per_microbatch) if ranks == 1 else _over_ranks(p, max_tokens_per_microbatch, ranks)
        for p in active
    ]
    starts, tokens = _token_places(packs)
    skipped = len(packs) - sum(map(len, active))
    return [
        UpdateShare(
            tuple(Minibatch(d, tuple(c[rank])) for d, c in zip(denominators, cuts, strict=True)),
            starts,
            tokens,
            len(packs),
            skipped,
        )
        for rank in range(ranks)
    ]


def _token_places(packs: Sequence[PromptPack]) -> tuple[NDArray[np.int64], int]:
    """Of each pair the place of its first token in a row of all distinct completions, and that row's length."""
    places: dict[int, int] = {}
    starts, end = [], 0
    for completion in (c for p in packs for c in p.completions):
        if id(completion) not in places:  # the packs keep them all alive
            places[id(completion)] = end
            end += len(completion.token_ids)
        starts.append(places[id(completion)])
    return np.asarray(starts, np.int64), end


def _in_order(pieces: Sequence[_Piece], max_tokens_per_microbatch: int) -> list[list[MicroBatch]]:
    """The micro-batches of one rank alone."""
    pairs = iter([pair for piece in pieces for pair in piece.pairs])
    batches = micro_batches([piece.pack for piece in pieces], max_tokens_per_microbatch)
    return [[MicroBatch(tuple(b), tuple(islice(pairs, sum(len(p.completions) for p in b)))) for b in batches]]


def _over_ranks(pieces: Sequence[_Piece], max_tokens_per_microbatch: int, ranks: int) -> list[list[MicroBatch]]:
    """[rank][micro-batch]. Where some ranks show pictures in a step all of them do, or they would wait for each other
    in the vision tower."""
    fillers = {sees: _filler(some) for sees in (True, False) if (some := [p for p in pieces if p.sees == sees])}
    room = max_tokens_per_microbatch
    if len(fillers) == 2:  # a micro-batch without pictures may have to take a filler in
        room = max(max_tokens_per_microbatch - num_tokens(fillers[True].pack), -(-max_tokens_per_microbatch // 2))
    parts = [part for piece in pieces for part in _cut(piece, room)]
    plan = balanced([num_tokens(p.pack) for p in parts], ranks, room)
    filled: list[list[MicroBatch]] = [[] for _ in range(ranks)]
    for step in zip(*plan, strict=True):
        own = [[parts[i] for i in items] for items in step]
        shown = any(p.sees for some in own for p in some)
        for rank, some in enumerate(own):
            fits = bool(some) and (not shown or any(p.sees for p in some))
            filled[rank].append(_micro_batch(some, None if fits else fillers[shown]))
    return filled


def _micro_batch(pieces: Sequence[_Piece], filler: _Piece | None) -> MicroBatch:
    both = [*pieces, filler] if filler else pieces
    pairs = tuple(pair for p in both for pair in p.pairs)
    return MicroBatch(tuple(p.pack for p in both), pairs, fillers=len(both) - len(pieces))


def _cut(piece: _Piece, max_tokens_per_microbatch: int) -> list[_Piece]:
    pairs = iter(piece.pairs)
    return [_Piece(p, tuple(islice(pairs, len(p.completions)))) for p in cut(piece.pack, max_tokens_per_microbatch)]


def _filler(pieces: Sequence[_Piece]) -> _Piece:
    """The cheapest prompt with one completion."""
    single = [
        _Piece(select(p.pack, [row]), (p.pairs[row],))
        for p in pieces
        for row in [int(np.argmin([len(c.token_ids) for c in p.pack.completions]))]
    ]
    return min(single, key=lambda p: num_tokens(p.pack))
