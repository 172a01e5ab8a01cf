"""Ground truths: every form in which data sets write them, what is refused, and what a number beside choices means."""

from contextlib import suppress
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.data.gold import Gold, Note, last_boxed, read_gold, thought_of
from sharegrpo_rl.errors import UserError

PLAIN = st.text(st.characters(categories=["L", "N", "Zs"]), min_size=1, max_size=12).filter(
    lambda text: text.strip() and text.strip().lower() not in ("nan", "nat") and "answer" not in text.lower()
)


def gold(value: object, *choices: str, last_box: bool = False) -> Gold:
    return read_gold(value, choices, "train.jsonl line 5: answer", last_box=last_box)


@pytest.mark.parametrize(
    ("text", "answer", "worked", "note"),
    [
        ("2", "2", None, None),
        ("<answer> 2 </answer>", "2", None, Note.TAGS),
        ("<ANSWER>2</ANSWER>", "2", None, Note.TAGS),
        ("<think> I count. </think><answer> 2 </answer>", "2", "I count.", Note.TAGS),
        ("<think>\n</think>\n\n<answer>2</answer>", "2", None, Note.TAGS),
        ("I count.</think> <answer>2</answer>", "2", "I count.", Note.TAGS),
        ("<reasoning>I count.</reasoning><answer>2</answer>", "2", "I count.", Note.TAGS),
        ("<answer>2</answer><think>I count.</think>", "2", "I count.", Note.TAGS),
        ("I count. <answer>2</answer>", "2", "I count.", Note.TAGS),
        ("<answer>2</answer> or else <answer>2</answer>", "2", "or else", Note.TAGS),
        (r"<think>I count.</think><answer>$\boxed{2}$</answer>", "2", "I count.", Note.TAGS),
        ("<think>I count.</think>\n\n2", "2", "I count.", Note.AFTER_THOUGHT),
        ("<think></think>2", "2", None, Note.AFTER_THOUGHT),
        (r"<think>Half.</think>It is \boxed{\frac{1}{2}}.", r"\frac{1}{2}", "Half.", Note.BOX),
        (r"\boxed{2}", "2", None, Note.BOX),
        (r"$\boxed{\boxed{2}}$.", "2", None, Note.BOX),
        (r"\fbox {2}", "2", None, Note.BOX),
        (r"So it is \boxed{2}.", "2", r"So it is \boxed{2}.", Note.BOX),
        (r"\boxed{1} and \boxed{2}", r"\boxed{1} and \boxed{2}", None, None),
        ("One and one.\n#### 2", "2", "One and one.", Note.HASHES),
        ("One <<1+1=2>> and one. #### 1,002\n", "1,002", "One <<1+1=2>> and one.", Note.HASHES),
        ("#### 2", "2", None, Note.HASHES),
        ("The answer is 2.", "2", None, Note.ANNOUNCED),
        ("There are dots.\nSo the final answer is: **2**", "2", "There are dots.", Note.ANNOUNCED),
        ("Answer: 3.5\nExplanation: it is so.", "3.5", None, Note.ANNOUNCED),
        ("The answer is D. Green", "D. Green", None, Note.ANNOUNCED),
        ("The answer is 2. Count again.", "2", None, Note.ANNOUNCED),
        ("所以答案是2", "2", None, Note.ANNOUNCED),
        ("There are two dots.", "There are two dots.", None, Note.SENTENCE),
        (r"\frac{1}{2}", r"\frac{1}{2}", None, None),
        ("a ## b #### c\nd", "a ## b #### c\nd", None, None),
    ],
)
def test_the_answer_is_taken_out_of_its_form(text: str, answer: str, worked: str | None, note: Note | None) -> None:
    assert gold(text) == Gold(answer, worked, (note,) if note else ())


