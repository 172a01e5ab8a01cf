import base64
from dataclasses import replace
from pathlib import Path

import pytest

from sharegrpo_rl.data.columns import Columns
from sharegrpo_rl.data.gold import Note, last_boxed
from sharegrpo_rl.data.images import EncodedImage, ImageFile
from sharegrpo_rl.data.rows import RowReader, reworded
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.errors import UserError

ROOT = Path("/set")
GOOD = {"question": "How many dots?", "answer": "2"}


def read(row: dict, columns: dict | None = None, shared: dict | None = None, templates: bool = False) -> SeedQuestion:
    reader = RowReader(Columns(columns), ROOT, shared or {}, templates)
    return reader.read(row, default_id="train-4", where="train.jsonl line 5", folder=ROOT)


@pytest.mark.parametrize(
    "row",
    [
        {"problem": "How many dots?", "answer": "2"},
        {"question": "How many dots?", "ground_truth": 2},
        {"question": "How many dots?", "label": "2"},
        {"problem": " How many dots? ", "solution": "<answer> 2 </answer>"},
        {"prompt": "How many dots?", "solution": "2"},
        {
            "prompt": [{"role": "user", "content": "How many dots?"}],
            "reward_model": {"ground_truth": "2", "style": "rule"},
        },
        {
            "prompt": [
                {"role": "system", "content": "Think."},
                {"role": "user", "content": [{"type": "text", "text": "How many dots?"}]},
            ],
            "answer": ["2"],
        },
        {"question": "How many dots?", "problem": None, "answer": "2", "solution": "worked"},
    ],
)
def test_known_column_names(row: dict) -> None:
    question = read(row)
    asked = f"{question.system}\n\nHow many dots?" if question.system else "How many dots?"
    assert (question.id, question.question, question.answer, question.images) == ("train-4", asked, "2", ())


def test_chosen_column_names() -> None:
    columns = {"question": "text", "answer": "meta.gold", "id": None, "images": "pics"}
    question = read({"text": "How many?", "meta": {"gold": "2"}, "id": "x", "answer": "9", "pics": ["a.png"]}, columns)
    assert (question.question, question.answer, question.id) == ("How many?", "2", "train-4")
    assert [image.name for image in question.images] == ["a.png"]
    assert set(question.extra) == {"meta", "id", "answer"}


@pytest.mark.parametrize(
    ("columns", "message"), [({"qestion": "text"}, "did you mean question"), ({"answer": 3}, r"columns\.answer is 3")]
)
def test_wrong_column_settings(columns: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Columns(columns)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (None, []),
        ("images/a.png", ["images/a.png"]),
        (["a.png", {"path": "b.png", "bytes": None}], ["a.png", "b.png"]),
        ({"bytes": b"x", "path": "c.png"}, ["c.png, number 0 (train.jsonl line 5, id train-4)"]),
        ([b"x", b"y"], [f"number {i} (train.jsonl line 5, id train-4)" for i in range(2)]),
        ([], []),
    ],
)
@pytest.mark.parametrize("column", ["image", "images"])
def test_forms_of_images(value: object, names: list[str], column: str) -> None:
    question = read({**GOOD, column: value})
    assert [image.name for image in question.images] == names
    assert all(isinstance(image, EncodedImage | ImageFile) for image in question.images)
    assert column not in question.extra


@pytest.mark.parametrize(
    "value", [3, [None], [""], {"bytes": "text"}, "https://example.org/a.png", "data:text/plain,AAAA", "a\0.png"]
)
def test_wrong_images_name_the_row(value: object) -> None:
    with pytest.raises(UserError, match=r"image .*train\.jsonl line 5, id train-4"):
        read({**GOOD, "image": value})


def test_images_stand_at_their_marks() -> None:
    content = [{"type": "image"}, {"type": "text", "text": "How many?"}]
    question = read({"prompt": [{"role": "user", "content": content}], "answer": "2", "images": ["a.png"]})
    assert question.question == "<image>How many?"
    with pytest.raises(UserError, match=r"1 <image> mark\(s\) .* 2 image"):
        read({"question": "<image>How many?", "answer": "2", "images": ["a.png", "b.png"]})


