"""Answer formats are strict about their layout."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.grader import ANSWER_FORMATS

TAGGED, BOXED = ANSWER_FORMATS["think_answer"], ANSWER_FORMATS["boxed"]


@pytest.mark.parametrize(
    ("text", "well_formed"),
    [
        ("<think>so</think><answer>5</answer>", True),
        (" <think>so</think>\n<answer>5</answer>\n", True),
        ("<think>a < b</think><answer>5</answer>", True),
        ("<think></think><answer>5</answer>", False),
        ("<think>so</think><answer> </answer>", False),
        ("<think>so</think><answer>5</answer> and more", False),
        ("first <think>so</think><answer>5</answer>", False),
        ("<think>so</think> hence <answer>5</answer>", False),
        ("<answer>5</answer><think>so</think>", False),
        ("<think>so</think><answer>5</answer><answer>5</answer>", False),
        ("<think>so<think>so</think></think><answer>5</answer>", False),
        ("<think>so<answer>5</answer></think>", False),
        ("<answer>5</answer>", False),
        ("5", False),
        ("", False),
    ],
)
def test_think_answer(text: str, well_formed: bool) -> None:
    assert TAGGED.matches(text) is well_formed


@pytest.mark.parametrize(
    ("text", "well_formed"),
    [
        ("<think>so</think>\\boxed{5}", True),
        ("<think>so \\boxed{3}</think>The answer is \\boxed{\\frac{1}{2}}.", True),
        ("<think>so</think>\\boxed{}", False),
        ("<think>so</think>\\boxed{5", False),
        ("<think>so</think>\\boxed{5} \\boxed{5}", False),
        ("<think></think>\\boxed{5}", False),
        ("\\boxed{5}", False),
        ("\\boxed{5}<think>so</think>", False),
        ("<think>\\boxed{5}</think>", False),
    ],
)
def test_boxed(text: str, well_formed: bool) -> None:
    assert BOXED.matches(text) is well_formed


def test_the_prompts_own_words_are_no_completion() -> None:
    for form in ANSWER_FORMATS.values():
        assert not form.matches(form.instruction)


def test_two_different_answers_are_no_answer() -> None:
    assert TAGGED.extract("<think>so</think><answer>5</answer><answer>6</answer>") is None
    assert BOXED.extract("<think>so</think>\\boxed{5} or \\boxed{6}") is None
    assert BOXED.extract("<think>\\boxed{1}</think>\\boxed{5}") == "5"


words = st.text(alphabet="abc 123+-=.,", min_size=1).filter(lambda text: bool(text.strip(" .,")))


@pytest.mark.parametrize("name", sorted(ANSWER_FORMATS))
@given(thought=words, answer=words)
def test_what_is_rendered_is_well_formed_and_read_back(name: str, thought: str, answer: str) -> None:
    form = ANSWER_FORMATS[name]
    text = form.render(thought, answer)
    assert form.matches(text)
    assert form.extract(text) == answer.strip()
