"""A whole small run through the command line, as a user starts it: what it leaves, and that its export answers alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

RUN_FILE = """
small:
  run: ShareGRPO
  env: DrawnShapes-v0
  stop: {training_iteration: 2}
  config:
    model: tiny
    model_config: {hidden_size: 32, num_layers: 1, vision_layers: 1, patch_size: 14}
    min_pixels: 784
    max_pixels: 3136
    warm_start: {rows: 64, steps: 4, batch_size: 8}
    num_questions: 2
    num_generations: 2
    max_prompt_tokens: 256
    max_completion_tokens: 16
    lr: 1e-3
    evaluation_questions: 12
    env_config: {kinds: [color], max_questions: 200}
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "run.yaml").write_text(RUN_FILE)
    return folder


def command(workplace: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(workplace / "cache"),
        "RAY_AUTH_MODE": "disabled",
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }
    program = [sys.executable, "-m", "sharegrpo_rl.cli"]
    return subprocess.run(
        [*program, *arguments], cwd=workplace, env=environment, capture_output=True, text=True, timeout=280
    )


@pytest.mark.slow
def test_json_is_alone_on_standard_output(workplace: Path) -> None:
    done = command(
        workplace, "train", "run.yaml", "--set", "stop.training_iteration=1", "--storage-path", "j", "--json"
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["summary"] == json.loads((workplace / shown["folder"] / "summary.json").read_text())
    assert shown["summary"]["iterations"] == 1
    assert "building data" in done.stderr


@pytest.fixture(scope="module")
def trained(workplace: Path) -> Path:
    done = command(workplace, "train", "run.yaml", "--name", "one", "--seed", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return workplace / "runs" / "one"


def test_a_run_leaves_results_curves_checkpoints_and_export(trained: Path) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    assert (summary["iterations"], summary["seed"], summary["algorithm"]) == (2, 3, "ShareGRPO")
    assert summary["completions"] == 2 * 2 * 2 * 2
    assert summary["test_questions"] == 12
    assert (trained / summary["export"] / "sharegrpo_rl.json").exists()
    assert (trained / summary["checkpoint"]).is_dir()
    rows = [json.loads(line) for line in (trained / "result.json").read_text().splitlines()]
    assert [r["training_iteration"] for r in rows] == [1, 2]
    events = EventAccumulator(str(trained), size_guidance={"images": 10})
    events.Reload()
    assert len(events.Tags()["scalars"]) >= 10
    assert len(events.Tags()["images"]) >= 1


def test_the_export_repeats_the_run_s_accuracy(trained: Path, workplace: Path) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    for blind, key in (([], "accuracy_after"), (["--blind"], "blind_accuracy_after")):
        done = command(workplace, "evaluate", str(trained / "export"), "--limit", "12", "--json", *blind)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["accuracy"] == pytest.approx(summary[key], abs=1e-12)


def test_a_finished_run_is_left_as_it_is_and_other_settings_are_named(trained: Path, workplace: Path) -> None:
    before = (trained / "summary.json").read_bytes()
    again = command(workplace, "train", "run.yaml", "--name", "one", "--seed", "3")
    assert again.returncode == 0
    assert "finished" in again.stdout
    other = command(workplace, "train", "run.yaml", "--name", "one", "--seed", "3", "--set", "config.lr=2e-3")
    assert other.returncode == 2
    assert "config.lr" in other.stderr
    assert (trained / "summary.json").read_bytes() == before


def test_preview_writes_one_page(workplace: Path) -> None:
    done = command(workplace, "preview", "run.yaml", "--num", "2", "--out", "page.html")
    assert done.returncode == 0, done.stderr
    page = (workplace / "page.html").read_text()
    assert "<img" in page
    assert "tokens" in page
