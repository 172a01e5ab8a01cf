"""Where the answer of a response is found."""

from __future__ import annotations

import pytest

from sharegrpo_rl.grader import grade

AUTO = [
    ("<think>\\boxed{3}</think><answer>5</answer>", "5", 1),
    ("<think>\\boxed{5}</think><answer>3</answer>", "5", 0),
    ("<think>the answer is 5</think>\\boxed{3}", "5", 0),
    ("<answer>5</answer><answer>7</answer>", "5", 0),
    ("<answer>5</answer><answer>7</answer>", "7", 0),
    ("<answer>5</answer> or <answer>5.0</answer>", "5", 1),
    ("\\boxed{5} then \\boxed{7}", "5", 0),
    ("\\boxed{5} then \\boxed{7}", "7", 0),
    ("\\boxed{-2} and \\boxed{1}", "{1, -2}", 1),
    ("so \\boxed{\\boxed{5}}", "5", 1),
    ("so \\boxed{\\frac{1}{2}}", "0.5", 1),
    ("so $\\boxed{5$", "5", 1),
    ("so \\boxed 5", "5", 1),
    ("\\boxed{} \\boxed{5}", "5", 1),
    ("\\boxed{\\phantom{2}} is filled by \\boxed{4}", "4", 1),
    ("<think>it never ends, the answer is 5", "5", 0),
    ("half is \\boxed{255}. Final Answer: The final answer is $10,455$. I hope it is correct.", "10455", 1),
    ("", "5", 0),
    ("<answer></answer>", "5", 0),
    ("<answer>5", "5", 1),
]

PROSE = [
    ("Connect AC. Because angle A = 90°, the answer is 40.", "40°", 1),
    ("Therefore, angle 2 = 180 - angle 1 = 180 - 50 = 130.", "130°", 1),
    ("There are 3 bars below 40 in the image. They are the bars of 2014 and 2015.", "3", 1),
    ("The model has 9 dots in 3 equal groups. There are 3 dots in each group.", "3", 1),
    ("It is not 10, it is 1,000.99 m².", "1000.99", 1),
    ("The total is:\n\\[\n9\n\\]", "9", 1),
    ("The range of the numbers is 13-18.", "13", 0),
    ("I cannot determine the number of dots without the image.", "5", 0),
    ("After subtracting all metal things, there are three objects left on the table.", "3", 1),
    ("The answer is 1.\n\nQuestion: What is 2 + 2?\n\nAnswer: The answer is 4.", "1", 1),
]

OPTIONS = ["yes", "no"]
VERDICTS = [
    ("Based on the graph, Bubblegum is not the roughest. The roughest is Salmon.", "no", 1),
    ("Based on the graph, Bubblegum is the roughest.", "yes", 1),
    ("No, Bubblegum is not the roughest.", "no", 1),
    ("(C) yes\n(D) no", "no", 0),
    ("The text does not say whether Bubblegum is the roughest.", "no", 0),
    ("The correct answer is (B). Bubblegum is mid-way.", "no", 1),
    ("The answer is yes or no.", "no", 0),
]


@pytest.mark.parametrize(("response", "gold", "score"), AUTO)
def test_tags_before_boxes_before_prose(response: str, gold: str, score: int) -> None:
    assert grade(response, gold).score == score


@pytest.mark.parametrize(("response", "gold", "score"), PROSE)
def test_free_prose(response: str, gold: str, score: int) -> None:
    question = "How many bars have value below 40?"
    assert grade(response, gold, extract="free", question=question).score == score


@pytest.mark.parametrize(("response", "gold", "score"), VERDICTS)
def test_a_verdict_in_prose(response: str, gold: str, score: int) -> None:
    verdict = grade(response, gold, extract="free", choices=OPTIONS, question="Is Bubblegum the roughest?")
    assert verdict.score == score


def test_modes_look_in_one_place_only() -> None:
    assert grade("The answer is A", "A", extract="boxed").score == 0
    assert grade("\\boxed{A}", "A", extract="answer").score == 0
    assert grade("<answer>A</answer>", "A", extract="boxed").score == 0
    assert grade("<answer>A</answer>", "A", extract="answer").score == 1


def test_invented_questions_after_the_answer_do_not_count() -> None:
    response = "The answer is C.\n\nQuestion: What is 1 + 1?\nChoices: (A) 2 (B) 3\nThe answer is A."
    assert grade(response, "C", choices=["1", "2", "3", "4"]).score == 1