@pytest.mark.parametrize("column", ["variants", "new_questions", "question_variants"])
def test_variants_are_real_lists(column: str) -> None:
    assert read({**GOOD, column: ["Count.", " How  many dots? ", "Count.", "Tell."]}).variants == ("Count.", "Tell.")
    for value in ('["Count."]', "['Count.']", "Count.", [""], [3.5, None], {"a": 1}):
        with pytest.raises(UserError, match=f"{column}"):
            read({**GOOD, column: value})


def test_variants_are_never_evaluated(tmp_path: Path) -> None:
    target = tmp_path / "PWNED"
    with pytest.raises(UserError, match="is a string"):
        read({**GOOD, "new_questions": f"[open({str(target)!r}, 'w').write('x')]"})
    assert not target.exists()


def test_wordings_of_a_subtask_are_shared() -> None:
    shared = {"count": ("How many dots?", "Count the dots."), "other": ("Name it.",)}
    assert read({**GOOD, "subtask": "count"}, shared=shared).variants == ("Count the dots.",)
    assert read(GOOD, shared=shared).variants == ()


def test_templates_are_for_questions_about_images() -> None:
    row = {"question": "How many dots are there?", "answer": "2", "image": "a.png"}
    assert read(row).variants == ()
    assert "Count the dots." in read(row, templates=True).variants
    assert read({**row, "image": None}, templates=True).variants == ()


CHOICES = {"question": "Which?", "choices": ["4", "5"], "variants": ["Which one?"]}


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"answer": "A", "answer_type": "multiple_choice"}, True),
        ({"answer": "b"}, True),
        ({"answer": "5"}, True),
        ({"answer": 1}, True),
        ({"answer": "5", "answer_type": "numeric"}, True),
        ({"answer": "yes", "choices": ["yes", "no"]}, False),
    ],
)
def test_choices_are_visible_where_they_matter(changes: dict, shown: bool) -> None:
    for wording in read({**CHOICES, **changes}).wordings:
        assert wording.endswith("\nChoices: (A) 4 (B) 5") == shown


def test_choices_are_not_repeated() -> None:
    for text in ("Which? (A) 4 (B) 5", "Which?\nA. 4\nB. 5", "Which? A: 4, B: 5"):
        assert read({**CHOICES, "question": text, "answer": "A"}).question == text
    assert read({**CHOICES, "question": "Is it 4 or 5?", "answer": "A"}).question.endswith("(A) 4 (B) 5")


def test_an_index_becomes_its_letter() -> None:
    assert read({**CHOICES, "answer": 1}).answer == "B"
    assert read({**CHOICES, "answer": 4}).answer == "4"
    assert read({**CHOICES, "choices": ["no", "yes"], "answer": 1}).answer == "yes"


def test_the_other_fields() -> None:
    row = {
        **GOOD,
        "id": 17,
        "unit": "cm",
        "precision": "2",
        "answer_type": "float",
        "solution": "There are two.",
        "key_steps": [["one", "1"], ["two"]],
        "task": "counting",
        "subtask": "dots",
        "level": 3,
    }
    question = read(row)
    assert (question.id, question.unit, question.precision, question.answer_type) == ("17", "cm", 2.0, "numeric")
    assert (question.solution, question.key_steps) == ("There are two.", (("one", "1"), ("two",)))
    assert (question.task, question.subtask, question.extra["level"]) == ("counting", "dots", 3)
    assert "key_steps" not in question.extra


@pytest.mark.parametrize("steps", [["a", "b"], {"Walk": [["a"]]}, [[]], [[1]], "a"])
def test_other_forms_of_steps_stay_as_they_are(steps: object) -> None:
    question = read({**GOOD, "steps": steps})
    assert question.key_steps == ()
    assert question.extra["steps"] == steps


def test_the_answer_is_taken_out_of_a_worked_solution() -> None:
    worked = r"Half of three is \boxed{\frac{3}{2}}."
    question = read({"problem": "Half of 3?", "solution": worked})
    assert (question.answer, question.solution) == (r"\frac{3}{2}", worked)
    assert last_boxed(r"\boxed{1} then \boxed{{2}}") == "{2}"
    assert last_boxed(r"\boxed{1") is None
    assert last_boxed("1") is None


