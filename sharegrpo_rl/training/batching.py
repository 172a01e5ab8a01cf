"""An update's packs in minibatches and micro-batches, planned once for all ranks: equally many passes, one denominator.

Pure, and called where the packs are made: it never touches pixels, wherever they are.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice, pairwise
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.config.run import GRPOOptions, RunOptions
from sharegrpo_rl.data.types import PromptPack
from sharegrpo_rl.ops.policy_loss import Denominator
from sharegrpo_rl.training.loss import count, count_kl


@dataclass(frozen=True)
class MicroBatch:
    """Packs that run together. A pair is a pack and one of its completions; `pairs` numbers them over the whole update.

    The last `fillers` packs have no weight: they keep a rank in step with the others.
    """

    packs: tuple[PromptPack, ...]
    pairs: tuple[int, ...]
    fillers: int = 0


@dataclass(frozen=True)
class Minibatch:
    """One optimizer step of one rank: what all ranks' losses and KL are divided by, and this rank's micro-batches."""

    denominator: Denominator
    kl_denominator: Denominator | None
    micro: tuple[MicroBatch, ...]


@dataclass(frozen=True)
class UpdateShare:
    """What one rank does in an update, and of the whole update the number of packs and of those that need no pass.

    Shared copies of a completion have the same tokens: `starts` [pairs] is where each pair's tokens begin in a row of the
    update's distinct completions, `tokens` long.
    """

    minibatches: tuple[Minibatch, ...]
    starts: NDArray[np.int64]
    tokens: int
    num_packs: int
    skipped_packs: int

    @property
    def packs(self) -> list[PromptPack]:
        """All packs that this rank runs, in order, fillers included."""
        return [p for batch in self.minibatches for micro in batch.micro for p in micro.packs]

    def with_packs(self, packs: Sequence[PromptPack]) -> UpdateShare:
        """The same share over other packs, one for each of `packs`: with their pixels fetched, say."""
        remaining = iter(packs)

        def renewed(micro: MicroBatch) -> MicroBatch:
            return replace(micro, packs=tuple(islice(remaining, len(micro.packs))))

        batches = [replace(b, micro=tuple(renewed(m) for m in b.micro)) for b in self.minibatches]
        return replace(self, minibatches=tuple(batches))


def plan_update(
    packs: Sequence[PromptPack], options: RunOptions, ranks: int, prompt_in_each: bool = False
) -> list[UpdateShare]:
    """Each rank's share of an update. All have equally many micro-batches in each minibatch, of about equal cost.

    Denominators are counted before anything is cut, so the sum of all ranks' gradients does not depend on `ranks`. Packs
    in which every advantage is 0 need no pass unless the loss has a KL term, and stay in the denominator.

    prompt_in_each: the model runs the prompt again for each completion (where `Policy.shares_prefix` is False).
    """
    groups = minibatches(_numbered(packs), options.minibatch_size)
    active = [[p for p in g if options.kl_in_loss or np.any(p.pack.advantages != 0)] for g in groups]
    denominators = [_denominators([p.pack for p in g], options) for g in groups]
    return _shares(packs, active, denominators, options.max_tokens_per_microbatch, ranks, prompt_in_each)


def _denominators(packs: Sequence[PromptPack], options: RunOptions) -> tuple[Denominator, Denominator | None]:
    """Of a minibatch's loss, and of its KL where the loss has one."""
    if not options.kl_in_loss:
        return count(packs, options), None
    assert isinstance(options, GRPOOptions)  # no other method has a KL
    return count(packs, options), count_kl(packs, options)


def plan_kl(
    packs: Sequence[PromptPack], options: RunOptions, ranks: int, prompt_in_each: bool = False
) -> list[UpdateShare]:
    """Each rank's share of packs whose KL is measured (`TrainingStep.kl_of`): every pack once, none left out."""
    denominators = [(count(packs, options), None)]
    return _shares(packs, [_numbered(packs)], denominators, options.max_tokens_per_microbatch, ranks, prompt_in_each)


def gather_kl(packs: Sequence[PromptPack], by_rank: Iterable[Mapping[int, float]]) -> list[NDArray[np.float64]]:
    """For each pack the KL of each completion, [G] nats, from every rank's `TrainingStep.kl_of`."""
    by_pair = {pair: nats for part in by_rank for pair, nats in part.items()}
    values = np.asarray([by_pair[pair] for pair in range(len(by_pair))])
    return np.split(values, np.cumsum([len(p.completions) for p in packs])[:-1])


