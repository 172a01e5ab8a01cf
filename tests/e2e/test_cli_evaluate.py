"""A whole evaluation through the command line, killed half-way by the system and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SETTINGS = {
    "env": "DrawnShapes-v0",
    "env_config": {"kinds": ["color", "form"], "image_size": 28},
    "prompts": {
        "system_prompt": "",
        "format_prompt": None,
        "max_prompt_tokens": 512,
        "min_pixels": 784,
        "max_pixels": 784,
    },
    "answer_format": "think_answer",
    "max_completion_tokens": 24,
    "num_threads": 1,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, make_policy: Callable[..., Any]) -> Path:
    from sharegrpo_rl.models.loading import save_pretrained

    folder = tmp_path_factory.mktemp("model")
    save_pretrained(make_policy(), folder)
    (folder / "sharegrpo_rl.json").write_text(json.dumps(SETTINGS))
    return folder


def start(model: Path, out: Path) -> subprocess.Popen:
    program = [sys.executable, "-m", "sharegrpo_rl.cli", "evaluate", str(model), "--out", str(out), "--json"]
    options = ["--limit", "150", "--batch", "4", "--samples", "4", "--temperature", "0.8"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(out.parent / "cache")}
    return subprocess.Popen(
        [*program, *options], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_a_killed_evaluation_ends_with_the_identical_files(model: Path, tmp_path: Path) -> None:
    printed, errors = start(model, tmp_path / "whole").communicate(timeout=1200)
    assert errors == ""
    whole = json.loads(printed)
    assert whole["questions"] == 150
    killed = start(model, tmp_path / "part")
    predictions = tmp_path / "part/predictions.jsonl"
    waited_until = time.monotonic() + 1200
    while not predictions.exists() or predictions.read_bytes().count(b"\n") < 20:
        assert killed.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < waited_until
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "part/result.json").exists()
    assert 20 <= predictions.read_bytes().count(b"\n") < 150
    printed, errors = start(model, tmp_path / "part").communicate(timeout=1200)
    assert errors == ""
    assert json.loads(printed) == whole
    for name in ("protocol.json", "predictions.jsonl", "result.json"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
