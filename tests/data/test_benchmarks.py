"""Published benchmark formats, each written here with made-up questions and small pictures in exactly its columns."""

import base64
import csv
import io
import json

import datasets
import pytest
from PIL import Image

from sharegrpo_rl.data import images
from sharegrpo_rl.data.benchmarks import cells
from sharegrpo_rl.data.benchmarks.layout import LAYOUTS, find_layout, recognized
from sharegrpo_rl.data.benchmarks.rows import facts_of
from sharegrpo_rl.data.benchmarks.table import BenchmarkTable
from sharegrpo_rl.data.loading import load_bank
from sharegrpo_rl.data.tables import HubTable
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.grader import check_truth


def png(color):
    file = io.BytesIO()
    Image.new("RGB", (8, 6), color).save(file, "PNG")
    return file.getvalue()


def b64(color):
    return base64.b64encode(png(color)).decode()


def color_of(image):
    return image.open().getpixel((0, 0))


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture
def tsv(tmp_path):
    def make(name, rows):
        columns = list(dict.fromkeys(key for row in rows for key in row))
        path = tmp_path / f"{name}.tsv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, delimiter="\t", restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        return str(path)

    return make


@pytest.fixture
def parquet(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(name, rows, images):
        data = {key: [row.get(key) for row in rows] for key in dict.fromkeys(k for row in rows for k in row)}
        table = datasets.Dataset.from_dict(data)
        for column in images:
            table = table.cast_column(column, datasets.Image())
        path = tmp_path / "data" / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        table.to_parquet(str(path))
        return str(path)

    return make


def struct(color):
    return {"bytes": png(color), "path": "a.png"}


def read(data, benchmark=None, split="test"):
    bank = load_bank(data, split, benchmark=benchmark or recognized(data))
    questions = [bank[index] for index in range(len(bank))]
    for question in questions:
        check_truth(question)
    return questions


def choices_tsv(**changes):
    base = {"index": 0, "image": b64(RED), "question": "Which color?", "A": "red", "B": "green", "answer": "A"}
    return {**base, "category": "colors", "l2-category": "plain colors", **changes}


# ---- VLMEvalKit TSV


def test_multiple_choice_with_hint_and_references_to_images(tsv):
    rows = [
        choices_tsv(index=10),
        choices_tsv(index=11, image="10", hint="Look closely.", C="blue", D="", answer="B"),
        choices_tsv(index=12, image=b64(BLUE), C="blue", D="grey", E="pink", F="none", answer="C", category="other"),
    ]
    first, second, third = read(tsv("Mine", rows))
    assert (first.id, first.answer, first.choices, first.subtask) == ("10", "A", ("red", "green"), "colors")
    assert first.question == "Which color?\nChoices: (A) red (B) green"
    assert color_of(second.images[0]) == RED
    assert second.images[0].fingerprint() == first.images[0].fingerprint()
    assert second.question.startswith("Hint: Look closely.\nWhich color?")
    assert second.choices == ("red", "green", "blue")
    assert third.choices[-1] == "none"
    assert facts_of(third).categories == {"category": ["other"], "l2-category": ["plain colors"]}
    assert facts_of(third).row["index"] == "12"
    assert "image" not in facts_of(third).row


def test_yes_no_open_and_listed_answers(tsv):
    rows = [
        {"index": 0, "image": b64(RED), "question": "Is it red?", "answer": "Yes"},
        {"index": 1, "image": b64(RED), "question": "Which share?", "answer": "['1/2', '0.5']"},
        {"index": 2, "image": b64(RED), "question": "Which two?", "answer": "[3, 4]"},
        {"index": 3, "image": b64(RED), "question": "Which range?", "answer": "[0, 1)"},
    ]
    verdict, share, two, span = read(tsv("Mine", rows))
    assert verdict.answer == "Yes"
    assert (share.answer, facts_of(share).accepted_answers) == ("1/2", ("1/2", "0.5"))
    assert (two.answer, facts_of(two).accepted_answers) == ("[3, 4]", ())
    assert span.answer == "[0, 1)"


def test_several_images_and_image_files(tsv, tmp_path):
    (tmp_path / "pictures").mkdir()
    for name, color in (("a", RED), ("b", BLUE)):
        (tmp_path / f"pictures/{name}.png").write_bytes(png(color))
    several = {"index": 0, "question": "Compare <image 2> with <image 1>.", "answer": "3"}
    (listed,) = read(tsv("Listed", [{**several, "image": str([b64(RED), b64(BLUE)])}]))
    assert listed.question == "Compare <image> with <image>."
    assert [color_of(image) for image in listed.images] == [BLUE, RED]
    (filed,) = read(tsv("Filed", [{**several, "image_path": "['pictures/a.png', 'pictures/b.png']"}]))
    assert [color_of(image) for image in filed.images] == [BLUE, RED]
    (one,) = read(tsv("One", [{**several, "question": "What?", "image_path": "pictures/a.png"}]))
    assert [color_of(image) for image in one.images] == [RED]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": "77"}, "row 0: image '77' names no row"),
        ({"image": "%" * 100}, "row 0: image: not base64"),
        ({"answer": ""}, "row 0: no answer"),
        ({"question": ""}, "row 0: column 'question' is empty"),
        ({"question": "See <image 2>."}, "row 0: <image 2> is marked"),
        ({"answer": "E"}, "none of the 2 choices"),
    ],
)
def test_a_bad_row_is_named(tsv, changes, words):
    with pytest.raises(UserError, match=words) as error:
        read(tsv("Mine", [choices_tsv(**changes)]))
    assert "\n" not in str(error.value)


