"""Commands that need no training: help, lists, dry runs, refusals. One clear line, exit code 2, no heavy imports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sharegrpo_rl.cli import run
from sharegrpo_rl.errors import package_version

HEAVY = ("torch", "ray", "transformers", "datasets", "pyarrow", "scipy", "matplotlib", "jinja2", "openai")
GOOD = """
mine:
  run: ShareGRPO
  env: DrawnShapes-v0
  stop: {training_iteration: 2}
  config: {num_questions: 2, num_generations: 2}
"""


@pytest.fixture
def run_file(tmp_path: Path) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(GOOD)
    return str(path)


def refused(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The one line of standard error that a command ends with."""
    assert run(list(arguments)) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["evaluate", "--help"], ["list", "--help"]])
def test_help_is_printed(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    assert run(arguments) == 0
    assert "sharegrpo-rl" in capsys.readouterr().out


def test_dry_run_loads_nothing_heavy(run_file: str) -> None:
    program = (
        "import sys\nfrom sharegrpo_rl.cli import run\n"
        f"code = run(['train', {run_file!r}, '--dry-run'])\n"
        f"sys.exit(code or [m for m in {HEAVY} if m in sys.modules] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "completions an iteration" in done.stdout


def test_dry_run_shows_what_set_and_seed_change(run_file: str, capsys: pytest.CaptureFixture) -> None:
    assert run(["train", run_file, "--set", "config.lr=3e-4", "--seed", "7", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert yaml.safe_load(out)["mine"]["config"]["lr"] == 3e-4
    assert "# seed 7" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "nowhere.yaml"], ["nowhere.yaml"]),
        (["train", "drawn_shapes-tiny"], ["share_grpo/drawn_shapes-tiny", "grpo/drawn_shapes-tiny"]),
        (["train", "share_grpo/drawn_shape-tiny"], ["did you mean", "share_grpo/drawn_shapes-tiny"]),
        (["train", "FILE", "--set", "config.num_sample=6"], ["num_sample", "num_generations"]),
        (["train", "FILE", "--name", "../x"], ["--name", "'../x'"]),
        (["train", "FILE", "--resume", "maybe"], ["auto", "never"]),
        (["train", "FILE", "--seed", "-1"], ["seed"]),
        (["train", "FILE", "--import", "nowhere.py"], ["nowhere.py"]),
        (["trian", "FILE"], ["trian"]),
        (["train"], ["FILE"]),
        (["evaluate", "no_model", "--env", "DrawnShapes-v0"], ["no_model"]),
        (["evaluate", ".", "--env", "DrawnShape-v0"], ["DrawnShape-v0", "DrawnShapes-v0"]),
        (["evaluate", "."], ["holds no model"]),
        (["export", "no_checkpoint", "--out", "x"], ["no_checkpoint"]),
        (["tune", "nowhere.yaml", "--dry-run"], ["nowhere.yaml"]),
        (["tune", "share_grpo/drawn_shapes-tiny", "--dry-run"], ["no search space", "train"]),
        (["grade", "nowhere.jsonl"], ["nowhere.jsonl"]),
        (["list", "algoritms"], ["algoritms", "algorithms"]),
        (["list", "options", "GPRO"], ["GPRO", "GRPO"]),
    ],
)
def test_wrong_input_ends_with_one_line(
    run_file: str,
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refused(capsys, *[run_file if a == "FILE" and arguments[0] == "train" else a for a in arguments])
    for word in words:
        assert word in message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["mnist_pairs", "counting_clevr", "easy_vqa"])
