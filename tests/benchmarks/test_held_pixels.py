"""Pixels are held once for each distinct image: memory of whole iterations at two sizes, whatever else a process needs.

Share-GRPO asks each question in two wordings about one image, six times each.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "host_memory.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]


def held(tmp_path, *words):
    """MB at the height by part, for each number of questions, and the slopes over the pixels."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = json.loads(done.stdout)["env_runners"].values()
    return found


def test_the_object_store_holds_each_image_once(tmp_path):
    """In one iteration: Ray takes its time to free what the last one has let go."""
    found = held(tmp_path, "--questions", "2", "8", "--env-runners", "2", "--iterations", "1")
    assert found["pixels_mb"] == pytest.approx([46.5, 186.1], abs=0.5)
    assert found["copies"]["store"] == pytest.approx(1, abs=0.1)


def test_one_process_holds_each_image_once(tmp_path):
    """In two iterations. More images than a pass over prompts takes at once, so that both sizes need as much for it. A
    second copy of every image would add one to the slope."""
    found = held(tmp_path, "--questions", "32", "48", "--env-runners", "0")
    assert found["copies"]["driver"] < 1.5
