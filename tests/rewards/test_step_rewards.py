"""StepRAR and StepRVR against plain loops, the no-answer case, the gaps of released code, hostile text, speed."""

from __future__ import annotations

import time
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.config.registry import REWARDS
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.grader import ANSWER_FORMATS, step_texts
from sharegrpo_rl.rewards.rubric import Rubric

MEGABYTE = 1_000_000
PARTS = [
    "### Image Description: 3 dots",
    "### Rationales: add 2 and 1",
    "### Step 1: 2 red dots",
    "### Step 2: 2 + 1 = 3",
    "### The final answer is: 3",
]
WHOLE = "\n".join(PARTS)
QUESTION = SeedQuestion(
    id="q",
    question="How many dots?",
    answer="3",
    answer_type="numeric",
    key_steps=(("2 red dots",), ("2 + 1 = 3", "1 + 2 = 3"), ("1 blue dot", "one blue dot")),
)
STEP_GRPO = Rubric({"accuracy": 1.0, "key_steps": 0.1, "step_validity": 1.0}, "steps")
RELEASED = ("key_steps_released", "step_validity_released")


def one(name: str, text: str, **columns: object) -> float:
    (value,) = REWARDS.load(name)(completions=[text], key_steps=[QUESTION.key_steps], **columns)
    assert value is not None
    return value


def test_the_totals_of_step_grpo() -> None:
    wrong = WHOLE.replace("is: 3", "is: 4")
    none = WHOLE.replace("is: 3", "is:")
    loose = "### Step 1: 2 red dots\n### The final answer is: 3"
    scores = STEP_GRPO.score([WHOLE, wrong, none, loose, "3"], QUESTION)
    k = 2 / 3
    assert [score.total for score in scores] == pytest.approx([2 + 0.1 * k, 1 + 0.1 * k, 0, 1 + 0.1 / 3, 0], abs=1e-9)
    assert scores[0].parts == pytest.approx({"accuracy": 1, "format": 1, "key_steps": k, "step_validity": 1})
    assert all(score.error is None and not score.unscored for score in scores)


def test_a_row_without_key_steps_has_a_share_of_0() -> None:
    (score,) = STEP_GRPO.score([WHOLE], SeedQuestion(id="q", question="How many?", answer="3"))
    assert score.parts["key_steps"] == 0
    assert score.total == 2


def test_a_completion_that_was_cut_off_is_not_valid() -> None:
    whole, cut = STEP_GRPO.score([WHOLE, WHOLE], QUESTION, truncated=[False, True])
    assert (whole.parts["step_validity"], cut.parts["step_validity"]) == (1, 0)
    assert cut.parts["accuracy"] == 1


def test_only_steps_are_searched() -> None:
    assert one("key_steps", WHOLE.replace("2 red dots", "dots").replace("3 dots", "2 red dots")) == pytest.approx(1 / 3)
    assert one("key_steps", WHOLE.replace("add 2 and 1", "1 blue dot")) == pytest.approx(2 / 3)


def test_the_answer_is_that_of_the_runs_format() -> None:
    text = "### Step 1: 2 red dots\n<answer>3</answer>"
    assert one("key_steps", text) == 0
    assert one("key_steps", text, answer_format="think_answer") == pytest.approx(1 / 3)
    (score,) = Rubric({"accuracy": 1.0, "key_steps": 0.1}).score([text], QUESTION)
    assert score.total == pytest.approx(1 + 0.1 / 3)
    assert one("key_steps", WHOLE + "\n### The final answer is: 4") == 0


HOLES = {
    "rationales after the answer": "\n".join([PARTS[0], *PARTS[2:], PARTS[1]]),
    "description after the steps": "\n".join([*PARTS[1:4], PARTS[0], PARTS[4]]),
    "no final answer": WHOLE.removesuffix(" 3"),
    "answer heading alone, before the last step": "\n".join(
        [*PARTS[:3], PARTS[4], PARTS[3], "### The final answer is:"]
    ),
    "empty bodies": "\n".join(part.split(":")[0] + ":" for part in PARTS),
    "a section twice": WHOLE.replace(PARTS[1], f"{PARTS[1]}\n{PARTS[1]}"),
    "two answers": WHOLE + "\n### The final answer is: 4",
}


@pytest.mark.parametrize("name", HOLES)
def test_holes_of_released_code_are_closed(name: str) -> None:
    assert one("step_validity_released", HOLES[name]) == 1
    assert one("step_validity", HOLES[name]) == 0