def test_sizes_are_limited_before_anything_is_decoded(tsv, monkeypatch):
    path = tsv("Mine", [choices_tsv()])
    monkeypatch.setattr(images, "MAX_TEXT_BYTES", 40)
    with pytest.raises(UserError, match="row 0: image: an image of more than"):
        read(path)
    with pytest.raises(UserError, match="characters"):
        cells.text_list("[" + "1," * 60_000 + "]", "here")
    with pytest.raises(UserError, match="images"):
        cells.base64_images(str([b64(RED)] * 65), "here")


@pytest.mark.parametrize("text", ["__import__('os').getcwd()", "[x for x in (1,)]", "{'a': 1}", "[" * 5000])
def test_lists_are_parsed_and_never_run(text):
    with pytest.raises(UserError, match="list"):
        cells.text_list(text, "here")


# ---- each benchmark


def test_pope(tsv, parquet):
    rows = [
        {"index": 0, "image": b64(RED), "question": "Is it red?", "answer": "Yes", "category": "random,popular"},
        {"index": 1, "image": "0", "question": "Is it blue?", "answer": "No", "category": "adversarial"},
    ]
    first, second = read(tsv("POPE", rows))
    assert facts_of(first).categories == {"category": ["random", "popular"]}
    assert (first.answer, second.answer, second.subtask, first.answer_type) == ("yes", "no", "adversarial", "yes_no")
    hub = {
        "id": "5",
        "question_id": "1",
        "question": "Is it red?",
        "answer": "yes",
        "image_source": "x",
        "category": "random",
    }
    (question,) = read(parquet("test-00000-of-00001", [{**hub, "image": struct(RED)}], ["image"]), "pope")
    assert (question.id, question.answer, question.subtask) == ("5", "yes", "random")
    with pytest.raises(UserError, match="neither yes nor no"):
        read(tsv("POPE", [{**rows[0], "answer": "maybe"}]))


def vista(**changes):
    metadata = {
        "category": "math-targeted-vqa",
        "context": "natural image",
        "grade": "daily life",
        "img_height": 6,
        "img_width": 8,
        "language": "english",
        "skills": ["numeric commonsense", "arithmetic reasoning"],
        "source": "made up",
        "split": "testmini",
        "task": "figure question answering",
    }
    row = {"pid": "1", "question": "How long?", "image": "images/1.jpg", "decoded_image": struct(RED), "choices": None}
    row |= {"unit": "cm", "precision": 1.0, "answer": "1.2", "question_type": "free_form", "answer_type": "float"}
    return {**row, "metadata": metadata, "query": "Hint: ...", **changes}


