"""What an iteration trains on: the groups that a selection keeps, and replayed completions where groups lack advantages.

Selections look at whole groups and raw accuracy, on the driver, before anything is cut or sharded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.config.registry import SelectionFunction
from sharegrpo_rl.config.run import GRPOOptions
from sharegrpo_rl.data.types import Completion, Group, Prompt, PromptPack, Slot, SlotRequest
from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.ops.advantages import dynamic_sampling, online_filter, replay_probabilities


@dataclass(frozen=True)
class RolloutBatch:
    """What an iteration sampled: all groups, those it trains on, and how many batches and requests that took."""

    groups: list[Group]
    trained: list[Group]
    requests: int
    errors: list[str | None] = field(default_factory=list)  # of the grader, for each completion
    batches: int = 1
    surplus: int = 0  # groups that were kept and not needed

    def metrics(self) -> dict[str, float]:
        """Counts for logging."""
        return {
            "generation_batches": self.batches,
            "sampled_groups": len(self.groups),
            "trained_groups": len(self.trained),
            "surplus_groups": self.surplus,
            "kept_ratio": (len(self.trained) + self.surplus) / len(self.groups),
        }


def select_groups(
    generate: Callable[[int], RolloutBatch], keep: SelectionFunction, options: GRPOOptions
) -> RolloutBatch:
    """Call `generate(first_group)` until the selection `keep` leaves `num_questions` groups, or refuses none.

    Surplus groups are left out, latest first. After `max_generation_batches` training continues with the groups kept so
    far, unless `selection_strict`: then UserError.
    """
    groups: list[Group] = []
    errors: list[str | None] = []
    requests = batches = 0
    while True:
        batch = generate(len(groups))
        groups += batch.groups
        errors += batch.errors
        requests += batch.requests
        batches += 1
        kept = keep(groups, options)
        too_few = len(kept) < min(options.num_questions, len(groups))
        if not too_few or batches == options.max_generation_batches:
            break
    if too_few and options.selection_strict:
        raise UserError(
            f"selection: after {batches} generation batches {len(kept)} of {options.num_questions} groups pass "
            f"{options.selection}; raise max_generation_batches, change the questions, or set selection_strict: false"
        )
    trained = kept[: options.num_questions]
    return RolloutBatch(groups, trained, requests, errors, batches, len(kept) - len(trained))


def keep_all(groups: list[Group], options: GRPOOptions) -> list[Group]:
    """`selection: none`."""
    return groups


def keep_differing(groups: list[Group], options: GRPOOptions) -> list[Group]:
    """`selection: dynamic_sampling`."""
    return [g for g in groups if dynamic_sampling(g.accuracies)]


def keep_in_band(groups: list[Group], options: GRPOOptions) -> list[Group]:
    """`selection: online_filter`."""
    return [g for g in groups if online_filter(g.accuracies, options.filter_low, options.filter_high)]


@dataclass(frozen=True)
class Replayed:
    """A stored completion: the question and slot it answered, its advantage, and the iteration that sampled it.

    old_logprobs [T]: by the learner's policy of that time, whole where the sampler's are cut to the nucleus.
    """

    question_index: int
    slot: Slot
    completion: Completion
    old_logprobs: NDArray[np.float32]
    advantage: float
    iteration: int

    @property
    def prompt_key(self) -> tuple[int, Slot]:
        """What its prompt is rendered from."""
        return self.question_index, self.slot


class ReplayBuffer:
    """Selective sample replay (VL-Rethinker): the last `size` completions whose advantage is not 0.

    It draws single completions with p proportional to |A|^alpha (Skywork's buffer does the same with whole groups). Their
    log-probs by the learner's policy of that time are stored, so that the ratio is taken against the policy that wrote
    them. Shared completions are stored once, under the prompt that they were sampled from. Prompts are rendered again.
    """

    def __init__(self, size: int) -> None:
        self.entries: deque[Replayed] = deque(maxlen=size)
        self._drawn: list[Replayed] = []

    def add(
        self,
        packs: Sequence[PromptPack],
        groups: Sequence[Group],
        sampled_logprobs: Mapping[int, NDArray[np.float32]],
        iteration: int,
    ) -> None:
        """Store the native completions of `groups`, as an update trained them in `packs`, that have an advantage.

        sampled_logprobs: the learner's before that update, by the pair's number among all completions of the packs.
        """
        sources = {(g.group, slot.slot): (g.question_index, slot) for g in groups for slot in g.slots}
        pairs = count()
        for pack in packs:
            for completion, advantage, native in zip(pack.completions, pack.advantages, pack.native, strict=True):
                pair = next(pairs)
                if native and advantage != 0 and pack.old_logprobs is None:
                    index, slot = sources[pack.group, pack.slot]
                    old = sampled_logprobs[pair]
                    self.entries.append(Replayed(index, slot, completion, old, float(advantage), iteration))

    def fill(
        self,
        packs: Sequence[PromptPack],
        options: GRPOOptions,
        seed: int,
        iteration: int,
        render: Callable[[Sequence[SlotRequest]], list[Prompt]],
    ) -> list[PromptPack]:
        """The packs, with drawn completions in place of groups that have no advantage or are missing.

        Each such group gets as many pairs of prompt and completion as a whole one has, so that minibatches keep their
        number and size; without replacement, only as many groups as the buffer fills.
        """
        groups = list(dict.fromkeys(p.group for p in packs))
        useful = {p.group for p in packs if np.any(p.advantages != 0)}
        replaced = [g for g in groups if g not in useful]
        next_group = max(groups, default=-1) + 1
        replaced += range(next_group, next_group + max(0, options.num_questions - len(groups)))
        self._drawn = []
        size = options.num_variants * options.completions_per_prompt()
        if not options.replay_replacement:
            replaced = replaced[: len(self.entries) // size]
        if not replaced or not self.entries:
            return list(packs)
        self._drawn = self._draw(size * len(replaced), options, derive_seed("replay", seed, iteration))
        keys = list(dict.fromkeys(e.prompt_key for e in self._drawn))
        prompts = dict(zip(keys, render([SlotRequest(0, index, slot, 0, 0) for index, slot in keys]), strict=True))
        filled = [p for p in packs if p.group not in replaced]
        for i, group in enumerate(replaced):
            filled += _packs(group, self._drawn[i * size : (i + 1) * size], prompts)
        return filled

    def _draw(self, count: int, options: GRPOOptions, seed: int) -> list[Replayed]:
        entries = list(self.entries)
        p = replay_probabilities(np.array([e.advantage for e in entries]), options.replay_alpha)
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(entries), size=count, replace=options.replay_replacement, p=p)
        return [entries[i] for i in chosen]

    def metrics(self, iteration: int) -> dict[str, float]:
        """Completions stored, drawn last, and the mean age of those in iterations."""
        ages = [iteration - e.iteration for e in self._drawn]
        return {
            "size": len(self.entries),
            "drawn": len(self._drawn),
            "age_mean": float(np.mean(ages)) if ages else 0.0,
        }

    def get_state(self) -> list[dict[str, Any]]:
        """The entries as plain values and arrays."""
        return [
            {
                "question_index": e.question_index,
                "slot": astuple(e.slot),
                "completion": (e.completion.token_ids, e.completion.sampler_logprobs, e.completion.text),
                "truncated": e.completion.truncated,
                "old_logprobs": e.old_logprobs,
                "advantage": e.advantage,
                "iteration": e.iteration,
            }
            for e in self.entries
        ]

    def set_state(self, state: Sequence[dict[str, Any]]) -> None:
        """Continue from `get_state()`."""
        self.entries.clear()
        for s in state:
            token_ids, logprobs, text = s["completion"]
            completion = Completion(token_ids, logprobs, text, s["truncated"])
            old = s.get("old_logprobs", logprobs)  # of a version that stored the sampler's alone
            self.entries.append(
                Replayed(s["question_index"], Slot(*s["slot"]), completion, old, s["advantage"], s["iteration"])
            )


def _packs(group: int, drawn: Sequence[Replayed], prompts: Mapping[tuple[int, Slot], Prompt]) -> list[PromptPack]:
    """Drawn completions as packs, those of one prompt together."""
    by_prompt: dict[tuple[int, Slot], list[Replayed]] = {}
    for entry in drawn:
        by_prompt.setdefault(entry.prompt_key, []).append(entry)
    return [
        PromptPack(
            group=group,
            slot=i,
            prompt=prompts[key],
            completions=tuple(e.completion for e in entries),
            advantages=np.array([e.advantage for e in entries]),
            native=np.ones(len(entries), bool),
            old_logprobs=tuple(e.old_logprobs for e in entries),
        )
        for i, (key, entries) in enumerate(by_prompt.items())
    ]
