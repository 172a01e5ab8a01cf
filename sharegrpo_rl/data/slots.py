"""Which wording and which image transform stand at each place of a question's group: pure, seeded, without pixels."""

from __future__ import annotations

from collections import Counter

import numpy as np

from sharegrpo_rl.data.seeding import derive_seed
from sharegrpo_rl.data.transforms import TRANSFORMS, check_names
from sharegrpo_rl.data.types import SeedQuestion, Slot
from sharegrpo_rl.errors import UserError


def plan_slots(
    question: SeedQuestion,
    *,
    num_variants: int,
    transform_probability: float,
    include_original: str,
    wording: str,
    strict_variants: bool,
    allowed: tuple[str, ...],
    seed: int,
) -> tuple[Slot, ...]:
    """1 to `num_variants` slots whose prompts all differ; equal arguments give equal slots.

    Wordings are drawn without repeats. Where they are fewer than `num_variants` they are reused in turn, and a
    reused text always carries a transform of `allowed`, another one each time (noise may come again under a new
    seed). Where none is left the group is shorter; `strict_variants` makes too few wordings a UserError.
    """
    check_names(allowed)
    if not question.images:
        allowed = ()
    rng = np.random.default_rng(derive_seed("slots", seed))
    texts = _draw_wordings(question, num_variants, include_original, wording, rng)
    if strict_variants and len(texts) < num_variants:
        raise UserError(
            f"question {question.id} has {len(texts)} wording(s), num_variants is {num_variants}; "
            "add wordings, lower num_variants, or set strict_variants to false"
        )
    texts = [texts[place % len(texts)] for place in range(num_variants)]
    uses = Counter(texts)
    taken: dict[int, set[str | None]] = {text: set() for text in texts}
    slots: list[Slot] = []
    for place, text in enumerate(texts):
        if not taken[text]:
            name = _first_transform(allowed, uses[text], transform_probability, rng)
        elif options := _reuse_options(allowed, taken[text]):
            name = options[rng.integers(len(options))]
        else:
            continue  # the same prompt again would teach nothing: the group shrinks
        taken[text].add(name)
        transform_seed = derive_seed("transform", seed, place) if name else 0
        slots.append(Slot(len(slots), text, name, transform_seed))
    return tuple(slots)


def _draw_wordings(
    question: SeedQuestion, num_variants: int, include_original: str, wording: str, rng: np.random.Generator
) -> list[int]:
    """At most `num_variants` different indices into the question's wordings, in drawn order."""
    if wording == "original":
        return [0]
    order = [int(index) for index in rng.permutation(len(question.wordings))]
    if include_original == "always" and num_variants >= 2:
        order = [0, *(index for index in order if index != 0)]
    return order[:num_variants]


def _first_transform(allowed: tuple[str, ...], uses: int, probability: float, rng: np.random.Generator) -> str | None:
    """A transform with the given probability, unless the text's later uses need all that there are."""
    draw, choice = rng.random(), rng.random()
    repeatable = any(TRANSFORMS[name].seeded for name in allowed)
    if draw >= probability or not (repeatable or len(allowed) >= uses):
        return None
    return allowed[int(choice * len(allowed))]


def _reuse_options(allowed: tuple[str, ...], taken: set[str | None]) -> list[str]:
    """Transforms that make this text a new prompt: unused ones first, then those that another seed makes new."""
    unused = [name for name in allowed if name not in taken]
    return unused or [name for name in allowed if TRANSFORMS[name].seeded]
