"""When an engine gets its prompts, at tiny sizes."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "rendering.py"


def test_the_first_prompt_comes_before_the_last(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ("--pictures", "6", "--image", "112", "--per-prompt", "1", "3", "--repeats", "1")
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)["prompts"]
    assert {n: figures["prompts"] for n, figures in found.items()} == {"1": 6, "3": 2}
    assert all(0 < figures["first_s"] <= figures["all_s"] for figures in found.values())