def test_both_agree_on_what_is_plainly_right_or_wrong() -> None:
    for name in ("step_validity", "step_validity_released"):
        assert one(name, WHOLE) == 1
        assert one(name, WHOLE.replace("Step 2", "Step 3")) == 0
        assert one(name, WHOLE.replace("### Rationales", "Rationales")) == 0
        assert one(name, "\n".join([*PARTS[:2], PARTS[4], *PARTS[2:4]])) == 0
        assert one(name, "\n".join([*PARTS[:3], PARTS[4], PARTS[3], PARTS[4]])) == 0  # the first answer counts
        assert one(name, "") == 0
    assert one("step_validity", f"Well. {WHOLE}") == 1  # StepRVR asks for sections and order; the format for the rest


def test_any_other_order_is_invalid() -> None:
    orders = ["\n".join(order) for order in permutations(PARTS)]
    assert [one("step_validity", order) for order in orders] == [1.0] + [0.0] * (len(orders) - 1)


HEADS = ["Image Description", "Rationales", "Step 1", "Step 2", "Step 3", "Step 12", "The final answer is"]
BODIES = ["2 red dots", "2 + 1 = 3", "12 + 1 = 3", "one blue dot", "3", "", "reds"]
completions = st.lists(
    st.tuples(st.sampled_from(HEADS), st.sampled_from(BODIES), st.sampled_from(["\n", "\n\n", " "])), max_size=8
)
nearly = st.permutations(PARTS).map("\n".join) | st.sampled_from([WHOLE, *HOLES.values()])


def written(parts: list[tuple[str, str, str]]) -> str:
    return "".join(f"### {head}: {body}{end}" for head, body, end in parts)


def plain_validity(parts: list[tuple[str, str, str]]) -> float:
    """StepRVR by the list of sections that the text was made of."""
    heads = [head for head, _, _ in parts]
    steps = max(len(heads) - 3, 1)
    wanted = ["Image Description", "Rationales", *(f"Step {k + 1}" for k in range(steps)), "The final answer is"]
    return float(heads == wanted and all(body for _, body, _ in parts))


def plain_accuracy_reward(parts: list[tuple[str, str, str]]) -> float:
    """StepRAR by the list of sections: 1 + 0.1 k, 0.1 k, or 0 without one answer."""
    answers = {body for head, body, _ in parts if head == "The final answer is" and body}
    if len(answers) != 1:
        return 0.0
    steps = {body for head, body, _ in parts if head.startswith("Step")}
    matched = ("2 red dots" in steps) + ("2 + 1 = 3" in steps) + ("one blue dot" in steps)
    return float(answers == {"3"}) + 0.1 * matched / 3


@given(completions)
def test_rewards_are_those_of_plain_loops(parts: list[tuple[str, str, str]]) -> None:
    numeric = {"3", "2 red dots"}  # other bodies as answers: the grader's own matter
    parts = [(h, "3" if h == "The final answer is" and b and b not in numeric else b, e) for h, b, e in parts]
    (score,) = STEP_GRPO.score([written(parts)], QUESTION)
    assert score.parts["step_validity"] == plain_validity(parts)
    total = score.parts["accuracy"] + 0.1 * score.parts["key_steps"]
    assert total == pytest.approx(plain_accuracy_reward(parts), abs=1e-9)


def plain_released_share(text: str) -> float:
    """Released code's k, one character after the other."""
    found, place = "", 0
    while (place := text.find("### Step ", place)) >= 0:
        place += len("### Step ")
        digits = place
        while digits < len(text) and text[digits].isdigit():
            digits += 1
        if digits == place or text[digits : digits + 1] != ":":
            continue
        place = digits + 1
        while place < len(text) and text[place].isspace():
            place += 1
        while place < len(text) and text[place : place + 4] != "\n###":
            found, place = found + text[place], place + 1
        found += " "
    hits = [any(phrase.lower() in found.lower() for phrase in step) for step in QUESTION.key_steps]
    return sum(hits) / len(hits)


def plain_released_validity(text: str) -> float:
    """Released code's validity, heading by heading."""
    if any(
        text.find(f"### {head}:") < 0 for head in ("Image Description", "Rationales", "Step 1", "The final answer is")
    ):
        return 0.0
    steps = [(text.find(f"### Step {k}:", at), k) for k in range(100) for at in range(len(text))]
    places = sorted({place: k for place, k in steps if place >= 0}.items())
    last_start, last_number = places[-1]
    heading_end = last_start + len(f"### Step {last_number}:")
    late = text.strip().endswith("### The final answer is:") or text.find("### The final answer is:") >= heading_end
    return float(late and [k for _, k in places] == list(range(1, len(places) + 1)))


