"""The measurements of runs over several processes, at tiny sizes: their JSON lines."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


def line(script, *words):
    done = subprocess.run(
        [sys.executable, SCRIPTS / script, "--small", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_remote_learners():
    found = line("remote_learners.py", "--learners", "0", "1", "--iterations", "2")["learners"]
    assert set(found) == {"0", "1"}
    for number, figures in found.items():
        parts = ("sampling", "learning", "weight_sync", "commit", "rest")
        assert sum(figures[f"{part}_ms"] for part in parts) == pytest.approx(figures["iteration_ms"], rel=0.5)
        assert (figures["commit_ms"] > 0) is (number == "1")
    inside = {"plan", "put", "fetch", "step", "messages"}
    assert {k.removeprefix("update_").removesuffix("_ms") for k in found["1"] if k.startswith("update_")} == inside


def test_rollout_lag():
    found = line("max_staleness.py", "--iterations", "2")
    assert found["ratio"] == pytest.approx(found["iteration_ms"]["1"] / found["iteration_ms"]["0"], rel=0.01)
    assert min(found["learning_ms"].values()) > 0
