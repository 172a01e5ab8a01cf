"""What equals what: numbers, units, options, lists, verdicts, and the answers that must not pass."""

from __future__ import annotations

import pytest

from sharegrpo_rl.grader import Verdict, grade

EQUAL = {
    "65°": ["65", "65 degrees", "65^\\circ", "$65^{\\circ}$", "∠A=65", "65.0°"],
    "2√{3}": ["2\\sqrt{3}", "2√3", "2sqrt(3)", "$2\\sqrt3$ cm", "\\sqrt{12}"],
    "2√{3}米": ["2√3 m"],
    "\\frac{4}{3}米": ["4/3 m", "1\\frac{1}{3}米"],
    "0.5": ["\\frac12", "50%"],
    "3/4": ["0.75"],
    "50%": ["50\\%", "0.5", "50"],
    "20": ["20%"],
    "1234": ["1,234"],
    "10{,}000": ["10000"],
    "10,000": ["10^4"],
    "7425000": ["7.425\\times 10^6"],
    "1000.99": ["1000,99"],
    "5": ["five", "The answer is 5.", "x = 5", "5 apples"],
    "21": ["twenty-one"],
    "105": ["one hundred and five"],
    "12": ["12 square units", "\\boxed{12}", "**12**"],
    "4": ["4 (four)"],
    "1/2": ["one half"],
    "-3": ["−3", "-3.0"],
    "9πcm^{2}": ["9π", "9\\pi\\text{ cm}^2", "9 pi square centimeters"],
    "x=5": ["5"],
    "11": ["x = 5+5+1 = 11"],
    "24\\sqrt{2}": ["24\\sqrt{2} \\approx 33.94"],
    "2.5": ["2\\frac12"],
    "1.5": ["1½"],
    "C": ["(C)", "C.", "\\text{C}", "\\textbf{(C)}", "The answer is C", "option C", "(C) 36°", "c"],
    "A\nC": ["A, C", "C and A"],
    "Yes": ["yes.", "Yes, it is.", "True"],
    "no": ["No, there are not"],
    "(3,2)": ["(3, 2)"],
    "[0,1)": ["[0, 1)"],
    "{1,2,3}": ["{3,2,1}"],
    "1,5 and 7": ["1, 5, 7"],
    "(-\\infty, 4]": ["(-∞,4]"],
    "1:2": ["1/2", "2 : 4"],
    "$1,200": ["1200 dollars", "\\$1200"],
    "5 cm": ["0.05 m"],
    "5cm": ["50 mm"],
    "16π平方米": ["16π m²"],
    "even": ["It is even."],
    "Circumference $=50.27 \\mathrm{~cm}$": ["50.27"],
    "red cube": ["a red cube"],
    "\\pi": ["pi"],
    "100": ["one hundred"],
    "7": ["There are seven objects.", "x_1 = 7", "\\angle ABC = 7"],
    "red": ["The ball is red."],
    "13837": ["13 837"],
    "(1,2)": ["x=1, y=2"],
    "±2": ["2, -2"],
    "x = 3 or x = -2": ["x=-2, x=3"],
    "12 cm²": ["12 cm$^2$"],
    "triangle": ["Triangle"],
    "left": ["to the left"],
    "three": ["3"],
    "N 34° W": ["N34°W"],
    "1 & 3": ["1 and 3"],
}

INTERVALS = {
    "(-\\infty,4]": ["x\\le4", "x <= 4", "x ≤ 4"],
    "[3, \\infty)": ["x \\geq 3"],
    "(1, 4]": ["1 < x \\leq 4"],
    "1 < x < 4": ["(1, 4)"],
}

EQUAL_BY_MATH = {
    "x^2+2x+1": ["(x+1)^2"],
    "$y \\leq 5$": ["y\\le 5"],
    "$2x+4y-3=0$": ["y=-\\frac{1}{2}x+\\frac{3}{4}"],
    "$-793 < a < 10$": ["(-793, 10)"],
    "4a-2": ["-2+4a"],
    "(-\\infty,4]": ["x\\le4"],
    "y=2x+1": ["The equation is $y = 2x+1$"],
    "x^2+y^2=9": ["y^2+x^2=9"],
}

