from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.data.images import EncodedImage
from sharegrpo_rl.data.transforms import TRANSFORMS
from sharegrpo_rl.data.types import SeedQuestion, Slot
from sharegrpo_rl.data.variants import plan_slots
from sharegrpo_rl.errors import UserError

ALLOWED = st.lists(st.sampled_from(sorted(TRANSFORMS)), unique=True).map(tuple)
PLANS = st.fixed_dictionaries(
    {
        "num_wordings": st.integers(1, 6),
        "num_variants": st.integers(1, 8),
        "transform_probability": st.sampled_from([0.0, 0.3, 1.0]),
        "include_original": st.sampled_from(["always", "sampled"]),
        "wording": st.sampled_from(["random", "original"]),
        "allowed": ALLOWED,
        "seed": st.integers(0, 2**63 - 1),
    }
)


def question(num_wordings: int, with_image: bool = True) -> SeedQuestion:
    images = (EncodedImage(b"", "x"),) if with_image else ()
    return SeedQuestion("q7", "w0", "1", images=images, variants=tuple(f"w{i}" for i in range(1, num_wordings)))


def plan(num_wordings: int = 3, strict_variants: bool = False, with_image: bool = True, **settings) -> tuple[Slot, ...]:
    defaults = {
        "num_variants": 2,
        "transform_probability": 0.3,
        "include_original": "always",
        "wording": "random",
        "allowed": (),
        "seed": 0,
    }
    return plan_slots(question(num_wordings, with_image), strict_variants=strict_variants, **{**defaults, **settings})


@given(PLANS)
def test_equal_arguments_give_equal_slots(settings: dict) -> None:
    assert plan(**settings) == plan(**settings)


@given(PLANS)
def test_slots_are_numbered_and_no_prompt_occurs_twice(settings: dict) -> None:
    slots = plan(**settings)
    assert [slot.slot for slot in slots] == list(range(len(slots)))
    seeded = {name for name in TRANSFORMS if TRANSFORMS[name].seeded}
    prompts = [
        (slot.variant_index, slot.transform, slot.transform_seed if slot.transform in seeded else 0) for slot in slots
    ]
    assert len(set(prompts)) == len(prompts)


@given(PLANS)
def test_no_wording_is_lost_and_transforms_come_from_the_list(settings: dict) -> None:
    slots = plan(**settings)
    available = settings["num_wordings"] if settings["wording"] == "random" else 1
    assert len({slot.variant_index for slot in slots}) == min(available, settings["num_variants"])
    assert all(0 <= slot.variant_index < available for slot in slots)
    assert {slot.transform for slot in slots} <= {None, *settings["allowed"]}


@given(PLANS)
def test_a_reused_text_always_has_a_transform(settings: dict) -> None:
    seen = set()
    for slot in plan(**settings):
        assert slot.variant_index not in seen or slot.transform is not None
        seen.add(slot.variant_index)


@given(PLANS)
def test_the_group_shrinks_only_where_transforms_run_out(settings: dict) -> None:
    slots = plan(**settings)
    available = settings["num_wordings"] if settings["wording"] == "random" else 1
    wanted, allowed = settings["num_variants"], settings["allowed"]
    endless = any(TRANSFORMS[name].seeded for name in allowed)
    full = wanted if endless else min(wanted, available * (1 + len(allowed)))
    assert len(slots) == full


@given(PLANS)
def test_reuse_takes_turns(settings: dict) -> None:
    uses = Counter(slot.variant_index for slot in plan(**settings))
    assert max(uses.values()) - min(uses.values()) <= 1


@given(PLANS.filter(lambda s: s["num_variants"] >= 2))
def test_the_original_wording_is_always_in_the_group(settings: dict) -> None:
    assert plan(**{**settings, "include_original": "always"})[0].variant_index == 0


def test_one_variant_draws_its_wording() -> None:
    drawn = Counter(plan(num_variants=1, seed=seed)[0].variant_index for seed in range(600))
    assert set(drawn) == {0, 1, 2}
    assert min(drawn.values()) > 150
    assert {plan(num_variants=1, wording="original", seed=seed)[0].variant_index for seed in range(20)} == {0}


def test_the_original_can_be_drawn_like_the_others() -> None:
    groups = [plan(include_original="sampled", seed=seed) for seed in range(600)]
    share = sum(any(slot.variant_index == 0 for slot in slots) for slots in groups) / len(groups)
    assert abs(share - 2 / 3) < 0.06


def test_transforms_come_with_the_given_probability() -> None:
    slots = [slot for seed in range(2000) for slot in plan(allowed=("noise_10", "flip_vertical"), seed=seed)]
    counts = Counter(slot.transform for slot in slots)
    assert abs(counts[None] / len(slots) - 0.7) < 0.03
    assert abs(counts["noise_10"] / len(slots) - 0.15) < 0.03


def test_text_without_image_shrinks_to_its_wordings() -> None:
    assert len(plan(num_wordings=1, num_variants=3, with_image=False, allowed=("noise_10",))) == 1


def test_strict_variants_names_the_question() -> None:
    with pytest.raises(UserError, match=r"q7.*num_variants is 4"):
        plan(num_variants=4, strict_variants=True)
    assert len(plan(num_variants=3, strict_variants=True)) == 3