class Grouped(Protocol):
    """Anything that belongs to a seed question: a pack."""

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


def micro_batches(packs: Sequence[PromptPack], max_tokens: int, prompt_in_each: bool = False) -> list[list[PromptPack]]:
    """Packs in order, as many in each micro-batch as fit; one that does not fit is cut into sub-packs."""
    batches: list[list[PromptPack]] = []
    room = 0
    for pack in (part for p in packs for part in cut(p, max_tokens, prompt_in_each)):
        size = num_tokens(pack, prompt_in_each)
        if size > room:
            batches.append([])
            room = max_tokens
        batches[-1].append(pack)
        room -= size
    return batches


def cut(pack: PromptPack, max_tokens: int, prompt_in_each: bool = False) -> list[PromptPack]:
    """Sub-packs that repeat the prompt, or the pack itself where it fits; a completion is never cut, however long."""
    if num_tokens(pack, prompt_in_each) <= max_tokens:
        return [pack]
    prompt, size = len(pack.prompt.input_ids), 0
    once, each = (0, prompt) if prompt_in_each else (prompt, 0)
    parts: list[list[int]] = []
    current: list[int] = []
    for i, completion in enumerate(pack.completions):
        length = len(completion.token_ids) + each
        if current and once + size + length > max_tokens:
            parts.append(current)
            current, size = [], 0
        current.append(i)
        size += length
    return [select(pack, rows) for rows in [*parts, current]]


def select(pack: PromptPack, rows: Sequence[int]) -> PromptPack:
    """The pack with some of its completions; their advantages are unchanged."""
    index = np.asarray(rows, dtype=np.int64)
    return replace(
        pack,
        completions=tuple(pack.completions[i] for i in rows),
        advantages=pack.advantages[index],
        native=pack.native[index],
        old_logprobs=None if pack.old_logprobs is None else tuple(pack.old_logprobs[i] for i in rows),
    )


def num_tokens(pack: PromptPack, prompt_in_each: bool = False) -> int:
    """Tokens that run through the model: every completion once, and the prompt once or with each of them."""
    prompts = len(pack.completions) if prompt_in_each else 1
    return prompts * len(pack.prompt.input_ids) + sum(len(c.token_ids) for c in pack.completions)


