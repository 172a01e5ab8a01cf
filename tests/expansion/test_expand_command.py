"""`expand` from data set to data set: what it writes, what it refuses, and that a killed run goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from expansion_parts import KEY, json_lines, question_row
from fake_endpoint import FakeEndpoint, answer, error, hang, in_turn, prompt_of, question_of, rewording, rewordings

from sharegrpo_rl.cli import run as run_command
from sharegrpo_rl.data.bank_check import check_bank
from sharegrpo_rl.data.loading import load_bank
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.grader import check_truth

Expand = Callable[..., str]
MakeSet = Callable[..., Path]


def everything_written(folder: Path) -> str:
    return "\n".join(p.read_bytes().decode("utf-8", "replace") for p in sorted(folder.rglob("*")) if p.is_file())


def test_the_new_set_loads_as_it_is_and_keeps_every_column(
    make_set: MakeSet, run_expand: Expand, tmp_path: Path, endpoint: FakeEndpoint
) -> None:
    rows = [
        question_row(0, note={"deep": [1, None]}, level=3.5),
        question_row(1, question_variants=["Count the red ones of 21 dots in the picture."], extra="ü"),
        question_row(2, image=None, question="What is 3 + 4?", answer="7"),
        question_row(
            3, image=["images/a.png", "images/a.png"], question="<image><image> Are these the same?", answer="yes"
        ),
    ]
    summary = run_expand(make_set(rows), variants=3)
    new = tmp_path / "new"
    for split, count in (("train", 4), ("test", 1)):
        bank = load_bank(str(new), split)
        check_bank(bank, check_truth)
        assert len(bank) == count
    bank = load_bank(str(new), "train")
    assert [len(bank[i].variants) for i in range(4)] == [3, 4, 3, 3]
    assert all(v.startswith("<image><image> ") for v in bank[3].variants)
    written = json_lines(new / "train.jsonl")
    assert [{k: v for k, v in row.items() if k != "variants"} for row in written] == rows
    assert written[1]["variants"][0] == rows[1]["question_variants"][0]
    assert "variants" not in json_lines(new / "test.jsonl")[0]
    assert summary.startswith(f"wrote {new}: 12 of 12 variants for 4 questions; 4 have all 3, 0 have none; rejected 0;")
    assert len(endpoint.requests) == 4
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == ["dots", "new", "new.journal.jsonl"]


def test_where_it_came_from_is_stored_and_the_key_is_not(
    make_set: MakeSet, run_expand: Expand, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    data = make_set([question_row(0)])
    summary = run_expand(data, seed=5)
    stored = json.loads((tmp_path / "new/expansion/provenance.json").read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\+00:00", stored["date"])
    assert stored["made_by"].startswith("sharegrpo_rl ")
    assert stored["source"] == str(data)
    assert stored["asked"].startswith("good-model at http://127.0.0.1:")
    assert stored["settings"]["seed"] == 5
    assert "rewrite-1" in stored["settings"]["prompts"]
    assert len(stored["settings"]["source_digest"]) == 32
    assert stored["counts"]["variants"] == 2
    assert KEY not in everything_written(tmp_path) + summary + "".join(capfd.readouterr())


def test_rejected_rewordings_are_listed_and_asked_for_again(
    make_set: MakeSet, run_expand: Expand, tmp_path: Path, endpoint: FakeEndpoint
) -> None:
    question = "How many of the 20 dots in the image are red?"
    first = [
        question,
        "How many of the 30 dots in the image are red?",
        "Of the 20 dots in the image, count the red ones.",
    ]
    endpoint.script = in_turn(answer(f"```json\n{json.dumps(first)}\n```"))
    summary = run_expand(make_set([question_row(0)]), variants=2)
    (row,) = json_lines(tmp_path / "new/train.jsonl")
    assert len(row["variants"]) == 2
    assert row["variants"][0] == first[2]
    rejected = json_lines(tmp_path / "new/expansion/rejected.jsonl")
    assert [(r["id"], r["row"], r["file"], r["check"]) for r in rejected] == [
        ("r0", 0, "train.jsonl", "identical"),
        ("r0", 0, "train.jsonl", "numbers"),
    ]
    assert rejected[1]["text"] == first[1]
    assert "rejected 2 (identical 1, numbers 1)" in summary
    again = prompt_of(endpoint.requests[1])
    assert "in 1 other ways" in again
    assert f"- {first[2]}" in again
    assert "lost 20 and added 30" in again


def test_wordings_that_exist_are_not_taken_again(
    make_set: MakeSet, run_expand: Expand, tmp_path: Path, endpoint: FakeEndpoint
) -> None:
    own = "Count the red ones of 20 dots in the image."
    new = "Of the 20 dots in the image, how many are red?"
    endpoint.script = lambda number, body: answer(json.dumps([own.upper(), new, f"{new} "]))
    run_expand(make_set([question_row(0, question_variants=[own])]), variants=3, attempts=1)
    assert json_lines(tmp_path / "new/train.jsonl")[0]["variants"] == [own, new]
    rejected = json_lines(tmp_path / "new/expansion/rejected.jsonl")
    assert [r["reason"] for r in rejected] == ["the same as another wording"] * 2


def test_replies_without_a_list_are_counted(
    make_set: MakeSet, run_expand: Expand, tmp_path: Path, endpoint: FakeEndpoint
) -> None:
    endpoint.script = lambda number, body: answer("I would rather not.", "length")
    summary = run_expand(make_set([question_row(0)]), attempts=3)
    assert "0 of 2 variants for 1 questions; 0 have all 2, 1 have none; rejected 3 (reply 3)" in summary
    assert len(endpoint.requests) == 3  # another seed each time, or it would be the same reply
    assert len({body["seed"] for body in endpoint.requests}) == 3
    rejected = json_lines(tmp_path / "new/expansion/rejected.jsonl")
    assert "it was cut at --max-tokens" in rejected[0]["reason"]


def test_equal_questions_are_asked_once(make_set: MakeSet, run_expand: Expand, endpoint: FakeEndpoint) -> None:
    same = "How many dots are in the image?"
    summary = run_expand(make_set([question_row(n, question=same) for n in range(6)]), concurrency=6)
    assert len(endpoint.requests) == 1
    assert "12 of 12 variants" in summary
    assert "1 requests, 5 replies reused" in summary


def test_splits_and_limits(make_set: MakeSet, run_expand: Expand, tmp_path: Path) -> None:
    data = make_set([question_row(n) for n in range(5)], [question_row(n) for n in range(10, 13)])
    run_expand(data, split="test", limit=2)
    rows = {name: json_lines(tmp_path / "new" / f"{name}.jsonl") for name in ("train", "test")}
    assert [r["id"] for r in rows["train"]] == [f"r{n}" for n in range(5)]
    assert [(r["id"], len(r["variants"])) for r in rows["test"]] == [("r10", 2), ("r11", 2)]
    assert (tmp_path / "new/train.jsonl").read_bytes() == (data / "train.jsonl").read_bytes()


def test_all_splits(make_set: MakeSet, run_expand: Expand, tmp_path: Path) -> None:
    run_expand(make_set([question_row(0)]), split="all")
    assert [len(load_bank(str(tmp_path / "new"), split)[0].variants) for split in ("train", "test")] == [2, 2]


def test_a_test_split_alone(make_set: MakeSet, run_expand: Expand, tmp_path: Path) -> None:
    data = make_set([question_row(0)])
    (data / "train.jsonl").unlink()
    with pytest.raises(UserError, match="no training file"):
        run_expand(data, split="train")
    run_expand(data, split="all")
    assert len(load_bank(str(tmp_path / "new"), "test")[0].variants) == 2


def test_one_file_for_both_splits_in_a_subfolder_with_shared_wordings(
    run_expand: Expand, tmp_path: Path, picture: bytes, endpoint: FakeEndpoint
) -> None:
    folder = tmp_path / "set"
    for path in ("data", "pictures"):
        (folder / path).mkdir(parents=True)
    (folder / "pictures/a.png").write_bytes(picture)
    (folder / "question_variants.json").write_text('{"dots": ["Count the dots in the picture."]}')
    rows = [question_row(n, image="../pictures/a.png", subtask="dots") for n in range(4)]
    (folder / "data/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_expand(folder, split="all", variants=1)
    assert (tmp_path / "new/pictures/a.png").read_bytes() == picture
    bank = load_bank(str(tmp_path / "new"), "train", test_fraction=0.5)
    assert [len(bank[i].variants) for i in range(2)] == [2, 2]
    assert len(endpoint.requests) == 4
    with pytest.raises(UserError, match="no separate file for the test split"):
        run_expand(folder, split="test")


def test_parquet_keeps_types_images_and_description(run_expand: Expand, tmp_path: Path, picture: bytes) -> None:
    import datasets

    text = datasets.Value("string")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "question": text,
            "answer": text,
            "level": datasets.Value("int16"),
            "variants": datasets.List(text),
        }
    )
    rows = [question_row(n, level=n, image={"bytes": picture, "path": "a.png"}) for n in range(5)]
    for row in rows[1:]:
        row["variants"] = ["Count the red dots in the image."]
    rows = [{name: row.get(name) for name in features} for row in rows]
    folder = tmp_path / "set"
    folder.mkdir()
    table = datasets.Dataset.from_list(rows, features=features)
    for n, part in enumerate((range(3), range(3, 5))):
        table.select(part).to_parquet(folder / f"train-0000{n}-of-00002.parquet")
    table.select(range(1)).to_parquet(folder / "test.parquet")
    run_expand(folder, variants=2, limit=4, key_steps=True)
    new = tmp_path / "new"
    bank = load_bank(str(new), "train")
    check_bank(bank)
    assert [len(bank[i].variants) for i in range(len(bank))] == [2, 3, 3, 3]
    assert (new / "test.parquet").read_bytes() == (folder / "test.parquet").read_bytes()
    schema = pq.read_schema(new / "train-00001-of-00002.parquet")
    assert str(schema.field("level").type) == "int16"
    described = datasets.Features.from_arrow_schema(schema)
    assert described == {**features, "key_steps": datasets.List(datasets.List(text))}


def test_a_hub_set_becomes_parquet(
    run_expand: Expand, tmp_path: Path, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    (tmp_path / "a.png").write_bytes(picture)
    row = {"image": str(tmp_path / "a.png"), "question": "How many dots are in the image?", "answer": "2"}
    features = datasets.Features(
        {"image": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.Value("string")}
    )
    rows = datasets.Dataset.from_list([row, row], features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config: {"train": rows, "validation": rows})
    monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", str(tmp_path))
    run_expand("owner/dots", limit=1)
    for split, count, variants in (("train", 1, 2), ("test", 2, 0)):
        bank = load_bank(str(tmp_path / "new"), split)
        check_bank(bank)
        assert (len(bank), len(bank[0].variants)) == (count, variants)


def solve_or_reword(answers: dict[str, str]) -> Callable[[int, dict[str, Any]], Any]:
    """Solves a question by the first word of `answers` that stands in it."""

    def script(number: int, body: dict[str, Any]) -> Any:
        prompt = prompt_of(body)
        if "\\boxed" not in prompt:
            return rewording(body)
        return answer(next(said for word, said in answers.items() if word in prompt))

    return script


def test_verification_compares_the_answers(
    make_set: MakeSet, run_expand: Expand, tmp_path: Path, endpoint: FakeEndpoint
) -> None:
    endpoint.script = solve_or_reword(
        {"Please": "So \\boxed{3}", "Here": "\\boxed{2.0}", "Give": "\\boxed{9}", "Say": "no idea", "How": "\\boxed{3}"}
    )
    run_expand(make_set([question_row(0)]), variants=4, attempts=1, verify=True)
    (row,) = json_lines(tmp_path / "new/train.jsonl")
    # the second is right, the first makes the original's mistake
    assert [text.split()[0] for text in row["variants"]] == ["Please", "Here"]
    rejected = json_lines(tmp_path / "new/expansion/rejected.jsonl")
    assert [r["reason"] for r in rejected] == [
        "the model answers '9' to it and '3' to the original",
        "the model gave no answer to it",
    ]
    solved = [b for b in endpoint.requests if isinstance(b["messages"][0]["content"], list)]
    assert len(solved) == 5  # the original once
    assert {b["temperature"] for b in solved} == {0.0}


def test_verification_shows_the_choices(make_set: MakeSet, run_expand: Expand, endpoint: FakeEndpoint) -> None:
    endpoint.script = solve_or_reword({"(B) ring": "\\boxed{B}", "": "\\boxed{A}"})
    row = question_row(0, question="Which shape is in the image?", answer="B", choices=["disc", "ring"])
    assert "2 of 2 variants" in run_expand(make_set([row]), verify=True)


def test_key_steps_come_from_solutions(
    make_set: MakeSet, run_expand: Expand, tmp_path: Path, endpoint: FakeEndpoint
) -> None:
    solution = "The angle sum gives a + b = 180, so half of it is 90."
    reply = json.dumps([["angle sum"], ["a + b = 180", "b + a = 180"], ["90", "91", "ninety"], ["law of sines"]])
    endpoint.script = lambda number, body: answer(reply)
    rows = [question_row(0, solution=solution), question_row(1), question_row(2, key_steps=[["own step"]])]
    summary = run_expand(make_set(rows), variants=0, key_steps=True)
    bank = load_bank(str(tmp_path / "new"), "train")
    assert bank[0].key_steps == (("angle sum",), ("a + b = 180", "b + a = 180"), ("90", "ninety"))
    assert (bank[1].key_steps, bank[2].key_steps) == ((), (("own step",),))
    assert "1 of 3 questions have key steps; rejected 2 (key_steps 2)" in summary
    assert len(endpoint.requests) == 1


def test_a_finished_set_is_made_again_without_asking(
    make_set: MakeSet, run_expand: Expand, tmp_path: Path, endpoint: FakeEndpoint
) -> None:
    data = make_set([question_row(n) for n in range(3)])
    run_expand(data)
    first = (tmp_path / "new/train.jsonl").read_bytes()
    assert "0 requests, 3 replies reused" in run_expand(data)
    assert (len(endpoint.requests), endpoint.listed) == (3, 1)  # not even the list of models
    assert (tmp_path / "new/train.jsonl").read_bytes() == first
    with pytest.raises(UserError, match="was made with variants 2, now it is 3"):
        run_expand(data, variants=3)
    (data / "train.jsonl").write_text(json.dumps(question_row(7)) + "\n")
    with pytest.raises(UserError, match="was made with source_digest"):
        run_expand(data)


def test_a_question_that_fails_is_reported_and_asked_next_time(
    make_set: MakeSet, run_expand: Expand, tmp_path: Path, endpoint: FakeEndpoint
) -> None:
    endpoint.script = lambda number, body: error(500, "boom") if "of the 21 " in prompt_of(body) else rewording(body)
    data = make_set([question_row(n) for n in range(3)])
    summary = run_expand(data, retries=0)
    assert "4 of 6 variants" in summary
    assert "unanswered 1 (run the same command again to ask for them)" in summary
    rejected = json_lines(tmp_path / "new/expansion/rejected.jsonl")
    assert [(r["id"], r["check"], r["reason"]) for r in rejected] == [("r1", "unanswered", "HTTP 500: boom, 1 times")]
    endpoint.script = lambda number, body: rewording(body)
    assert "6 of 6 variants" in run_expand(data, retries=0)
    assert len(endpoint.requests) == 4


def test_failures_here_and_there_do_not_end_the_run(
    make_set: MakeSet, run_expand: Expand, endpoint: FakeEndpoint
) -> None:
    endpoint.script = lambda number, body: error(500) if number % 2 else rewording(body)
    summary = run_expand(make_set([question_row(n) for n in range(20)]), retries=0, concurrency=1)
    assert "20 of 40 variants" in summary
    assert "unanswered 10" in summary


def test_an_endpoint_that_dies_ends_the_run_and_keeps_the_replies(
    make_set: MakeSet, run_expand: Expand, tmp_path: Path, endpoint: FakeEndpoint
) -> None:
    endpoint.script = lambda number, body: rewording(body) if number < 4 else error(503, "gone")
    data = make_set([question_row(n) for n in range(20)])
    with pytest.raises(UserError, match=r"5 requests in a row failed, most recently: HTTP 503: gone") as caught:
        run_expand(data, retries=0, concurrency=1)
    assert KEY not in str(caught.value)
    assert not (tmp_path / "new").exists()
    assert len(json_lines(tmp_path / "new.journal.jsonl")) == 4
    assert len(endpoint.requests) == 9


SMALL = ["--variants", "2", "--model", "good-model", "--timeout", "20", "--retries", "1"]


def program(data: Path, out: Path, server: FakeEndpoint, *more: str) -> list[str]:
    arguments = ["expand", str(data), "--out", str(out), "--endpoint", server.url, *SMALL, *more]
    return [sys.executable, "-m", "sharegrpo_rl.cli", *arguments]


def test_killed_midway_it_loses_and_repeats_nothing(
    make_set: MakeSet, tmp_path: Path, endpoint: FakeEndpoint, capfd: pytest.CaptureFixture
) -> None:
    rows, before = 12, 5
    endpoint.script = lambda number, body: rewording(body) if number < before else hang(30)
    command = program(
        make_set([question_row(n) for n in range(rows)]), tmp_path / "new", endpoint, "--concurrency", "3"
    )
    journal = tmp_path / "new.journal.jsonl"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ})
    until = time.monotonic() + 300
    while not (
        journal.exists() and journal.read_bytes().count(b"\n") == before and len(endpoint.requests) == before + 3
    ):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    journal.write_bytes(journal.read_bytes() + b'{"key": "half a li')
    assert not (tmp_path / "new").exists()
    endpoint.script = lambda number, body: rewording(body)
    assert run_command(command[3:]) == 0
    said = capfd.readouterr()
    assert f"{2 * rows} of {2 * rows} variants for {rows} questions" in said.out
    assert f"{rows - before} requests, {before} replies reused" in said.out
    assert len(endpoint.answered) == rows
    assert set(endpoint.answered.values()) == {1}
    for row in json_lines(tmp_path / "new/train.jsonl"):
        assert len(set(row["variants"])) == 2
        assert all(row["question"] in variant for variant in row["variants"])
    assert KEY not in everything_written(tmp_path) + said.out + said.err


@pytest.fixture
def heeded_ctrl_c() -> Iterator[None]:
    """A shell starts its background jobs with Ctrl-C ignored; here it counts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded_ctrl_c")