def test_the_chinese_question_is_no_variant() -> None:
    question = read({**GOOD, "question_zh": "有几个点？"})
    assert question.variants == ()
    assert question.extra["question_zh"] == "有几个点？"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "How many?"}, ["no answer", "answer, reward_model.ground_truth", "found: id, question"]),
        ({"question": "How many?", "answer": None}, ["no answer", "column 'answer' is empty"]),
        ({"answer": "2"}, ["no question", "problem, question, prompt"]),
        ({"question": "", "answer": "2"}, ["no question", "column 'question' is empty"]),
        ({"question": "How many?", "answer": " "}, ["no answer", "column 'answer' is empty"]),
        ({"question": "How many?", "answer": ["2", "3"]}, ["answer is a list"]),
        ({"question": ["a"], "answer": "2"}, ["one user message"]),
        (
            {"question": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "answer": "2"},
            ["one user message"],
        ),
        ({"question": [{"role": "user", "content": [{"type": "video"}]}], "answer": "2"}, ["neither text nor image"]),
        ({"question": "half \ud800", "answer": "2"}, ["half a Unicode character"]),
        ({**GOOD, "precision": "many"}, ["precision", "many"]),
        ({**GOOD, "choices": "a, b"}, ["choices is a string"]),
    ],
)
def test_wrong_rows_are_named(row: dict, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        read({"id": "r4", **row})
    text = str(caught.value)
    assert all(word in text for word in ["train.jsonl line 5, id r4", *words])
    assert "\n" not in text


NAN = float("nan")


@pytest.mark.parametrize("nothing", [None, NAN, "", " ", "nan", "<NA>"])
def test_nothing_is_nothing_in_every_column(nothing: object) -> None:
    names = ("id", "solution", "unit", "precision", "subtask", "task", "choices", "variants", "key_steps", "image")
    question = read({**GOOD, **dict.fromkeys((*names, "answer_type"), nothing)})
    assert replace(question, extra={}) == read(GOOD)


@pytest.mark.parametrize("nothing", [None, NAN, "", "nan"])
def test_a_missing_truth_is_refused_or_taken_from_the_next_column(nothing: object) -> None:
    assert read({**GOOD, "answer": nothing, "label": "3"}).answer == "3"
    with pytest.raises(UserError, match="no answer: column 'answer' is empty"):
        read({**GOOD, "answer": nothing})


@pytest.mark.parametrize(
    "row",
    [
        {**GOOD, "choices": ["a", NAN, "nan", True]},
        {**GOOD, "variants": ["Count.", NAN]},
        {**GOOD, "key_steps": [["a", NAN]]},
        {**GOOD, "precision": float("inf")},
    ],
)
def test_nothing_inside_a_list_is_refused(row: dict) -> None:
    with pytest.raises(UserError, match=r"train\.jsonl line 5, id train-4"):
        read(row)


@pytest.mark.parametrize("empty", [[], None, NAN, "", [None], [""], {"bytes": None, "path": None}, [{"bytes": None}]])
def test_an_empty_image_column_hides_no_picture(empty: object) -> None:
    for row in ({"images": empty, "image": "a.png"}, {"images": empty, "image": [], "image_path": "a.png"}):
        assert [image.name for image in read({**GOOD, **row}).images] == ["a.png"]


def test_pictures_as_base64_text() -> None:
    png = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(80)).decode()
    for text in (png, f"data:image/png;base64,{png}", png[:50] + "\n" + png[50:]):
        question = read({**GOOD, "image": [text, "a.png"]})
        assert question.images[0] == EncodedImage(
            b"\x89PNG\r\n\x1a\n" + bytes(80), "number 0 (train.jsonl line 5, id train-4)"
        )
        assert question.notes == (Note.BASE64,)
    with pytest.raises(UserError, match="not base64") as caught:
        read({**GOOD, "image": f"data:image/png;base64,{'?' * 9000}"})
    assert len(str(caught.value)) < 200
    (image,) = read({**GOOD, "image": "ab" * 5000}).images
    assert len(image.name) < 100


@pytest.mark.parametrize("name", ["nlvr2:train-0.png", "a:b/c.png", "10:30.png", "C:x.png"])
def test_a_colon_may_stand_in_a_file_name(name: str) -> None:
    assert [image.name for image in read({**GOOD, "image": name}).images] == [name]


@pytest.mark.parametrize("name", ["https://a.org/a.png", "s3://b/a.png", "file:///a.png", "file:a.png", "data:,x"])
def test_addresses_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="is an address"):
        read({**GOOD, "image": name})