def test_missing_example_data_names_the_key_and_the_origin(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refused(capsys, "train", f"share_grpo/{name}-tiny")
    for word in ("config.env_config.data", f"data/{name}", "comes from"):
        assert word in message
    assert list(tmp_path.iterdir()) == []


def test_an_example_for_any_data_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "--set config.env_config.data=" in refused(capsys, "train", "share_grpo/multimodal_qa-tiny")
    assert list(tmp_path.iterdir()) == []


def test_user_code_comes_in_by_import_and_its_mistakes_are_named(
    run_file: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    good = tmp_path / "my_rewards.py"
    good.write_text(
        "from sharegrpo_rl.config.registry import register_reward\n"
        "def brevity_of_test(completions, **columns):\n    return [1.0 / (1 + len(c)) for c in completions]\n"
        "register_reward('brevity_of_test', brevity_of_test)\n"
    )
    settings = ["--set", "config.rewards={accuracy: 1.0, brevity_of_test: 0.1}", "--dry-run"]
    assert "brevity_of_test" in refused(capsys, "train", run_file, *settings)
    assert run(["train", run_file, "--import", str(good), *settings]) == 0
    capsys.readouterr()
    bad = tmp_path / "bad.py"
    bad.write_text("x = 1\ny = x / 0\n")
    assert re.search(r"bad\.py, line 2: ZeroDivisionError", refused(capsys, "train", run_file, "--import", str(bad)))
    bad.write_text("x = (\n")
    assert "bad.py, line 1" in refused(capsys, "train", run_file, "--import", str(bad))


def test_list_names_everything_a_run_file_can_use(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["list"]) == 0
    out = capsys.readouterr().out
    for word in ("ShareGRPO", "DrawnShapes-v0", "share_grpo/drawn_shapes-tiny", "noise", "accuracy", "paper"):
        assert word in out
    for name in ("GRPO", "ShareGRPO", "MultimodalQA-v0", "warm_start", "lora", "model_config"):
        assert run(["list", "options", name]) == 0
        assert "meaning" in capsys.readouterr().out


def test_grade_prints_a_line_a_row_and_the_summary_last(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "responses.jsonl"
    rows = [
        {"response": "<think>a</think><answer>4</answer>", "gold": "4", "label": True},
        {"response": "<think>a</think><answer>5</answer>", "gold": "4", "label": True},
    ]
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert run(["grade", str(file), "--json"]) == 0
    *verdicts, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert [v["score"] for v in verdicts] == [1.0, 0.0]
    assert last == {"summary": {"rows": 2, "correct": 1, "labelled": 2, "agree": 1, "errors": 0}}
    assert run(["grade", str(file)]) == 0
    assert "agree 1" in capsys.readouterr().out
    file.write_text('{"response": "x"}\n')
    message = refused(capsys, "grade", str(file))
    assert "gold" in message
    assert "row 1" in message


def test_doctor_finds_this_environment_complete(capsys: pytest.CaptureFixture) -> None:
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("torch", "memory", "cache folder", "ready to train"):
        assert word in out


def test_a_reader_that_goes_away_is_no_error(run_file: str) -> None:
    command = f"{sys.executable} -m sharegrpo_rl.cli train {run_file} --dry-run | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, env={**os.environ})
    assert "Traceback" not in done.stderr
    assert done.stdout == "mine:\n"


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"sharegrpo-rl {package_version('sharegrpo-rl')}\n"


def test_without_a_command_the_help_is_shown_and_nothing_else(capsys: pytest.CaptureFixture) -> None:
    assert run([]) == 2
    captured = capsys.readouterr()
    assert "Usage: sharegrpo-rl" in captured.out + captured.err
    assert "error:" not in captured.err


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("sharegrpo-rl tra", "train"),
        ("sharegrpo-rl train share_grpo/drawn_shapes-tiny-s", "share_grpo/drawn_shapes-tiny-search"),
        ("sharegrpo-rl train run.yaml --stor", "--storage-path"),
    ],
)
def test_a_shell_completes_commands_examples_and_options(typed: str, offered: str) -> None:
    asked = {"_SHAREGRPO_RL_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    program = "import sys; from sharegrpo_rl.cli import main; sys.argv = ['sharegrpo-rl']; main()"
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, **asked}, capture_output=True, text=True)
    assert done.stdout.split() == [offered]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "nowhere.yaml"], "no such file or tuned example"),
        (["plan", "nowhere.yaml", "--gpuu", "x"], "No such option"),
    ],
)
def test_a_script_that_asks_for_json_gets_its_error_in_json(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture
) -> None:
    assert run([*arguments, "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.err == ""
    error = json.loads(captured.out)
    assert words in error["error"]
    assert error["exit_code"] == 2