DIFFERENT = {
    "2√{3}": ["2"],
    "10√{2}": ["10"],
    "7": ["7 or 5", "5 or 7", "7, 5", "5 and 7", "not 7", "less than 7", "", "I don't know", "7!"],
    "A": ["A or B or C", "A, B, C", "(A) (B)", "B", "An apple"],
    "A\nC": ["A"],
    "5": [
        "-5",
        "5.1",
        "50",
        "15",
        "9**9**9**9",
        "5-6",
        "A",
        "5k",
        "the answer is 5 or 6",
        "5 (or 6)",
        "5 (6)",
        "5 vs 6",
        "1 through 5",
        "one of 4, 5, 6",
    ],
    "0.5": ["5", "0.5%"],
    "50%": ["5%"],
    "50": ["0.5"],
    "145°": ["145.5"],
    "Yes": ["No", "yes or no"],
    "No": ["Not sure"],
    "[0,1)": ["(0,1)", "[0,1]"],
    "(3,2)": ["(2,3)"],
    "{1,2,3}": ["{1,2}"],
    "1,2,3": ["1,2,3,4"],
    "32349": ["32, 349"],
    "5 cm": ["5 m", "5 hours"],
    "x^2+1": ["x^2-1"],
    "even": ["odd"],
    "red": ["blue or red", "red, green, blue", "The ball is not red."],
    "1:2": ["2:1"],
    "12": ["1,2", "1 2"],
    "1/3": ["0.33"],
    "\\pi": ["3.14"],
    "3": ["3x", "1-3", "3 < x", "3 dozen"],
    "1.2": ["12"],
    "100": ["1e999999"],
    "16": ["16.2"],
    "None": ["no answer"],
    "y=x+1": ["y=x+1 or y=x-1"],
    "x<5": ["x<5 or x>7"],
    "{1,2}": ["1"],
}

CHOICES = ["40°", "60°", "120°", "140°"]
OPTION_NAMED = [
    "D",
    "140°",
    "140",
    "(D) 140°",
    "D. 140°",
    "D) 140",
    "The answer is (D)",
    "**D**",
    "d",
    "Option D",
    "$\\text{(D)}$",
    "140 degrees",
    "D (140°)",
    "D: 140°",
    "∠CED = 140°",
    "The angle is 140°",
    "[D]",
    "D、140°",
    "选D",
    "答案：D",
    "D - 140°",
    "D, since 40 + 100 = 140",
]
OPTION_NOT_NAMED = [
    "A",
    "A or D",
    "A, D",
    "(D) 40°",
    "D, or (A)",
    "ABCD",
    "40° or 140°",
    "60",
    "E",
    "none",
    "not D",
    "A. The answer is D",
    "(A) or (D)",
    "Either A or D",
    "D/A",
    "(A)(B)(C)(D)",
    "99 or 140",
    "(D) 90°",
    "None of the above",
]


def pairs(table: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(gold, answer) for gold, answers in table.items() for answer in answers]


def tagged(gold: str, answer: str, **known: object) -> Verdict:
    verdict = grade(f"<think>so</think><answer>{answer}</answer>", gold, **known)  # type: ignore[arg-type]
    assert verdict.error is None
    return verdict


@pytest.mark.parametrize(("gold", "answer"), pairs(EQUAL) + pairs(INTERVALS))
def test_the_same_answer_in_another_dress(gold: str, answer: str) -> None:
    assert tagged(gold, answer).score == 1


@pytest.mark.parametrize(("gold", "answer"), pairs(EQUAL_BY_MATH))
def test_equal_mathematics(gold: str, answer: str) -> None:
    assert tagged(gold, answer).score == 1


@pytest.mark.parametrize(("gold", "answer"), pairs(DIFFERENT))
def test_a_different_answer_is_refused(gold: str, answer: str) -> None:
    assert tagged(gold, answer).score == 0


@pytest.mark.parametrize("answer", OPTION_NAMED)
@pytest.mark.parametrize("gold", ["D", "140°"])
def test_an_option_by_letter_or_text(gold: str, answer: str) -> None:
    assert tagged(gold, answer, choices=CHOICES).score == 1


@pytest.mark.parametrize("answer", OPTION_NOT_NAMED)
def test_other_or_several_options_are_refused(answer: str) -> None:
    assert tagged("D", answer, choices=CHOICES).score == 0


def test_gold_typed_as_an_option_wins_over_its_letter() -> None:
    shuffled = ["(c)", "(a)", "(e)", "(d)", "(b)"]
    assert tagged("(b)", "E", choices=shuffled).score == 1
    assert tagged("(b)", "B", choices=shuffled).score == 0


def test_an_open_end_is_no_closed_end() -> None:
    assert tagged("(1, 4]", "1 < x < 4").score == 0
    assert tagged("(-\\infty, 4]", "x \\geq 4").score == 0


def test_precision_is_a_number_of_decimals() -> None:
    assert tagged("0.33", "1/3", precision=2).score == 1
    assert tagged("0.33", "1/3").score == 0
    assert tagged("0.33", "0.34", precision=2).score == 0


def test_order_counts_where_the_question_says_so() -> None:
    assert tagged("1, 2, 3", "3, 2, 1", question="Which numbers are roots?").score == 1
    assert tagged("1, 2, 3", "3, 2, 1", question="Arrange the numbers in ascending order.").score == 0
