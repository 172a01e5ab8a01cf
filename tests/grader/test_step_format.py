"""The answer format `steps`: strict about its sections, indifferent to white space."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.grader import ANSWER_FORMATS, grade, grade_file

FORM = ANSWER_FORMATS["steps"]
SECTIONS = [
    "### Image Description: two dots",
    "### Rationales: counting",
    "### Step 1: 1 + 1",
    "### Step 2: = 2",
    "### The final answer is: 2",
]
WHOLE = "\n".join(SECTIONS)


@pytest.mark.parametrize(
    ("text", "well_formed"),
    [
        (WHOLE, True),
        (f"\n {WHOLE} \n", True),
        (WHOLE.replace(": ", ":\n"), True),
        (WHOLE.replace("### Step 1", "### Let's think step by step.\n\n### Step 1"), True),
        (WHOLE.replace("two dots", "two dots (#1 and #2), #### all"), True),
        (f"First: {WHOLE}", False),
        (WHOLE.replace("two dots", ""), False),
        (WHOLE.replace("two dots", "\u200b"), False),
        (WHOLE.replace("counting", ""), False),
        (WHOLE.replace("1 + 1", " "), False),
        (WHOLE.replace("is: 2", "is:"), False),
        (WHOLE.replace("Step 2", "Step 3"), False),
        (WHOLE.replace("Step 1", "Step 0"), False),
        (WHOLE.replace("Step 2", "Step 1"), False),
        (WHOLE.replace("### Step 1", "### Let's think step by step. I do\n### Step 1"), False),
        (WHOLE.replace("### Step 2", "### Let's think step by step.\n### Step 2"), False),
        (WHOLE + "\n### Step 3: more", False),
        (WHOLE + "\n### The final answer is: 2", False),
        (WHOLE + "\n### Check: it is", False),
        (WHOLE.replace("Rationales", "Reasons"), False),
        (WHOLE.replace("###", "##"), False),
        ("### Image Description: a\n### Rationales: b\n### The final answer is: c", False),
        ("2", False),
        ("", False),
    ],
)
def test_complete_and_in_order(text: str, well_formed: bool) -> None:
    assert FORM.matches(text) is well_formed


@pytest.mark.parametrize("left_out", [0, 1, 2, 4])
def test_every_section_is_needed(left_out: int) -> None:
    assert not FORM.matches("\n".join(SECTIONS[:left_out] + SECTIONS[left_out + 1 :]))


def test_any_other_order_is_wrong() -> None:
    orders = list(permutations(SECTIONS))
    assert [FORM.matches("\n".join(order)) for order in orders] == [True] + [False] * (len(orders) - 1)


blanks = st.text(alphabet=" \n\t\r\u00a0", min_size=1, max_size=4)


@given(st.lists(blanks, min_size=30, max_size=30))
def test_white_space_never_matters(fillings: list[str]) -> None:
    words = WHOLE.split()
    text = fillings[-1] + "".join(word + blank for word, blank in zip(words, fillings, strict=False))
    assert FORM.matches(text)
    assert FORM.extract(text) == "2"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (WHOLE, "2"),
        ("### The final answer is: $\\boxed{\\frac{1}{2}}$", "\\frac{1}{2}"),
        ("### The final answer is:\n\n3 cm\n", "3 cm"),
        ("### The final answer is: 2\n### The final answer is: 2", "2"),
        ("### The final answer is: 2\n### The final answer is: 3", None),
        ("### The final answer is: 2\n### Step 1: no, 3", "2"),
        ("### The final answer is: ", None),
        ("### The final answer is:\n### Step 1: 3", None),
        ("The final answer is: 2", None),
        ("### Step 1: 2", None),
        ("", None),
    ],
)
def test_the_answer_is_the_final_section(text: str, answer: str | None) -> None:
    assert FORM.extract(text) == answer


def test_targets_have_the_steps_they_are_given() -> None:
    text = FORM.render("I look.", "5", ("2 + 3", "= 5"))
    assert text.startswith("### Image Description: I look.")
    assert text.endswith("### Step 1: 2 + 3\n### Step 2: = 5\n### The final answer is: 5")
    assert FORM.matches(text)


def test_a_solution_becomes_steps() -> None:
    assert "### Step 1: first\n### Step 2: then\n### The final" in FORM.render("first\n\nthen", "5")
    assert "### Step 1: a\n### Step 2: b\n### The final" in FORM.render("### Step 1: a\n### Step 2: b", "5")


def test_a_solution_in_this_layout_stays_as_it_is() -> None:
    assert FORM.render(WHOLE, "2") == WHOLE
    assert FORM.render(WHOLE, "B", ("other",)) == WHOLE.removesuffix("2") + "B"


pieces = st.lists(st.sampled_from(["### ", "Step 1:", "#", "\n", "so", "5", "### Rationales:"]), min_size=1).map(
    "".join
)
filled = pieces.map(lambda text: f"say {text} this")


@given(filled, st.lists(filled, max_size=3))
def test_headings_inside_a_target_do_no_harm(thought: str, steps: list[str]) -> None:
    text = FORM.render(thought, "5", tuple(steps))
    assert FORM.matches(text)
    assert FORM.extract(text) == "5"


def test_other_formats_leave_steps_out() -> None:
    for name in ("think_answer", "boxed"):
        form = ANSWER_FORMATS[name]
        assert form.render("so", "5", ("2 + 3",)) == form.render("so", "5")


def test_grading_by_the_final_section(tmp_path) -> None:
    response = WHOLE.replace("1 + 1", "the answer is 3, \\boxed{3}, <answer>3</answer>")
    assert grade(response, "2", extract="steps").score == 1
    assert grade(response, "3", extract="steps").score == 0
    assert grade(response + "\n### The final answer is: 3", "2", extract="steps").score == 0
    nothing = grade("The answer is 2.", "2", extract="steps")
    assert (nothing.score, nothing.extracted) == (0.0, None)
    path = tmp_path / "r.jsonl"
    path.write_text('{"response": "### The final answer is: 2", "gold": "2", "label": true}')
    assert list(grade_file(path, "steps"))[-1]["summary"]["agree"] == 1