def test_math_vista(tsv, parquet):
    choice = {"pid": "2", "choices": ["145°", "55°"], "unit": None, "precision": None, "answer": "55°"}
    choice |= {"question_type": "multi_choice", "answer_type": "text"}
    rows = [vista(), vista(**choice), vista(pid="3", unit=None, answer="[1, 2]", answer_type="list")]
    number, option, listed = read(parquet("testmini-00000-of-00001", rows, ["decoded_image"]), "mathvista")
    assert (number.id, number.unit, number.precision, number.answer_type) == ("1", "cm", 1.0, "numeric")
    assert number.question == "How long? (Unit: cm)"
    assert color_of(number.images[0]) == RED
    assert number.subtask == "figure question answering"
    assert facts_of(number).categories["skills"] == ["numeric commonsense", "arithmetic reasoning"]
    assert (option.choices, option.answer) == (("145°", "55°"), "55°")
    assert listed.answer == "[1, 2]"
    tsv_row = {
        "index": 7,
        "image": b64(BLUE),
        "question": "Hint: Please answer.\nQuestion: Which?\nChoices:\n(A) 145°\n(B) 55°",
        "question_type": "multi_choice",
        "answer_type": "text",
        "choices": "['145°', '55°']",
        "answer": "55°",
        "answer_option": "B",
        "task": "geometry",
        "skills": "['geometry reasoning']",
    }
    (question,) = read(tsv("MathVista_MINI", [tsv_row]))
    assert question.question == tsv_row["question"]
    assert (question.answer, question.choices, question.subtask) == ("55°", ("145°", "55°"), "geometry")


def test_mm_star(tsv, parquet):
    question = "Which side?\nOptions: A: From behind, B: Above, left of it, C: In front of, D: From the side"
    meta = {"source": "made up", "split": "val", "image_path": "images/0.jpg"}
    row = {"index": 3, "question": question, "image": struct(GREEN), "answer": "B", "category": "coarse perception"}
    row |= {"l2_category": "image scene", "meta_info": meta}
    (hub,) = read(parquet("mmstar", [row], ["image"]), "mmstar")
    assert hub.choices == ("From behind", "Above, left of it", "In front of", "From the side")
    assert (hub.id, hub.question, hub.subtask) == ("3", question, "coarse perception")
    (kit,) = read(tsv("MMStar", [choices_tsv()]))
    assert facts_of(kit).categories == {"category": ["colors"], "l2-category": ["plain colors"]}


def mmmu_row(**changes):
    row = {"id": "validation_Art_1", "question": "Which of <image 1> fits <image 2>?", "explanation": ""}
    row |= {"options": "['<image 3>', 'the left one', \"it isn't\"]", "img_type": "['Paintings']", "answer": "B"}
    row |= {"topic_difficulty": "Easy", "question_type": "multiple-choice", "subfield": "Drawing"}
    colors = dict(zip(range(1, 4), (RED, GREEN, BLUE), strict=True))
    return {**row, **{f"image_{n}": struct(colors[n]) if n in colors else None for n in range(1, 8)}, **changes}


def test_mmmu(tsv, parquet):
    open_row = {"id": "validation_Math_2", "question": "How many? <image 1>", "options": "[]", "question_type": "open"}
    open_row |= {"answer": "['12', 'twelve']", "image_2": None, "image_3": None}
    images = [f"image_{n}" for n in range(1, 8)]
    option, number = read(parquet("validation-00000-of-00001", [mmmu_row(), mmmu_row(**open_row)], images), "mmmu")
    assert option.question == ("Which of <image> fits <image>?\nChoices: (A) <image> (B) the left one (C) it isn't")
    assert [color_of(image) for image in option.images] == [RED, GREEN, BLUE]
    assert option.subtask == "Drawing"
    assert (number.answer, facts_of(number).accepted_answers) == ("12", ("12", "twelve"))
    with pytest.raises(UserError, match=r"row 0: no answer.*--split"):
        read(parquet("test-00000-of-00001", [mmmu_row(answer="?")], images), "mmmu")
    with pytest.raises(UserError, match=r"row 0: no answer.*--split"):
        read(parquet("test", [vista(answer="")], ["decoded_image"]), "mathvista")
    with pytest.raises(UserError, match="row 0: image_2 is empty"):
        read(parquet("dev-00000-of-00001", [mmmu_row(image_2=None)], images), "mmmu")
    kit = [choices_tsv(split="dev", index=1), choices_tsv(split="validation", index=2, category="Art")]
    (asked,) = read(tsv("MMMU_DEV_VAL", kit))
    assert (asked.id, asked.subtask) == ("2", "Art")


