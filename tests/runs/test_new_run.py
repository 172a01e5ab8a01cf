"""`init`: whatever it writes passes a dry run with its reward file, and a tiny one trains."""

from __future__ import annotations

import json
import os
import pty
import shlex
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import get_args

import pytest

from sharegrpo_rl.cli import run
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.planning.estimate import layout_problems
from sharegrpo_rl.runs.new_run import SHAPES, InitOptions, Method, write_run
from sharegrpo_rl.runs.run_file import load_run

METHODS = get_args(Method)
MODELS = ("tiny", "Qwen/Qwen2.5-VL-3B-Instruct")
GPUS = (0, 1, 2, 8)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [
        {"question": f"What is {i} + 1?", "answer": str(i + 1), "solution": f"{i} + 1 = {i + 1}", "key_steps": [["1"]]}
        for i in range(60)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("data", [SHAPES, "rows.jsonl", "owner/set"])
def test_every_combination_passes_a_dry_run(method: str, data: str, here: Path, capsys: pytest.CaptureFixture) -> None:
    for number, (model, gpus) in enumerate(product(MODELS, GPUS)):
        name = f"run_{number}"
        options = ["--method", method, "--data", data, "--model", model, "--gpus", str(gpus)]
        assert run(["init", name, *options]) == 0
        imports = ["--import", f"{name}/rewards.py"] if method != "SFT" else []
        assert run(["train", f"{name}/{name}.yaml", "--dry-run", *imports]) == 0, capsys.readouterr().err
        spec = load_run(Path(f"{name}/{name}.yaml"))
        assert spec.run == method
        assert layout_problems(spec.config) == []
        asked = max(1, spec.config["num_learners"]) * spec.config["num_gpus_per_learner"]
        asked += spec.config["num_env_runners"] * spec.config.get("num_gpus_per_env_runner", 0)
        assert asked == gpus


def test_its_readme_names_commands_that_are_there(here: Path) -> None:
    write_run(InitOptions(), here)
    text = (here / "my_run/README.md").read_text()
    commands = [line.split("#")[0] for line in text.splitlines() if line.startswith("sharegrpo-rl ")]
    assert [shlex.split(command)[1] for command in commands] == ["preview", "plan", "train"]
    for command in commands:
        for word in shlex.split(command):
            if "." in word:
                assert (here / "my_run" / word).is_file()


@pytest.mark.parametrize("name", ["12", "null", "yes", "1e3", "a run", "it's"])
def test_any_name_of_a_folder_is_a_name_of_a_run(name: str, here: Path) -> None:
    data = here / "rows: 'all' \\ of them.jsonl"
    (here / "rows.jsonl").rename(data)
    write_run(InitOptions(name=name, data=str(data)), here)
    spec = load_run(here / name / f"{name}.yaml")
    assert (spec.name, spec.config["env_config"]["data"]) == (name, str(data))
    (train,) = [
        line for line in (here / name / "README.md").read_text().splitlines() if line.startswith("sharegrpo-rl train")
    ]
    assert shlex.split(train, comments=True)[2] == f"{name}.yaml"


def test_a_hub_name_may_have_a_dot(here: Path) -> None:
    write_run(InitOptions(name="dotted", data="owner/set.v1"), here)
    assert load_run(here / "dotted/dotted.yaml").config["env_config"]["data"] == "owner/set.v1"


def test_nothing_is_overwritten_and_wrong_wishes_write_nothing(here: Path) -> None:
    write_run(InitOptions(name="mine"), here)
    with pytest.raises(UserError, match="mine: is there already; give another NAME"):
        write_run(InitOptions(name="mine"), here)
    with pytest.raises(UserError, match=r"--data: nowhere.jsonl is not there"):
        write_run(InitOptions(name="other", data="nowhere.jsonl"), here)
    assert run(["init", "a/b"]) == 2
    assert sorted(path.name for path in here.iterdir()) == ["mine", "rows.jsonl"]


def test_it_asks_in_a_terminal_where_no_option_says(here: Path) -> None:
    terminal, its_end = pty.openpty()
    os.write(terminal, b"StepGRPO\nrows.jsonl\n\n\n")  # a tiny model, and no GPUs, by default
    done = subprocess.run(
        [sys.executable, "-m", "sharegrpo_rl.cli", "init", "asked"],
        cwd=here,
        stdin=its_end,
        capture_output=True,
        text=True,
    )
    os.close(terminal)
    os.close(its_end)
    assert done.returncode == 0, done.stderr
    assert "how it learns [ShareGRPO]: " in done.stdout
    spec = load_run(here / "asked/asked.yaml")
    assert spec.run == "StepGRPO"
    assert spec.config["env_config"]["data"] == str(here / "rows.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "data"), [*((method, SHAPES) for method in METHODS), ("ShareGRPO", "rows.jsonl"), ("SFT", "rows.jsonl")]
)
def test_what_it_writes_trains(method: str, data: str, here: Path) -> None:
    """By the command of its README, in its folder; two iterations, of a short warm start."""
    write_run(InitOptions(name="mine", method=method, data=data), here)
    readme = (here / "mine/README.md").read_text()
    (command,) = [line.split("#")[0] for line in readme.splitlines() if line.startswith("sharegrpo-rl train")]
    less = ["stop.training_iteration=2", "config.warm_start.steps=5", "config.evaluation_questions=4"]
    less += ["config.warm_start.rows=32", "config.num_questions=4"]
    arguments = [*shlex.split(command)[1:], *(word for setting in less for word in ("--set", setting))]
    done = subprocess.run(
        [sys.executable, "-m", "sharegrpo_rl.cli", *arguments],
        cwd=here / "mine",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (here / "mine/runs/mine/export/model.safetensors").is_file()
