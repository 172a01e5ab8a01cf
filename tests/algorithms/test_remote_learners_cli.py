"""The command line with learners in Ray Train workers: a killed run goes on, a search with too little room ends. Slow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
RUN_FILE = """
small:
  run: ShareGRPO
  env: DrawnShapes-v0
  stop: {training_iteration: 6}
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
    kl_coeff: 0.1
    rewards: {accuracy: 0.5, noise: 0.5}
    evaluation_questions: 4
    env_config: {kinds: [color], max_questions: 200}
    num_learners: 2
    sharding: fsdp2
"""
REWARDS = """
from sharegrpo_rl.config.registry import register_reward


def noise(completions, **columns):
    \"\"\"Differs between completions, so that there is always something to learn.\"\"\"
    return [(sum(map(ord, c)) % 7) / 7 for c in completions]


register_reward("noise", noise)
"""
SEARCH = """  tune: {num_samples: 3, searcher: random}
"""
UNTIMED = ("seconds", "timers", "perf", "time", "memory", "date", "pid", "per_second", "hostname", "node_ip")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "run.yaml").write_text(RUN_FILE)
    (folder / "rewards.py").write_text(REWARDS)
    (folder / "search.yaml").write_text(RUN_FILE.replace("lr: 1e-3", "lr: {loguniform: [1e-4, 1e-2]}") + SEARCH)
    return folder


def start(workplace: Path, *arguments: str) -> subprocess.Popen:
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(workplace / "cache"),
        "RAY_AUTH_MODE": "disabled",
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }
    output = (workplace / f"{'-'.join(arguments[:3])}.out".replace("/", "_")).open("a")
    program = [sys.executable, "-m", "sharegrpo_rl.cli", *arguments, "--import", "rewards.py"]
    return subprocess.Popen(program, cwd=workplace, env=environment, stdout=output, stderr=output)


def finish(workplace: Path, *arguments: str) -> None:
    assert start(workplace, *arguments).wait(timeout=1200) == 0, [
        p.read_text()[-4000:] for p in workplace.glob("*.out")
    ]


def rows(folder: Path) -> list[dict[str, Any]]:
    file = folder / "result.json"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def lasting(tree: dict[str, Any]) -> dict[str, Any]:
    """A result without clocks and places."""
    kept = {k: v for k, v in tree.items() if not any(word in k for word in UNTIMED)}
    return {k: lasting(v) if isinstance(v, dict) else v for k, v in kept.items()}


def test_a_killed_driver_s_run_goes_on_as_if_nothing_had_been(workplace: Path) -> None:
    finish(workplace, "train", "run.yaml", "--name", "whole", "--seed", "3")
    whole, broken = workplace / "runs" / "whole", workplace / "runs" / "broken"
    process = start(workplace, "train", "run.yaml", "--name", "broken", "--seed", "3")
    deadline = time.monotonic() + 600
    while len(rows(broken)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 3 <= len(rows(broken)) < 6
    finish(workplace, "train", "run.yaml", "--name", "broken", "--seed", "3", "--resume", "auto")
    assert [r["training_iteration"] for r in rows(broken)] == [1, 2, 3, 4, 5, 6]
    for one, other in zip(rows(broken), rows(whole), strict=True):
        assert lasting(one["learners"]) == lasting(other["learners"])
        assert lasting(one["groups"]) == lasting(other["groups"])
        assert one["epoch"] == other["epoch"]
    said = [
        (folder / "rollouts.jsonl").read_text() for folder in (broken, whole) if (folder / "rollouts.jsonl").exists()
    ]
    assert len(set(said)) <= 1  # the same questions, in the same order
    assert rows(whole)[-1]["groups"]["valid_reward_ratio"] > 0
    one, other = (load_file(folder / "export" / "model.safetensors") for folder in (broken, whole))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[k], other[k]) for k in one)
    summary = json.loads((broken / "summary.json").read_text())
    assert summary["iterations"] == 6


def test_a_search_with_more_trials_than_room_ends(workplace: Path) -> None:
    short = ["--set", "stop.training_iteration=2", "--set", "config.sharding=ddp"]
    finish(workplace, "tune", "search.yaml", "--name", "search", "--seed", "3", *short)
    found = json.loads((workplace / "runs" / "search" / "search.json").read_text())
    assert found["ended"] == "all trials"
    for trial in (workplace / "runs" / "search" / "trials").iterdir():
        assert [r["training_iteration"] for r in rows(trial)] == [1, 2]
