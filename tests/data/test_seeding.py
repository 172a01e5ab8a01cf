from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.data.variants import derive_seed

PARTS = st.lists(st.text(max_size=5) | st.integers(-(2**70), 2**70), max_size=4)


def test_known_values_never_change() -> None:
    assert derive_seed() == 6510301506637419378
    assert derive_seed("a", 1) == 2073567050244032484


@given(PARTS, PARTS)
def test_different_parts_give_different_seeds(one: list, other: list) -> None:
    assert (derive_seed(*one) == derive_seed(*other)) == (one == other)


@given(PARTS)
def test_seeds_fit_in_63_bits(parts: list) -> None:
    assert 0 <= derive_seed(*parts) < 2**63