def verse(**changes):
    metadata = {"split": "testmini", "source": "made up", "subject": "Plane Geometry", "subfield": "Length"}
    row = {"sample_index": "1", "problem_index": "1", "problem_version": "Text Dominant", "image": struct(RED)}
    row |= {"question": "Find x.\nChoices:\nA:1 cm\nB:2 cm", "answer": "B", "question_type": "multi-choice"}
    return {
        **row,
        "metadata": metadata,
        "query_wo": "...",
        "query_cot": "...",
        "question_for_eval": "Find x.",
        **changes,
    }


def test_math_verse(tsv, parquet):
    seen = {"sample_index": "5", "problem_version": "Vision Only", "question": ""}
    rows = [verse(), verse(sample_index="2", question="Find y.", answer="3", question_type="free-form"), verse(**seen)]
    option, number, vision = read(parquet("testmini", rows, ["image"]), "mathverse")
    assert (option.choices, option.answer, option.subtask) == (("1 cm", "2 cm"), "B", "Text Dominant")
    assert option.question == rows[0]["question"]
    assert (number.choices, number.answer) == ((), "3")
    assert facts_of(number).categories["subfield"] == ["Length"]
    assert (vision.question[:13], vision.answer, vision.choices) == ("According to ", "B", ())
    kit = {"index": 4, "image": b64(RED), "question": "Find x.\nChoices:\nA:1\nB:2", "answer": "A"}
    (asked,) = read(tsv("MathVerse_MINI", [{**kit, "question_type": "multi-choice", "problem_version": "Text Lite"}]))
    assert (asked.id, asked.choices, asked.subtask) == ("4", ("1", "2"), "Text Lite")


def test_math_vision(tsv, parquet):
    row = {
        "id": "9",
        "question": "Which piece?\n<image1>",
        "options": ["A", "B", "C", "D", "E"],
        "image": "images/9.jpg",
    }
    row |= {"decoded_image": struct(RED), "answer": "D", "solution": None, "level": 2, "subject": "counting"}
    rows = [row, {**row, "id": "10", "question": "How many? <image1> <image2>", "options": [], "answer": "12"}]
    piece, number = read(parquet("test-00000-of-00001", rows, ["decoded_image"]), "mathvision")
    assert (piece.choices, piece.answer, len(piece.images)) == (("A", "B", "C", "D", "E"), "D", 1)
    assert "<image" not in piece.question
    assert (number.choices, number.answer, number.solution) == ((), "12", None)
    assert facts_of(number).categories == {"subject": ["counting"], "level": ["2"]}
    kit = {
        "index": 1,
        "image": b64(RED),
        "question": "How many?",
        "choices": "[]",
        "answer": "12",
        "category": "counting",
    }
    (asked,) = read(tsv("MathVision_MINI", [{**kit, "level": 1}]))
    assert (asked.answer, asked.subtask) == ("12", "counting")


def test_ai2d(tsv, parquet):
    row = {
        "question": "Who eats whom?",
        "options": ["fox", "owl", "frog", "snake"],
        "answer": "2",
        "image": struct(RED),
    }
    (hub,) = read(parquet("test-00000-of-00001", [row], ["image"]), "ai2d")
    assert (hub.answer, hub.choices[2]) == ("C", "frog")
    with pytest.raises(UserError, match="row 0: answer is '4', not an index"):
        read(parquet("other", [{**row, "answer": "4"}], ["image"]), "ai2d")
    (kit,) = read(tsv("AI2D_TEST", [choices_tsv()]))
    assert kit.answer == "A"


def test_we_math(tsv, parquet):
    row = {"ID": "p1", "split": "testmini", "knowledge concept": "Area", "question": "How large?", "key": "2steps_1"}
    row |= {"option": "A. 5 cm; B. 7 cm; C. No correct answer", "answer": "B", "image_path": struct(RED)}
    row |= {"question number": 1, "knowledge concept description": "..."}
    rows = [row, {**row, "key": "2steps_multi"}]
    first, composite = read(parquet("testmini-00000-of-00001", rows, ["image_path"]), "wemath")
    assert first.choices == ("5 cm", "7 cm", "No correct answer")
    assert (first.id, first.answer, composite.subtask) == ("p1-2steps_1", "B", "2steps_multi")
    assert facts_of(composite).labels == {"ID": "p1", "key": "2steps_multi"}
    with pytest.raises(UserError, match="row 0: key '4steps_1'"):
        read(parquet("wrong", [{**row, "key": "4steps_1"}], ["image_path"]), "wemath")
    kit = choices_tsv(ID="p2", key="3steps_3", **{"knowledge concept": "Area"})
    (asked,) = read(tsv("WeMath", [kit]))
    assert facts_of(asked).labels == {"ID": "p2", "key": "3steps_3"}


