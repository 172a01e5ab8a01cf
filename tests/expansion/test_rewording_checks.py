"""What the rules let through and what they stop, and that they hold for any numbers and names."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.data.loading import load_bank
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.expansion import facts
from sharegrpo_rl.expansion.checks import Fault, Original, find_fault, has_options

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
GEOMETRY = "As shown in the diagram, AB=4*x-17, CD = 2x - 1, ∠BCD=101° and the radius is 5 cm. Find the value of y."
CHOICE = "Which shape in the picture is the largest?\n(A) the red disc (B) the blue square (C) none of them"


def fault(
    text: str, original: str, answer: str = "7", *, images: bool = True, choices: tuple[str, ...] = ()
) -> str | None:
    found = find_fault(text, Original(original, answer, choices, images), ())
    return found.check if found else None


@pytest.mark.parametrize(
    ("original", "rewording"),
    [
        ("How many red circles are in the image?", "Count the circles in the picture that are red."),
        ("What is 3 + 4?", "Add: what does 3+4 come to?"),
        ("A car drives 1,200 m in 2 minutes.", "In two minutes a car covers 1200 metres."),
        ("Find the area in square centimetres.", "What is the area in cm^2?"),
        ("The pole is 5 cm long. Half of it is red.", "A pole measures 5 centimeters, of which 1/2 is red."),
        ("Which one of the twenty-one dots is red?", "Of the 21 dots, which is red?"),
        ("An angle of 30 degrees is drawn.", "Somebody has drawn an angle of 30°."),
        ("It costs $5. What remains of 20%?", "The price is $5. What stays of 20 percent?"),
        ("Is the ball left of the box or not?", "Does the ball lie to the left of the box?"),
        ("Where does triangle ABC touch line m?", "At which place do line m and triangle ABC touch?"),
        (GEOMETRY, "In the figure the radius is 5 cm, ∠BCD=101°, $AB = 4x-17$ and CD=2x-1. What is y?"),
        (
            CHOICE,
            "Tell which of these is largest in the figure.\n(A) the red disc (B) the blue square (C) none of them",
        ),
        ("3 of 8 apples are eaten. How many are left?", "Of 8 apples 3 are eaten. How many remain?"),
        ("Which of the bars is larger?", "Of the bars, which has the greater size?"),
        ("What is the sum of all the sides?", "Add up all sides. What comes out?"),
        ("How big is the area in square metres?", "What is the area (m²)?"),
        ("Is there no circle?", "Does it hold that there isn't a circle?"),
        ("The grey box is full. How many balls are in it?", "The gray box is full. What number of balls does it hold?"),
    ],
)
def test_sound_rewordings_pass(original: str, rewording: str) -> None:
    assert find_fault(rewording, Original(original, "7", (), True), ()) is None


@pytest.mark.parametrize(
    ("original", "rewording", "check"),
    [
        ("How many red circles are in the image?", "How many red circles are in the image", "identical"),
        ("How many red circles are in the image?", "HOW  MANY red circles, are in the IMAGE ?", "identical"),
        ("How many red circles are in the image?", "Red?", "length"),
        ("How many red circles are in the image?", "So: " + "how many of them are there in the image, " * 9, "length"),
        ("How many red circles are in the image?", "How many red\x0ccircles does the image show?", "text"),
        ("How many red circles are in the image?", "How many \ud800 red circles does the image show?", "text"),
        ("How many red circles are in the image?", "Variant 1: the image shows how many red circles?", "text"),
        ("How many red circles are in the image?", "How many red circles are there?", "images"),
        ("How many red circles are in the image?", "How many red circles does the <image> image show?", "images"),
        ("<image> and <image>: are these images equal?", "Are the images <image> the same?", "images"),
        ("What is 3 + 4?", "What is the sum of 3 and 5?", "numbers"),
        ("What is 3 + 4 and 3?", "What is 3 + 4 in all?", "numbers"),
        ("There are two boxes. What is in them?", "There are three boxes. What is in them?", "numbers"),
        ("Take 1 of the boxes. What remains?", "Take the boxes. What remains of them?", "numbers"),
        ("Take the boxes. What remains?", "Take 1 of the boxes. What then remains?", "numbers"),
        ("A pole is 5 cm long.", "The length of a pole is 5 m.", "units"),
        ("A pole is 5 cm long.", "The length of a pole is 5.", "units"),
        ("Give the answer in kilometres.", "How long is it? Give the answer.", "units"),
        ("What is 20% of it?", "What is 20 of it, then?", "units"),
        (GEOMETRY, GEOMETRY.replace("AB=4*x-17", "AB=4*x+17").replace("Find", "Compute"), "symbols"),
        (GEOMETRY, GEOMETRY.replace("value of y", "value of x").replace("Find", "Compute"), "symbols"),
        ("Find the length of side AB.", "How long is the side AC?", "symbols"),
        (CHOICE, "Which shape is largest in the figure?", "choices"),
        (CHOICE, CHOICE.replace("the red disc", "the red ring").replace("Which", "Tell which"), "choices"),
        (CHOICE, CHOICE.replace("(B)", "(D)").replace("Which", "Tell which"), "choices"),
        ("Is there a circle?", "Is there not a circle anywhere?", "meaning"),
        ("Why isn't it round?", "For which reason is it round?", "meaning"),
        ("Is the ball left of the box?", "Does the ball lie to the right of the box?", "meaning"),
        ("Is a red ball there?", "Can one see a blue ball?", "meaning"),
        ("How many squares are there?", "Count the circles that there are.", "meaning"),
        ("Is a dot above a line?", "Does a dot lie below a line?", "meaning"),
        ("Find the area of the garden.", "What is the perimeter of the garden?", "meaning"),
        ("Which of the two bars is larger?", "Of the two bars, which is the smaller one?", "meaning"),
    ],
)
def test_broken_rewordings_are_stopped(original: str, rewording: str, check: str) -> None:
    assert fault(rewording, original) == check


def test_reasons_name_what_was_lost_and_added() -> None:
    found = find_fault("The length of a pole is 7 m.", Original("A pole is 5 cm long.", "7"), ())
    assert found is not None
    assert found.reason == "lost 5 and added 7"
    found = find_fault("The length of a pole is 5 m.", Original("A pole is 5 cm long.", "7"), ())
    assert found is not None
    assert found.reason == "lost cm and added m"


def test_the_answer_must_not_be_given_away() -> None:
    question = "What animal is shown in the picture?"
    assert fault("Is the animal in the picture a polar bear?", question, "polar bear") == "answer"
    assert fault("Which animal does the picture show?", question, "polar bear") is None
    choices = ("fox", "polar bear")
    assert fault("The picture shows a polar bear, or which animal?", question, "B", choices=choices) == "answer"
    assert fault("Is it true that the picture shows a fox?", "Is a fox in the picture?", "true") is None


def test_choices_of_a_column_stay_where_the_text_names_them() -> None:
    question, choices = "Is the largest one a disc, a ring or a star?", ("disc", "ring", "star")
    assert fault("What is the largest one: disc, ring, star?", question, "ring", choices=choices) is None
    assert fault("What is the largest one: disc, ring?", question, "ring", choices=choices) == "choices"
    assert fault("Name the shape that is largest.", "Which shape is largest?", "ring", choices=choices) is None


def test_siblings_must_differ() -> None:
    original = Original("How many dots are there?", "7")
    found = find_fault("count  the dots!", original, ["Count the dots."])
    assert found is not None
    assert found.check == "identical"


def test_words_for_images_belong_to_questions_with_images() -> None:
    assert fault("What does 3 plus 4 in the figure make?", "What does 3 plus 4 make?", images=False) == "images"
    assert fault("Going by the figure, what does 3 plus 4 make?", "What does 3 plus 4 make?") is None


def test_options_are_found_by_their_letters() -> None:
    assert has_options("Which? A. 3 B. 4 C. 5")
    assert has_options("Which?\n(A) red\n(B) blue")
    assert not has_options("A dog and B flat")


numerals = st.integers(2, 99_999)


@given(st.lists(numerals, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_numbers_survive_in_any_order_and_spelling(values: list[int], random: object) -> None:
    shuffled = sorted(values, key=lambda _: random.random())  # type: ignore[attr-defined]
    one, other = (
        " and then ".join(write(v) for v in vs) for write, vs in ((str, values), (lambda v: f"{v:,}", shuffled))
    )
    assert facts.numbers(f"Add {one}.") == facts.numbers(f"What do {other} make?")


@given(st.lists(numerals, min_size=1, max_size=4), st.integers(0, 3), numerals)
def test_any_changed_number_is_seen(values: list[int], place: int, other: int) -> None:
    place %= len(values)
    changed = [*values[:place], other, *values[place + 1 :]]
    one, two = (f"Add up {' and '.join(map(str, vs))}, what do they make?" for vs in (values, changed))
    assert (fault(f"Now tell. {two}", one) == "numbers") == (other != values[place])


@given(st.text(max_size=60), st.text(min_size=1, max_size=60))
def test_checks_never_raise(text: str, question: str) -> None:
    find_fault(text, Original(question, "7", ("a", "b"), True), (question,))


SETS = ("blindtest", "counting_clevr", "geometry_formalgeo7k", "nlvr", "shapes", "puzzlevqa")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")


def some_questions(name: str) -> list[SeedQuestion]:
    bank = load_bank(str(DATA / name), "train", template_wordings=True)
    return [bank[i] for i in range(0, len(bank), max(1, len(bank) // 80))]


def fault_of(question: SeedQuestion, wording: str) -> Fault | None:
    original = Original(question.question, question.answer, question.choices, bool(question.images))
    return find_fault(wording, original, ())


@needs_data
@pytest.mark.parametrize("name", SETS)
def test_known_good_wordings_pass(name: str) -> None:
    """Hand-written and rule-based wordings of real sets."""
    found = [fault_of(question, wording) for question in some_questions(name) for wording in question.variants]
    assert len(found) >= 50
    assert [fault for fault in found if fault] == []


@needs_data
@pytest.mark.parametrize("name", SETS)
def test_wordings_of_other_questions_are_mostly_stopped(name: str) -> None:
    """The hardest wrong rewording at hand: a good one of another question of the same set, with another answer."""
    questions = some_questions(name)
    shift = len(questions) // 3
    pairs = zip(questions, questions[shift:] + questions[:shift], strict=True)
    stopped = [
        fault_of(one, other.wordings[-1]) is not None
        for one, other in pairs
        if one.answer != other.answer and one.question not in other.wordings
    ]
    assert len(stopped) >= 30
    assert sum(stopped) >= (0.75 if name == "counting_clevr" else 0.95) * len(stopped)
