"""The driver's load with simulated runners and learners, at tiny sizes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "driver_load.py"
SMALL = ("--questions", "4", "--samples", "4", "--tokens", "8", "--prompt-tokens", "300", "--iterations", "1")


def test_the_parts_make_up_what_the_driver_spends_outside_waiting(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    words = ("--runners", "2", "--learners", "3", "--store-gb", "0.2", *SMALL)
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)["runners"]["2"]
    wall, _, iteration = (found.pop(name) for name in ("wall_s", "cpu_s", "iteration_s"))
    assert sum(found.values()) == pytest.approx(wall, abs=0.01)
    assert set(found) > {"episodes_s", "packs_s", "update_s", "checkpoint_s"}
    assert 0 < found["episodes_s"] < wall <= iteration