@given(completions.map(written) | nearly)
def test_released_behaviour_is_that_of_plain_loops(text: str) -> None:
    assert one("key_steps_released", text) == pytest.approx(plain_released_share(text), abs=1e-9)
    assert one("step_validity_released", text) == plain_released_validity(text)


def test_released_code_rewards_steps_without_an_answer() -> None:
    text = "### Step 1: 12 red dots"
    assert one("key_steps_released", text) == pytest.approx(1 / 3)
    assert one("key_steps", text) == 0
    assert one("key_steps", text + "\n### The final answer is: 1") == 0  # 12 is not 2


@given(st.lists(st.sampled_from(BODIES[:5]), max_size=4), st.sampled_from([step[0] for step in QUESTION.key_steps]))
def test_a_missing_key_step_that_is_added_never_lowers_the_share(bodies: list[str], further: str) -> None:
    def text(steps: list[str]) -> str:
        return ANSWER_FORMATS["steps"].render("dots", "3", steps)

    assert one("key_steps", text([*bodies, further])) >= one("key_steps", text([*bodies, "reds"]))
    assert one("key_steps", text([*bodies, further])) >= 1 / 3


PIECES = [
    *[f"### {head}:" for head in HEADS],
    *[
        "### Step ",
        "###",
        "#",
        "Step 1:",
        "9",
        "0",
        ":",
        "\n",
        " ",
        "3",
        "2 red dots",
        "{",
        "}",
        "\\frac{",
        "\\",
        "-",
        "/",
    ],
    *[
        "%",
        ".",
        ",",
        "$",
        "**",
        "one ",
        "hundred ",
        "\0",
        "\ud800",
        "½",
        "²",
        "∠",
        "ﷺ",
        "²³",
        "٣",
        "’",
        "Let's think step by step.",
    ],
]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | st.text(max_size=80))
def test_never_raises(text: str) -> None:
    for name in ("key_steps", "step_validity", *RELEASED):
        assert 0 <= one(name, text) <= 1
    for phrase in (text, text[:5]):
        REWARDS.load("key_steps")(completions=[WHOLE], key_steps=[((phrase,),)])
        REWARDS.load("key_steps_released")(completions=[WHOLE], key_steps=[((phrase,),)])


HOSTILE = {
    "headings": "### Step 1:",
    "headings on lines": "\n### Step 1:\n",
    "numbered headings": "### Step 99999999:",
    "marks": "### ",
    "number signs": "#",
    "spaces": " ",
    "lines": "\n",
    "digits": "9",
    "thousands": "1,",
    "fractions": "1/",
    "frac": "\\frac{",
    "backslashes": "\\",
    "braces": "{",
    "hundreds": "hundred ",
    "minus signs": "-",
    "bullets": "\n- ",
    "ligatures": "ﷺ",
    "words": "red circle ",
    "answers": "### The final answer is: 3\n",
    "thoughts": "### Let's think step by step.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_megabyte_is_scored_with_little_work(name: str) -> None:
    piece = HOSTILE[name]
    text = piece * (MEGABYTE // len(piece))
    inside = f"### Step 1: {text}\n### The final answer is: 3"
    start = time.thread_time()
    for hostile in (text, inside, "### Step " + text):
        scores = [one(reward, hostile) for reward in ("key_steps", "step_validity", *RELEASED)]
        assert all(0 <= score <= 1 for score in scores)
    assert time.thread_time() - start < 60.0  # a quadratic scan takes hours


def test_work_grows_no_faster_than_the_text() -> None:
    """Eight times the text takes about eight times as long on any machine; a quadratic scan would take 64 times."""
    sentence = "Since the {0} red shapes stand at {0}/7 of $\\frac{{{0}}}{{3}}$, we add them. "

    def seconds(sentences: int) -> float:
        filler = "".join(sentence.format(i) for i in range(sentences))
        texts = [ANSWER_FORMATS["steps"].render(filler, "3", [f"{filler} {i}", "2 + 1 = 3", filler]) for i in range(40)]
        times = []
        for _ in range(3):
            start = time.thread_time()
            REWARDS.load("key_steps")(completions=texts, key_steps=[QUESTION.key_steps] * len(texts))
            REWARDS.load("step_validity")(completions=texts)
            times.append(time.thread_time() - start)
        return min(times)

    assert seconds(96) < 24 * seconds(12)


def test_steps_are_found_whatever_their_numbers() -> None:
    assert list(step_texts("### Step 2: b ### Step 7: c\n### Check: d")) == ["b", "c"]
