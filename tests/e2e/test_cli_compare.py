"""Two tiny real methods through `compare`: killed in the middle, resumed, reported, and read again from its folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN_FILE = """
small:
  run: {run}
  env: DrawnShapes-v0
  stop: {{training_iteration: {iterations}}}
  config:
    model: tiny
    model_config: {{hidden_size: 32, num_layers: 1, vision_layers: 1, patch_size: 14}}
    min_pixels: 784
    max_pixels: 3136
    warm_start: {{rows: 64, steps: 4, batch_size: 8}}
    num_questions: 2
    num_generations: {samples}
    max_prompt_tokens: 256
    max_completion_tokens: 16
    lr: 1e-3
    evaluation_questions: 12
    checkpoint_interval: 1
    env_config: {{kinds: [color, counting], max_questions: 200}}
"""


def start(workplace: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(workplace / "cache"),
        "RAY_AUTH_MODE": "disabled",
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }
    command = [sys.executable, "-m", "sharegrpo_rl.cli", "compare", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=workplace, env=environment, **pipes)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, errors = process.communicate(timeout=1500)
    return process.returncode, out + errors


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_two_methods_killed_resumed_and_read_again(tmp_path: Path) -> None:
    (tmp_path / "grpo.yaml").write_text(RUN_FILE.format(run="GRPO", iterations=6, samples=4))
    (tmp_path / "share.yaml").write_text(RUN_FILE.format(run="ShareGRPO", iterations=9, samples=2))
    arguments = ("grpo.yaml", "share.yaml", "--seeds", "2", "--confidence", "0.8", "--jobs", "1", "--out", "out")
    first = start(tmp_path, *arguments)
    lines = tmp_path / "out" / "runs" / "grpo-0" / "result.json"
    deadline = time.monotonic() + 1200
    while not (lines.exists() and lines.read_text().count("\n") >= 2):
        assert first.poll() is None, finish(first)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    code, said = finish(start(tmp_path, *arguments))
    assert code == 0, said
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["partial"] is False
    for method in report["methods"]:  # 6 iterations of 8 completions each, though one file says 9
        assert [(r["completions"], r["iterations"]) for r in method["runs"]] == [(48, 6), (48, 6)]
        for run in method["runs"]:
            rows = [json.loads(line) for line in (tmp_path / run["path"] / "result.json").read_text().splitlines()]
            assert [row["training_iteration"] for row in rows] == list(range(1, 7))
            assert rows[-1]["peak_memory_bytes"] > 10**8
    assert report["comparisons"][0]["paired_by_seed"] is True
    page = (tmp_path / "out" / "report.html").read_text()
    assert len(report["pictures"]) >= 4  # curves that are 0 throughout are left out: this model learns nothing
    assert page.count("data:image/png;base64,") > len(report["pictures"])  # and images of questions
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "runs").rglob("summary.json")}
    code, said = finish(start(tmp_path, *arguments))
    assert (code, "4 runs are finished, 0 to go" in said) == (0, True)
    assert stamps == {p: p.stat().st_mtime_ns for p in stamps}
    code, said = finish(start(tmp_path, "out", "--confidence", "0.8", "--out", "again"))
    assert code == 0, said
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    assert [m["final"]["values"] for m in again["methods"]] == [m["final"]["values"] for m in report["methods"]]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_selection_stops_at_the_completions_of_the_others(tmp_path: Path) -> None:
    """Dynamic sampling asks more questions an iteration, so it ends earlier."""
    (tmp_path / "grpo.yaml").write_text(RUN_FILE.format(run="GRPO", iterations=6, samples=2))
    arguments = ("plain=grpo.yaml", "dynamic=grpo.yaml", "--set", "dynamic:config.selection=dynamic_sampling")
    code, said = finish(start(tmp_path, *arguments, "--seeds", "2", "--confidence", "0.8", "--out", "out"))
    assert code == 0, said
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    plain, dynamic = report["methods"]
    assert {run["completions"] for run in plain["runs"]} == {24}
    for run in dynamic["runs"]:
        rows = [json.loads(line) for line in (tmp_path / run["path"] / "result.json").read_text().splitlines()]
        sampled = [row["env_runners"]["num_completions"] for row in rows]
        assert sum(sampled[:-1]) < 24 <= sum(sampled)
