"""Selective sample replay (VL-Rethinker): completions with large advantages are trained on again where groups have none.

The buffer keeps the last `replay_size` completions whose advantage is not 0, with their log-probs at sampling time,
so that the ratio of a replayed completion is taken against the policy that wrote it. It draws single completions with
p proportional to |A|^alpha. Shared completions are not kept: their log-probs under a sibling's prompt are the
learner's. (Skywork's buffer is the same with whole groups.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

import numpy as np

from sharegrpo_rl.data.types import Completion, Group, Prompt, PromptPack, Slot, SlotRequest
from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.ops.advantages import dynamic_sampling, online_filter, replay_probabilities

# ---- Selection: sample batches of questions until enough groups are worth training on.
#
# Rules look at raw accuracy and at whole groups, on the driver, before anything is cut or sharded.


@dataclass(frozen=True)
class Sampled:
    """What an iteration sampled: all groups, those it trains on, and how many batches and requests it took."""

    groups: list[Group]
    kept: list[Group]
    requests: int
    errors: list[str | None] = field(default_factory=list)
    batches: int = 1
    surplus: int = 0

    def metrics(self) -> dict[str, float]:
        """Counts for logging; `surplus_groups` passed the rule and were not needed."""
        return {
            "generation_batches": self.batches,
            "sampled_groups": len(self.groups),
            "trained_groups": len(self.kept),
            "surplus_groups": self.surplus,
            "kept_ratio": (len(self.kept) + self.surplus) / len(self.groups),
        }


def select(generate: Callable[[int], Sampled], config: Any) -> Sampled:
    """Call `generate(first_group)` until `num_questions` groups pass the rule, or the cap of batches is reached.

    Surplus groups are left out, latest first. At the cap training goes on with what there is, unless
    `selection_strict`: then UserError.
    """
    keeps = selection_rule(config)
    if keeps is None:
        return generate(0)
    groups: list[Group] = []
    errors: list[str | None] = []
    requests = batches = 0
    while batches < config.max_generation_batches and _passing(groups, keeps) < config.num_questions:
        batch = generate(len(groups))
        groups += batch.groups
        errors += batch.errors
        requests += batch.requests
        batches += 1
    passing = [g for g in groups if keeps(g)]
    if config.selection_strict and len(passing) < config.num_questions:
        raise UserError(
            f"selection: after {batches} generation batches {len(passing)} of {config.num_questions} groups pass "
            f"{config.selection}; raise max_generation_batches, change the questions, or set selection_strict: false"
        )
    kept = passing[: config.num_questions]
    return Sampled(groups, kept, requests, errors, batches, len(passing) - len(kept))


def selection_rule(config: Any) -> Callable[[Group], bool] | None:
    """Which groups are trained on; None = all."""
    if config.selection == "dynamic_sampling":
        return lambda group: dynamic_sampling(group.accuracies)
    if config.selection == "online_filter":
        return lambda group: online_filter(group.accuracies, config.filter_low, config.filter_high)
    return None


def _passing(groups: list[Group], keeps: Callable[[Group], bool]) -> int:
    return sum(keeps(g) for g in groups)


@dataclass(frozen=True)
class Replayed:
    """A kept completion: which question and slot it answered, its credit, and the iteration that sampled it."""

    question_index: int
    slot: Slot
    completion: Completion
    advantage: float
    iteration: int


class ReplayBuffer:
    """The last `size` completions with an advantage. Prompts are not kept; they are rendered again when drawn."""

    def __init__(self, size: int) -> None:
        self.entries: deque[Replayed] = deque(maxlen=size)
        self._drawn: list[Replayed] = []

    def add(self, packs: Sequence[PromptPack], groups: Sequence[Group], iteration: int) -> None:
        """Keep the native completions of this iteration's packs that have an advantage."""
        places = {(g.group, s.slot): (g.question_index, s) for g in groups for s in g.slots}
        for pack in packs:
            index, slot = places[pack.group, pack.slot]
            for completion, advantage, native in zip(pack.completions, pack.advantages, pack.native, strict=True):
                if native and advantage != 0:
                    self.entries.append(Replayed(index, slot, completion, float(advantage), iteration))

    def fill(
        self,
        packs: Sequence[PromptPack],
        config: Any,
        iteration: int,
        prompts: Callable[[Sequence[SlotRequest]], list[Prompt]],
    ) -> list[PromptPack]:
        """The packs, with drawn completions in place of groups that have no advantage or were not found.

        Each such group takes num_variants x num_generations completions, so that minibatches keep their number and size.
        """
        groups = list(dict.fromkeys(p.group for p in packs))
        alive = {p.group for p in packs if np.any(p.advantages != 0)}
        vanished = [g for g in groups if g not in alive]
        fresh = max(groups, default=-1) + 1
        vanished += range(fresh, fresh + max(0, config.num_questions - len(groups)))
        self._drawn = []
        if not vanished or not self.entries:
            return list(packs)
        size = config.num_variants * config.num_generations
        self._drawn = self._draw(size * len(vanished), config, iteration)
        kept = [p for p in packs if p.group in alive]
        places = list(dict.fromkeys((e.question_index, e.slot) for e in self._drawn))
        requests = [SlotRequest(0, index, slot, 0, 0) for index, slot in places]
        rendered = dict(zip(places, prompts(requests), strict=True))
        for i, group in enumerate(vanished):
            kept += _packs(group, self._drawn[i * size : (i + 1) * size], rendered)
        return kept

    def _draw(self, count: int, config: Any, iteration: int) -> list[Replayed]:
        entries = list(self.entries)
        p = replay_probabilities(np.array([e.advantage for e in entries]), config.replay_alpha)
        rng = np.random.default_rng(derive_seed("replay", config.seed or 0, iteration))
        if not config.replay_replacement:
            count = min(count, len(entries))
        chosen = rng.choice(len(entries), size=count, replace=config.replay_replacement, p=p)
        return [entries[i] for i in chosen]

    def metrics(self, iteration: int) -> dict[str, float]:
        """How many completions are kept, how many were drawn last, and how many iterations old those were."""
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
                "advantage": e.advantage,
                "iteration": e.iteration,
            }
            for e in self.entries
        ]

    def set_state(self, state: Sequence[dict[str, Any]]) -> None:
        """Go on from `get_state()`."""
        self.entries.clear()
        for s in state:
            token_ids, logprobs, text = s["completion"]
            completion = Completion(token_ids, logprobs, text, s["truncated"])
            self.entries.append(
                Replayed(s["question_index"], Slot(*s["slot"]), completion, s["advantage"], s["iteration"])
            )


def _packs(group: int, drawn: Sequence[Replayed], prompts: Mapping[tuple[int, Slot], Prompt]) -> list[PromptPack]:
    """Drawn completions as packs, those of one prompt together."""
    by_prompt: dict[tuple[int, Slot], list[Replayed]] = {}
    for entry in drawn:
        by_prompt.setdefault((entry.question_index, entry.slot), []).append(entry)
    packs = []
    for i, (place, entries) in enumerate(by_prompt.items()):
        packs.append(
            PromptPack(
                group=group,
                slot=i,
                prompt=prompts[place],
                completions=tuple(e.completion for e in entries),
                advantages=np.array([e.advantage for e in entries]),
                native=np.ones(len(entries), bool),
                old_logprobs=tuple(e.completion.sampler_logprobs for e in entries),
            )
        )
    return packs