def test_ctrl_c_stops_it_and_says_how_to_go_on(
    make_set: MakeSet, tmp_path: Path, endpoint: FakeEndpoint, capfd: pytest.CaptureFixture
) -> None:
    def script(number: int, body: dict[str, Any]) -> Any:
        if number < 2:
            return rewording(body)
        os.kill(os.getpid(), signal.SIGINT)
        return hang(1)

    endpoint.script = script
    command = program(make_set([question_row(n) for n in range(4)]), tmp_path / "new", endpoint, "--concurrency", "1")
    assert run_command(command[3:]) == 130
    assert "the replies so far are kept" in " ".join(capfd.readouterr().err.split())
    assert not (tmp_path / "new").exists()
    assert len(json_lines(tmp_path / "new.journal.jsonl")) == 2


def refused(capfd: pytest.CaptureFixture, *arguments: str) -> str:
    assert run_command(["expand", *arguments]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("error: ")
    assert KEY not in captured.err
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["DATA", "--out", "OUT"], "name one model"),
        (["DATA", "--out", "OUT", "--endpoint", "URL", "--local", "x"], "name one model"),
        (["DATA", "--out", "OUT", "--endpoint", "URL"], "with --model NAME"),
        (["DATA", "--out", "OUT", "--local", "x", "--model", "y"], "belongs to --endpoint"),
        (["DATA", "--out", "OUT", "--local", "no/such/folder"], "no such folder"),
        (["DATA", "--out", "OUT", "--endpoint", "URL", "--model", "bad"], "does not offer it"),
        (["DATA", "--out", "OUT", "--endpoint", "http://127.0.0.1:9/v1", "--model", "m", "--retries", "0"], "connection failed"),
        (["DATA", "--out", "OUT", "--endpoint", "nonsense", "--model", "m"], "is not an address"),
        (["DATA", "--out", "OUT", *SMALL, "--endpoint", "URL", "--variants", "0"], "nothing to do"),
        (["DATA", "--out", "OUT", *SMALL, "--endpoint", "URL", "--column", "question"], "write FIELD=NAME"),
        (["DATA", "--out", "OUT", *SMALL, "--endpoint", "URL", "--column", "questoin=q"], "did you mean question"),
        (["DATA", "--out", "OUT", *SMALL, "--endpoint", "URL", "--column", "question=q"], "has no question"),
        (["DATA", "--out", "OUT", *SMALL, "--endpoint", "URL", "--key-env", "NO_KEY_OF_MINE"], "no such variable is set"),
        (["nowhere/at/all", "--out", "OUT", *SMALL, "--endpoint", "URL"], "is not there"),
        (["DATA", "--out", "DATA", *SMALL, "--endpoint", "URL"], "is not empty and no expanded data set"),
        (["DATA", "--out", "DATA/train.jsonl", *SMALL, "--endpoint", "URL"], "is a file"),
        (["DATA", "--out", "OUT", "--split", "dev", *SMALL, "--endpoint", "URL"], "dev"),
        (["DATA"], "--out"),
    ],
)  # fmt: skip
def test_what_a_user_did_wrong_is_one_line(
    make_set: MakeSet,
    tmp_path: Path,
    endpoint: FakeEndpoint,
    capfd: pytest.CaptureFixture,
    arguments: list[str],
    words: str,
) -> None:
    data = make_set([question_row(0)])
    named = {
        "DATA": str(data),
        "OUT": str(tmp_path / "new"),
        "URL": endpoint.url,
        "DATA/train.jsonl": str(data / "train.jsonl"),
    }
    assert words in refused(capfd, *(named.get(a, a) for a in arguments))
    assert list(tmp_path.glob("*new*")) == []
    assert len(endpoint.requests) == 0
    assert sorted(p.name for p in data.iterdir()) == ["images", "test.jsonl", "train.jsonl"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (question_row(0, question=""), "column 'question' is empty"),
        (question_row(0, answer=None), "has no answer"),
        (question_row(0, image="images/b.png"), "images/b.png is not there"),
        (question_row(0, image="../outside.png"), "outside"),
        (question_row(0, variants="['a']"), "is a string"),
    ],
)
def test_bad_rows_are_found_before_anything_is_asked(
    make_set: MakeSet, run_expand: Expand, endpoint: FakeEndpoint, row: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=r"train\.jsonl line 2, id r0") as caught:
        run_expand(make_set([question_row(5), row]))
    assert words in str(caught.value)
    assert endpoint.requests == []