def balance(costs: Sequence[int], ranks: int, limit: int) -> list[list[list[int]]]:
    """[rank][micro-batch] -> indices of items, in order; a micro-batch costs `limit` at most, or is one item.

    As few micro-batches as fit; some of the last ones may be empty. Within a step, and over all steps, no two ranks differ
    by more than the most expensive item (longest processing time first: Graham 1969).
    """
    order = sorted(range(len(costs)), key=lambda i: -costs[i])
    steps = min(-(-sum(costs) // (ranks * limit)), -(-len(costs) // ranks))
    while (bins := _fill_bins(order, costs, steps * ranks, limit)) is None:
        steps += 1
    bins.sort(key=lambda b: -sum(costs[i] for i in b))
    dealt: list[list[list[int]]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for step in range(steps):
        least_loaded_first = sorted(range(ranks), key=lambda r: loads[r])
        for rank, items in zip(least_loaded_first, bins[step * ranks : (step + 1) * ranks], strict=True):
            dealt[rank].append(sorted(items))
            loads[rank] += sum(costs[i] for i in items)
    return dealt


def _fill_bins(order: Sequence[int], costs: Sequence[int], count: int, limit: int) -> list[list[int]] | None:
    """Each item into the bin with the smallest load so far; None where one does not fit."""
    bins: list[list[int]] = [[] for _ in range(count)]
    heap = [(0, b) for b in range(count)]
    for item in order:
        load, smallest = heap[0]
        if load and load + costs[item] > limit:
            return None
        heapq.heapreplace(heap, (load + costs[item], smallest))
        bins[smallest].append(item)
    return bins


class _NumberedPack(NamedTuple):
    """A pack, or a sub-pack, with the numbers of its pairs."""

    pack: PromptPack
    pairs: tuple[int, ...]

    @property
    def group(self) -> int:
        return self.pack.group

    @property
    def has_images(self) -> bool:
        return bool(self.pack.prompt.images)

    def cut(self, max_tokens: int, prompt_in_each: bool) -> list[_NumberedPack]:
        pairs, parts = iter(self.pairs), cut(self.pack, max_tokens, prompt_in_each)
        return [_NumberedPack(p, tuple(islice(pairs, len(p.completions)))) for p in parts]


def _numbered(packs: Sequence[PromptPack]) -> list[_NumberedPack]:
    ends = accumulate((len(p.completions) for p in packs), initial=0)
    return [_NumberedPack(pack, tuple(range(a, b))) for pack, (a, b) in zip(packs, pairwise(ends), strict=True)]


def _shares(
    packs: Sequence[PromptPack],
    active: Sequence[Sequence[_NumberedPack]],
    denominators: Sequence[tuple[Denominator, Denominator | None]],
    max_tokens: int,
    ranks: int,
    prompt_in_each: bool,
) -> list[UpdateShare]:
    cuts = [
        _in_order(p, max_tokens, prompt_in_each) if ranks == 1 else _over_ranks(p, max_tokens, ranks, prompt_in_each)
        for p in active
    ]
    starts, tokens = _token_starts(packs)
    skipped = len(packs) - sum(map(len, active))
    return [
        UpdateShare(
            tuple(Minibatch(*d, tuple(c[rank])) for d, c in zip(denominators, cuts, strict=True)),
            starts,
            tokens,
            len(packs),
            skipped,
        )
        for rank in range(ranks)
    ]


def _token_starts(packs: Sequence[PromptPack]) -> tuple[NDArray[np.int64], int]:
    """Where each pair's tokens begin in a row of all distinct completions, and that row's length.

    Shared copies of a completion are one; a replayed copy, which has log-probs of its own, is another.
    """
    start_of: dict[tuple[int, bool], int] = {}
    starts, end = [], 0
    for completion, replayed in ((c, p.old_logprobs is not None) for p in packs for c in p.completions):
        key = id(completion), replayed  # the packs keep them all alive
        if key not in start_of:
            start_of[key] = end
            end += len(completion.token_ids)
        starts.append(start_of[key])
    return np.asarray(starts, np.int64), end


def _in_order(packs: Sequence[_NumberedPack], max_tokens: int, prompt_in_each: bool) -> list[list[MicroBatch]]:
    """The micro-batches of a single rank."""
    pairs = iter([pair for p in packs for pair in p.pairs])
    batches = micro_batches([p.pack for p in packs], max_tokens, prompt_in_each)
    return [[MicroBatch(tuple(b), tuple(islice(pairs, sum(len(p.completions) for p in b)))) for b in batches]]


def _over_ranks(
    packs: Sequence[_NumberedPack], max_tokens: int, ranks: int, prompt_in_each: bool
) -> list[list[MicroBatch]]:
    """[rank][micro-batch]. If one rank shows images in a step all of them do, or they would wait for each other in the
    vision tower."""
    fillers = {
        with_images: _filler(candidates)
        for with_images in (True, False)
        if (candidates := [p for p in packs if p.has_images == with_images])
    }
    room = max_tokens
    if len(fillers) == 2:  # a micro-batch without images may have to take a filler in
        room = max(max_tokens - num_tokens(fillers[True].pack), -(-max_tokens // 2))
    parts = [part for p in packs for part in p.cut(room, prompt_in_each)]
    costs = [num_tokens(p.pack, prompt_in_each) for p in parts]
    filled: list[list[MicroBatch]] = [[] for _ in range(ranks)]
    for step in zip(*balance(costs, ranks, room), strict=True):
        by_rank = [[parts[i] for i in items] for items in step]
        images_in_step = any(p.has_images for rank_parts in by_rank for p in rank_parts)
        for rank, rank_parts in enumerate(by_rank):
            in_step = bool(rank_parts) and (not images_in_step or any(p.has_images for p in rank_parts))
            run = rank_parts if in_step else [*rank_parts, fillers[images_in_step]]
            pairs = tuple(pair for p in run for pair in p.pairs)
            filled[rank].append(MicroBatch(tuple(p.pack for p in run), pairs, fillers=len(run) - len(rank_parts)))
    return filled


def _filler(packs: Sequence[_NumberedPack]) -> _NumberedPack:
    """The cheapest prompt with one completion."""
    single = []
    for p in packs:
        shortest = int(np.argmin([len(c.token_ids) for c in p.pack.completions]))
        single.append(_NumberedPack(select(p.pack, [shortest]), (p.pairs[shortest],)))
    return min(single, key=lambda p: num_tokens(p.pack))
