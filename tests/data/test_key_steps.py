"""Key steps in data: the shapes that are read, clear complaints, the rules for two data sets, rows without any."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharegrpo_rl.data.columns import Columns
from sharegrpo_rl.data.key_steps import rows_without_key_steps
from sharegrpo_rl.data.loading import load_bank
from sharegrpo_rl.data.rows import RowReader
from sharegrpo_rl.data.step_rules import THEOREM_PHRASES, steps_by_rule
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.grader import ANSWER_FORMATS, step_texts
from sharegrpo_rl.rewards.steps import matched_share

DATA = Path(__file__).parents[2].parent / "shared" / "data"
GOOD = {"question": "How many dots?", "answer": "2"}
MIXED = ["two dots", ["1 + 1", "one and one"]]
READ = (("two dots",), ("1 + 1", "one and one"))
CALLS = ["triangle_property_angle_sum(1,ABC)", "line_addition(1,AB,BD)", "triangle_property_angle_sum(1,ABC)"]


def read(row: dict, columns: dict | None = None) -> SeedQuestion:
    reader = RowReader(Columns(columns), Path("/set"), {}, False)
    return reader.read({**GOOD, **row}, default_id="7", where="train.jsonl line 5", folder=Path("/set"))


@pytest.mark.parametrize(
    "value",
    [
        MIXED,
        [["two dots"], ["1 + 1", "one and one", " 1 + 1 "]],
        {"Steps": MIXED},
        {"Steps": MIXED, "Image Description": ["dots"], "Rationales": []},
        json.dumps(MIXED),
        json.dumps({"Steps": MIXED}),
    ],
)
def test_shapes_of_key_steps(value: object) -> None:
    assert read({"key_steps": value}).key_steps == READ
    assert read({"hints": value}, {"key_steps": "hints"}).key_steps == READ


@pytest.mark.parametrize("value", [None, [], {}, {"Steps": []}, {"Steps": None}, "", " ", "[]"])
def test_a_row_may_have_none(value: object) -> None:
    assert read({"key_steps": value}).key_steps == ()


def test_numbers_are_phrases() -> None:
    assert read({"key_steps": [3, [0.5, "1/2"]]}).key_steps == (("3",), ("0.5", "1/2"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"steps": MIXED}, r'no "Steps" \(found steps\)'),
        ([["a"], []], "step 2 is an empty list"),
        (["a", ""], "step 2 holds ''"),
        (["a", ["b", None]], "step 2 holds 'None'"),
        ([["a", ["b"]]], "step 1 holds"),
        ([True], "step 1 holds 'True'"),
        ({"Steps": "a"}, "is a str, not key steps"),
        (3, "is a int, not key steps"),
        ("a, b", "is the text 'a, b', not key steps"),
        ("[" * 100_000, "not key steps"),
    ],
)
def test_what_is_wrong_is_named(value: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        read({"key_steps": value})
    assert str(raised.value).startswith("train.jsonl line 5, id 7: key_steps")
    assert "\n" not in str(raised.value)


def test_a_column_called_steps_is_read_where_it_holds_key_steps() -> None:
    assert read({"steps": [["a", "b"], ["c"]]}).key_steps == (("a", "b"), ("c",))
    assert read({"steps": {"Steps": MIXED}}).key_steps == READ
    loose = read({"steps": ["Look at it.", "Count."]})
    assert (loose.key_steps, loose.extra["steps"]) == ((), ["Look at it.", "Count."])


def test_a_row_of_the_authors_data_is_read_as_it_is() -> None:
    solution = "### Image Description: dots\n### Rationales: r\n### Step 1: 1 + 1\n### The final answer is: B"
    row = {"image_path": "a.png", "problem": "How many? A. 1 B. 2", "solution": solution, "key_steps": {"Steps": MIXED}}
    question = RowReader(Columns(), Path("/set"), {}, False).read(row, default_id="7", where="p", folder=Path("/set"))
    assert (question.answer, question.solution, question.key_steps) == ("B", solution, READ)
    assert [image.name for image in question.images] == ["a.png"]
    assert ANSWER_FORMATS["steps"].render(solution, question.answer) == solution


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[["two dots"], ["1 + 1", "one and one"]], []]),
        pa.array([{"Steps": [["two dots"], ["1 + 1", "one and one"]]}, {"Steps": None}]),
        pa.array([json.dumps({"Steps": MIXED}), None]),
    ],
)
def test_parquet_columns(column: pa.Array, tmp_path: Path) -> None:
    table = pa.table({"question": ["q", "q"], "answer": ["2", "2"], "key_steps": column})
    pq.write_table(table, tmp_path / "train.parquet")
    bank = load_bank(str(tmp_path), "train")
    assert [question.key_steps for question in (bank[0], bank[1])] == [READ, ()]
    assert rows_without_key_steps(bank) == 1


def test_jsonl_rows_without_key_steps_are_counted(make_set: Callable[..., Path], row: Callable[..., dict]) -> None:
    rows = [row(key_steps=MIXED), row(), row(key_steps=[]), row(steps=CALLS)]
    bank = load_bank(str(make_set(rows)), "train")
    assert rows_without_key_steps(bank) == 2
    assert [rows_without_key_steps(bank, limit) for limit in (0, 1, 2, 9)] == [0, 0, 1, 2]


def test_a_bad_row_is_named_with_file_and_line(make_set: Callable[..., Path], row: Callable[..., dict]) -> None:
    bank = load_bank(str(make_set([row(), row(id="r1", key_steps="oops")])), "train")
    with pytest.raises(UserError, match=r"train\.jsonl line 2, id r1: key_steps is the text 'oops'"):
        rows_without_key_steps(bank)


def test_theorem_calls_become_phrases() -> None:
    angles, line = steps_by_rule(CALLS)
    assert angles[0] == "the angles of triangle ABC add up to 180 degrees"
    assert {"angle sum", "= 180"} <= set(angles)
    assert line[0] == "AB and BD make up one line"
    assert {"AB + BD", "DB + BA", "AD - BD", "DA - AB"} <= set(line)
    question = read({"steps": CALLS})
    assert (question.key_steps, question.extra["steps"]) == ((angles, line), CALLS)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("triangle_property_angle_sum(1,ABC)", "∠A = 180° - 50° - 60° = 70°"),
        ("line_addition(1,AB,BD)", "AD = AB + BD = 7"),
        ("angle_addition(1,GCE,ECA)", "$\\angle ECA = \\angle GCA - \\angle GCE$"),
        ("adjacent_complementary_angle(1,BDA,ADC)", "∠CDA + ∠ADB = 180°"),
        ("right_triangle_property_pythagorean(1,AXB)", "AX² + BX² = AB²"),
        ("arc_addition_measure(1,DBH,DHG)", "arc BG - arc HG = 40"),
        ("mirror_similar_triangle_judgment_aa(1,BAD,CDB)", "△BAD ∼ △CDB"),
        ("arc_property_circumference_angle_external(1,VZX,Y)", "The inscribed angle is half the arc."),
        ("isosceles_triangle_property_angle_equal(1,FJH)", "Base angles of an isosceles triangle are equal."),
        ("some_new_pentagon_judgment(1,ABCDE)", "This is some new pentagon."),
    ],
)
def test_a_solution_in_words_has_the_theorem(call: str, said: str) -> None:
    (step,) = steps_by_rule([call])
    assert matched_share([said], [step]) == 1
    assert matched_share(["We look at the picture and count."], [step]) == 0


@pytest.mark.parametrize(
    "values",
    [["f(x)"], ["line_addition(1,AB,BD)", "and more"], ["line_addition()"], [], ["a", "b", "c"], [1], ["x" * 9000]],
)
def test_other_lists_follow_no_rule(values: list) -> None:
    assert steps_by_rule(values) == ()


def test_puzzle_sentences_become_lists_facts_and_the_pattern() -> None:
    sentences = [
        "The first group is [2, 9, 18], the second group is [1, 8, 8], and the third group is ['?', 5, 30].",
        "We observe that the number 18 is the product of 9 and 2. Similarly, the number 8 is the product of 8 and 1. "
        "Hence, the pattern is that the rightmost number in each group is the product of the other two numbers.",
        "Based on the pattern that the rightmost number in each group is the product of the other two numbers, "
        "the missing number of the group ['?', 5, 30] should be 6.",
    ]
    steps = steps_by_rule(sentences)
    said = [
        "The groups are [2, 9, 18], [1, 8, 8] and [?, 5, 30].",
        "$2 \\times 9 = 18$ and 1 * 8 = 8",
        "The last is the product of the other two, so 30 / 5 = 6.",
    ]
    assert matched_share(said, steps) == 1
    assert matched_share(["The answer is 6."], steps) == 0
    assert steps_by_rule(sentences[:2]) == ()


def rows_of(name: str) -> list[dict]:
    if not (DATA / name).is_dir():
        pytest.skip(f"{DATA / name} is not there")
    return [json.loads(line) for split in ("train", "test") for line in (DATA / name / f"{split}.jsonl").open()]


def test_every_theorem_of_the_geometry_set_has_phrases_of_its_own() -> None:
    for row in rows_of("geometry_formalgeo7k"):
        for call in row["steps"]:
            name, points = re.fullmatch(r"(?:mirror_)?(\w+)\(\d,(.*)\)", call).groups()
            known = max((n for n in THEOREM_PHRASES if name.startswith(n)), key=len)
            wanted = {int(place) for phrase in THEOREM_PHRASES[known] for place in re.findall(r"\{(\d)\}", phrase)}
            assert wanted <= set(range(points.count(",") + 1)), call
        assert bool(steps_by_rule(row["steps"])) == bool(row["steps"])


@pytest.mark.parametrize("name", ["geometry_formalgeo7k", "puzzlevqa"])
def test_rows_without_key_steps_of_real_sets(name: str) -> None:
    empty = sum(not row["steps"] for row in rows_of(name))
    assert sum(rows_without_key_steps(load_bank(str(DATA / name), split)) for split in ("train", "test")) == empty
    assert empty == {"geometry_formalgeo7k": 22, "puzzlevqa": 0}[name]


@pytest.mark.parametrize("name", ["geometry_formalgeo7k", "puzzlevqa"])
def test_targets_made_of_key_steps_have_them_all(name: str) -> None:
    form = ANSWER_FORMATS["steps"]
    for row in rows_of(name)[::7]:
        steps = steps_by_rule(row["steps"])
        text = form.render("I look.", row["answer"], [step[0] for step in steps])
        assert form.matches(text)
        assert matched_share(list(step_texts(text)), steps) == (1 if steps else 0)


def test_the_reasoning_of_a_puzzle_has_its_own_key_steps_and_not_those_of_other_kinds() -> None:
    rows = rows_of("puzzlevqa")[::5]
    shares = []
    for row, other in pairwise(rows):
        steps = steps_by_rule(row["steps"])
        assert matched_share(row["steps"], steps) == 1
        shares += [matched_share(other["steps"], steps)] * (row["subtask"] != other["subtask"])
    assert sum(shares) / len(shares) < 0.1