def test_absolute_image_paths_are_refused(make_set: MakeSet, run_expand: Expand, tmp_path: Path) -> None:
    data = make_set([question_row(0, image=str(tmp_path / "dots/images/a.png"))])
    with pytest.raises(UserError, match="is absolute; make it relative"):
        run_expand(data)


def test_nothing_is_left_where_writing_fails(
    make_set: MakeSet, run_expand: Expand, tmp_path: Path, endpoint: FakeEndpoint
) -> None:
    data = make_set([question_row(0)])

    def vanish(number: int, body: dict[str, Any]) -> Any:
        (data / "images/a.png").unlink()
        return rewording(body)

    endpoint.script = vanish
    with pytest.raises(UserError, match=r"images/a\.png is not there"):
        run_expand(data)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == ["dots", "new.journal.jsonl"]


def test_marks_inside_a_question_go_there_and_back(
    make_set: MakeSet, run_expand: Expand, tmp_path: Path, endpoint: FakeEndpoint
) -> None:
    seen = []

    def script(number: int, body: dict[str, Any]) -> Any:
        seen.append(question_of(prompt_of(body)))
        return answer(json.dumps(["Tell whether [IMAGE] looks like [IMAGE].", "Does [IMAGE] look like the other?"]))

    endpoint.script = script
    row = question_row(0, image=["images/a.png"] * 2, question="Does <image> look like <image>?", answer="yes")
    run_expand(make_set([row]), attempts=1)
    assert seen == ["Does [IMAGE] look like [IMAGE]?"]
    assert json_lines(tmp_path / "new/train.jsonl")[0]["variants"] == ["Tell whether <image> looks like <image>."]


def test_the_rule_of_the_fake_endpoint_is_sound() -> None:
    assert rewordings("in 2 other ways ...\nThe question:\nWhat?\n\nReply") == [
        "Please work this out: What?",
        "Here is something to find out: What?",
    ]