@given(PLAIN, PLAIN)
def test_what_a_format_renders_is_read_back(thought: str, answer: str) -> None:
    for text in (f"<think>{thought}</think><answer>{answer}</answer>", f"{thought}\n#### {answer}"):
        read = gold(text)
        assert (read.answer, read.worked) == (answer.strip(), thought.strip())


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    for form in (text, f"<think>{text}", f"{text}</answer>", f"\\boxed{{{text}", f"#### {text}"):
        with suppress(UserError):
            assert gold(form).answer.strip()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("<answer>2", "<answer> without its pair"),
        ("2</answer>", "</answer> without its pair"),
        ("<think>I count. 2", "<think> without its pair"),
        ("<answer>1</answer><answer>2</answer>", "2 different <answer> parts"),
        ("<think>I count.</think>", "is empty"),
        ("<answer></answer>", "is empty"),
        ("There is a dot here and there. " * 8, "a text of 48 words, which no answer can equal"),
        (float("inf"), "is inf"),
        (Decimal("-Infinity"), "is -Infinity"),
        (float("nan"), "is empty"),
        ("NaN", "is empty"),
        ([], "is empty"),
        (["2", "3"], "is a list"),
        ({"a": 1}, "is a dict"),
    ],
)
def test_what_no_answer_can_equal_is_refused(value: object, words: str) -> None:
    with pytest.raises(UserError) as caught:
        gold(value)
    assert words in str(caught.value)


def test_numbers_and_booleans_are_written_out() -> None:
    values = [2, 2.0, 2.5, -3, Decimal("2.50"), True, [7]]
    assert [gold(value).answer for value in values] == ["2", "2.0", "2.5", "-3", "2.50", "true", "7"]


@pytest.mark.parametrize(
    ("value", "choices", "answer", "note"),
    [
        (1, ("red", "blue"), "B", Note.INDEX),
        (1.0, ("red", "blue"), "B", Note.INDEX),  # a column with missing values becomes one of floats
        (1, ("no", "yes"), "yes", Note.INDEX),
        (2, ("1.0", "2.0", "3.0", "4.0"), "2.0", Note.VALUE),
        (2, ("1 cm", "2 cm", "3 cm"), "2 cm", Note.VALUE),
        (2, ("one", "two", "three"), "two", Note.VALUE),
        (2, ("1", "2", "3"), "2", Note.VALUE),
        (1, ("$0$", "$1$"), "$1$", None),
        (40, ("40.0", "50.0"), "40.0", None),
        (2.5, ("2.50 m", "3 m"), "2.50 m", None),
        (4, ("8/2", "3"), "8/2", None),
        (4, ("5", "6"), "4", None),
    ],
)
def test_a_number_beside_choices(value: float, choices: tuple[str, ...], answer: str, note: Note | None) -> None:
    assert gold(value, *choices) == Gold(answer, None, (note,) if note else ())


def test_a_number_that_several_choices_are_is_refused() -> None:
    with pytest.raises(UserError, match=r"is 2, which several choices are \('2 cm', '2 m'\); write the letter"):
        gold(2, "2 cm", "2 m")


@pytest.mark.parametrize("value", [0, "A", "(A)", "a."])
def test_a_gap_is_no_answer(value: object) -> None:
    with pytest.raises(UserError, match="choice A is empty"):
        gold(value, "", "red", "blue")


def test_the_last_box_of_a_worked_solution() -> None:
    assert gold(r"\boxed{1} then \boxed{2}", last_box=True).answer == "2"
    assert last_boxed(r"\boxed{1} then \boxed{2") is None


@pytest.mark.parametrize(
    ("worked", "thought"),
    [
        ("I count 2.", "I count 2."),
        ("I count < 3 and > 1.", "I count < 3 and > 1."),
        ("<think>I count 2.</think><answer>2</answer>", "I count 2."),
        ("<think>\nI count 2.\n</think>\nThe answer is 2.", "I count 2."),
        ("<think>a</think> b <think>c</think><answer>2</answer>", "a b c"),
        ("<think></think>I count 2. <answer>2</answer>", "I count 2."),
        ("I count 2.</think>2", "I count 2."),
        ("<think>I count 2.", "I count 2."),
        ("<answer>2</answer>", None),
    ],
)
def test_a_solution_is_cut_down_to_its_thought(worked: str, thought: str | None) -> None:
    assert thought_of(worked) == thought