@pytest.mark.parametrize("answer", ["AC", "A, C", "B. green", "(B) green", 2.0, 1, "green", "the second option"])
def test_choices_are_shown_however_the_truth_names_them(answer: object) -> None:
    row = {"question": "Which?", "choices": ["red", "green", "blue"], "variants": ["Which one?"], "answer": answer}
    shown = "\nChoices: (A) red (B) green (C) blue"
    assert read(row).wordings == (f"Which?{shown}", f"Which one?{shown}")


def test_a_gap_among_choices_keeps_its_letter() -> None:
    row = {"question": "Which?", "choices": ["", "red", None, "blue", NAN, " "], "answer": "B"}
    question = read(row)
    assert question.choices == ("", "red", "", "blue")
    assert question.question == "Which?\nChoices: (B) red (D) blue"
    assert read({**row, "choices": ["", None]}).choices == ()


def test_more_choices_than_letters_are_refused() -> None:
    words = [f"word{i}" for i in range(30)]
    assert read({"question": "Which?", "choices": words[:26], "answer": "word25"}).question.endswith("(Z) word25")
    for answer in ("word27", 27, "A"):
        with pytest.raises(UserError, match=r"choices: 30 choices, and 26 \(A to Z\) is the most"):
            read({"question": "Which?", "choices": words, "answer": answer})


SYSTEM = {"role": "system", "content": "Answer in Roman numerals."}
USER = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many dots?"}]}


def test_a_system_turn_opens_every_wording() -> None:
    question = read({"prompt": [SYSTEM, USER], "image": "a.png", "answer": "II", "variants": ["Count the dots."]})
    assert question.system == "Answer in Roman numerals."
    assert question.notes == (Note.SYSTEM,)
    assert question.wordings == (
        "Answer in Roman numerals.\n\n<image>How many dots?",
        "Answer in Roman numerals.\n\nCount the dots.",
    )
    assert reworded(question, "Give the number.") == "Answer in Roman numerals.\n\nGive the number."


@pytest.mark.parametrize("content", [None, "", " ", []])
def test_an_empty_system_turn_is_none(content: object) -> None:
    question = read({"prompt": [{"role": "system", "content": content}, USER], "image": "a.png", "answer": "2"})
    assert (question.question, question.system, question.notes) == ("<image>How many dots?", "", ())


@pytest.mark.parametrize("content", [[{"type": "image"}], 3, [{"type": "video"}]])
def test_a_system_turn_holds_text(content: object) -> None:
    with pytest.raises(UserError, match=r"line 5, id train-4: prompt"):
        read({"prompt": [{"role": "system", "content": content}, USER], "image": "a.png", "answer": "2"})


def test_a_solution_beside_the_answer_loses_its_tags() -> None:
    question = read({**GOOD, "solution": "<think>I count.</think><answer>2</answer>"})
    assert (question.answer, question.solution, question.notes) == ("2", "I count.", (Note.THOUGHT,))
    assert read({**GOOD, "solution": "<answer>2</answer>"}).solution is None


def test_a_solution_alone_is_answer_and_thought() -> None:
    question = read({"problem": "How many?", "solution": "<think> I count. </think><answer> 2 </answer>"})
    assert (question.answer, question.solution, question.notes) == ("2", "I count.", (Note.TAGS,))
    question = read({"problem": "How many?", "answer": "One and one.\n#### 2"})
    assert (question.answer, question.solution, question.notes) == ("2", "One and one.", (Note.HASHES,))


@pytest.mark.parametrize("label", ["{}. ", "({}) ", "{}) ", "{}:", "{}."])
def test_letters_in_choices_are_shown_once(label: str) -> None:
    choices = [label.format(letter) + text for letter, text in zip("AB", ("red", "blue"), strict=True)]
    question = read({"question": "Which?", "choices": choices, "answer": choices[1]})
    assert (question.choices, question.notes) == (("red", "blue"), (Note.LABELS,))
    assert question.question == "Which?\nChoices: (A) red (B) blue"
    kept = read({"question": "Which?", "choices": ["A. Smith", "B. Jones", "none"], "answer": "A"})
    assert kept.choices == ("A. Smith", "B. Jones", "none")