def test_geo_qa_and_counting(tmp_path, parquet):
    row = {"image": struct(RED), "problem": "Find the angle.", "solution": "<answer> 145° </answer>"}
    (geometry,) = read(parquet("train-00000-of-00001", [row], ["image"]), "geoqa")
    assert geometry.answer == "145°"
    (count,) = read(parquet("clevr", [{**row, "solution": "<answer> 3 </answer>"}], ["image"]), "clevr")
    assert (count.answer, count.answer_type) == ("3", "numeric")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/super_1.png").write_bytes(png(BLUE))
    line = {"image_path": "./images/super_1.png", "question": "How many different items?", "ground_truth": 4}
    (tmp_path / "superclevr_test200.jsonl").write_text(json.dumps(line) + "\n")
    (other,) = read(str(tmp_path / "superclevr_test200.jsonl"), "superclevr")
    assert (other.answer, color_of(other.images[0])) == ("4", BLUE)


def test_a_table_of_the_hub(parquet):
    """What `datasets` loads is read like the file that it comes from."""
    row = {"id": "5", "question": "Is it red?", "answer": "yes", "category": "random", "image": struct(RED)}
    loaded = datasets.load_dataset("parquet", data_files={"test": parquet("test", [row] * 2, ["image"])})
    table = BenchmarkTable(HubTable(loaded["test"], "lmms-lab/POPE [test]"), find_layout("pope"))
    assert len(table) == 2
    assert table[1]["answer"] == "yes"
    assert table[1]["images"][0]["bytes"] == png(RED)
    assert table.location(1) == "lmms-lab/POPE [test] row 1"
    assert set(table[1]["benchmark_facts"].row) == {"id", "question", "answer", "category"}


# ---- which file


def test_folders_shards_and_splits(tmp_path, parquet):
    row = {"question": "Who?", "options": ["fox", "owl"], "answer": "0", "image": struct(RED)}
    for number in range(2):
        parquet(f"test-0000{number}-of-00002", [row], ["image"])
    parquet("train", [row] * 3, ["image"])
    assert len(read(str(tmp_path), "ai2d")) == 2
    assert len(read(str(tmp_path / "data/test-00000-of-00002.parquet"), "ai2d")) == 2
    assert len(read(str(tmp_path), "ai2d", split="train")) == 3
    (tmp_path / "data/test-00001-of-00002.parquet").unlink()
    with pytest.raises(UserError, match="1 of 2 shards"):
        read(str(tmp_path), "ai2d")
    with pytest.raises(UserError, match="has no testmini file"):
        read(str(tmp_path), "mathvista")
    with pytest.raises(UserError, match="is not there"):
        read(str(tmp_path / "nothing.tsv"), "ai2d")


def test_the_wrong_layout_says_so(parquet):
    row = {"question": "Who?", "options": ["fox", "owl"], "answer": "0", "image": struct(RED)}
    with pytest.raises(UserError, match=r"row 0: no column 'ID'.*--benchmark"):
        read(parquet("a", [{**row, "option": "A. 1; B. 2"}], ["image"]), "wemath")
    with pytest.raises(UserError, match="did you mean mathvista"):
        find_layout("mathvist")


def test_what_is_recognized():
    assert recognized("AI4Math/MathVista") == "mathvista"
    assert recognized("some/folder/MathVerse_MINIV.tsv") == "mathverse"
    assert recognized("MMMU_DEV_VAL.tsv") == "mmmu"
    assert recognized("Other.tsv") == "vlmevalkit"
    assert recognized("data/mine") is None
    assert {layout.name for layout in LAYOUTS.values() if layout.metric != "accuracy"} == {"pope", "wemath"}


def test_options_in_a_string():
    assert cells.listed_options("A. 1, 2 and C. elegans; B. 3", "here") == ("1, 2 and C. elegans", "3")
    with pytest.raises(UserError, match="without options"):
        cells.listed_options("none of these", "here")
