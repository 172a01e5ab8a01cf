"""What only one command needs is an extra: it is imported late, and its absence is one line that names the extra."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from sharegrpo_rl.errors import EXTRAS, UserError, require_extra


def run_without(hidden: set[str], arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The command line in a process that has none of these modules: a folder before all others gives each as absent."""
    (folder / "sitecustomize.py").write_text(
        "import importlib.util, sys\n"
        "real = importlib.util.find_spec\n"
        f"hidden = {sorted(hidden)!r}\n"
        "importlib.util.find_spec = lambda name, *rest: None if name.partition('.')[0] in hidden else real(name, *rest)\n"
        "sys.modules.update(dict.fromkeys(hidden))\n"  # None: importing it raises ImportError
    )
    environment = {**os.environ, "PYTHONPATH": str(folder), "RAY_AUTH_MODE": "disabled"}
    program = [sys.executable, "-m", "sharegrpo_rl.cli", *arguments]
    return subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


SEARCH = "share_grpo/drawn_shapes-tiny-search"
NEEDS = {
    "report": ("matplotlib", ["report", "."], "report needs matplotlib", "plots"),
    "watch": ("matplotlib", ["watch", "."], "watch needs matplotlib", "plots"),
    "compare": ("matplotlib", ["compare", "grpo/drawn_shapes-tiny", "--out", "c"], "compare needs matplotlib", "plots"),
    "tune": ("matplotlib", ["tune", SEARCH], "tune needs matplotlib", "plots"),
    "tune, dry": ("matplotlib", ["tune", SEARCH, "--dry-run"], "tune needs matplotlib", "plots"),
    "optuna": (
        "optuna",
        ["tune", SEARCH, "--set", "tune.searcher=optuna", "--dry-run"],
        "tune.searcher: optuna needs optuna",
        "optuna",
    ),
    "expand": (
        "openai",
        ["expand", "data.jsonl", "--out", "o", "--endpoint", "http://127.0.0.1:9/v1", "--model", "m"],
        "--endpoint needs openai",
        "expand",
    ),
}


@pytest.mark.parametrize(("module", "arguments", "said", "extra"), NEEDS.values(), ids=NEEDS)
def test_an_absent_extra_is_one_line(module, arguments, said, extra, tmp_path):
    (tmp_path / "data.jsonl").write_text('{"question": "How many?", "answer": "3"}\n')
    done = run_without({module}, arguments, tmp_path)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr == f"error: {said}, which is not installed; run pip install 'sharegrpo-rl[{extra}]'\n"
    assert {path.name for path in tmp_path.iterdir()} <= {"data.jsonl", "sitecustomize.py", "__pycache__"}


@pytest.mark.slow
def test_a_run_without_tensorboard_trains_and_says_so_once(tmp_path):
    settings = ["stop.training_iteration=2", "config.warm_start.steps=2", "config.warm_start.rows=64"]
    settings += ["config.num_questions=2", "config.evaluation_questions=6", "config.env_config.max_questions=200"]
    arguments = ["train", "grpo/drawn_shapes-tiny", "--name", "one", *(w for s in settings for w in ("--set", s))]
    done = run_without(set(EXTRAS.values()) | {"wandb", "mlflow"}, arguments, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("no TensorBoard events are written") == 1
    assert "'sharegrpo-rl[tensorboard]'" in " ".join(done.stdout.split())
    assert not list((tmp_path / "runs" / "one").glob("events.*"))
    assert (tmp_path / "runs" / "one" / "summary.json").exists()


def test_every_extra_has_its_package_in_the_metadata():
    wanted = {
        (match[1], requirement.name)
        for requirement in map(Requirement, importlib.metadata.requires("sharegrpo-rl") or [])
        if (match := re.search(r"extra == ['\"]([\w-]+)['\"]", str(requirement.marker)))
    }
    for extra, module in EXTRAS.items():
        assert (extra, module.replace("_", "-")) in wanted
        if extra != "easy-vqa":  # the others are those of `all`, which a clone has
            require_extra(extra, "this test")


def test_an_extra_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(EXTRAS, "plots", "no_such_module")
    with pytest.raises(UserError, match=r"report needs no_such_module, .* pip install 'sharegrpo-rl\[plots\]'"):
        require_extra("plots", "report")


def test_doctor_names_versions_that_were_never_run(monkeypatch):
    doctor = importlib.import_module("sharegrpo_rl.cli.doctor")  # the package has a command of that name
    installed = doctor.package_version
    monkeypatch.setattr(doctor, "package_version", lambda name: "9.9.0" if name == "torch" else installed(name))
    (line,) = doctor.untested_versions()
    assert line.startswith("torch 9.9.0 is not among the versions tested (<")
