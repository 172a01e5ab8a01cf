"""Pixels are held once for each distinct image: memory of whole iterations at two sizes, whatever else a process needs.

Share-GRPO asks each question in two wordings about one image, six times each.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import ray
from torch.utils._python_dispatch import TorchDispatchMode

from sharegrpo_rl.algorithms.registry import build_config
from sharegrpo_rl.models import decoding

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "host_memory.py"
OPTIONS = {
    "env_config": {"kinds": ["counting"], "image_size": 280, "max_questions": 60},
    "model_config": {
        "hidden_size": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "vision_layers": 1, "vocab_size": 300,
    },
    "max_pixels": 280 * 280, "max_prompt_tokens": 1000, "max_completion_tokens": 4, "format_prompt": "",
    "num_variants": 2, "num_generations": 6, "transform_probability": 0.0, "max_tokens_per_microbatch": 1,
}  # fmt: skip

LEVELS = 3 * 256 * 4  # bytes: what the codes of an array stand for

pytestmark = pytest.mark.slow
FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class Allocated(ctypes.Structure):
    """What glibc's `mallinfo2` returns."""

    _fields_: ClassVar = [(name, ctypes.c_size_t) for name in FIELDS]


class Height(TorchDispatchMode):
    """The most bytes that this process has allocated and not freed, looked at after each of torch's operations.

    An exact count: resident memory depends on what the C library keeps of the freed, and how scattered that lies.
    """

    def __init__(self):
        super().__init__()
        self._ask = ctypes.CDLL(None).mallinfo2
        self._ask.restype = Allocated
        self.bytes = 0

    def now(self):
        info = self._ask()
        return info.uordblks + info.hblkhd

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.bytes = max(self.bytes, self.now())
        return result


def in_one_process(questions):
    """Bytes of the distinct pixels of an iteration, and at the height of two iterations on top of what was before."""
    algorithm = build_config("ShareGRPO", "DrawnShapes-v0", OPTIONS | {"num_questions": questions}, 0).build_algo()
    height = Height()
    before = height.now()
    with height:
        for _ in range(2):
            algorithm.train()
    images = {i.key: i.tensors for g in algorithm.sampled_groups() for p in g.prompts for i in p.images}
    algorithm.stop()
    return sum(a.nbytes for tensors in images.values() for a in tensors.values()), height.bytes - before


@pytest.fixture
def only_ray():
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc counts what is allocated")
@pytest.mark.usefixtures("only_ray")
def test_one_process_holds_each_image_once(tmp_path, monkeypatch):
    """In two iterations. A second copy of every image, of this iteration or the last, would add one to the slope, decoded ones
    four; what else grows with the questions is 0.6 of it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(decoding, "PREFILL_TOKENS", 1)  # each pass takes one prompt: both sizes need as much for it
    gc.disable()  # nothing waits for it to be freed
    try:
        in_one_process(1)  # what a process loads and keeps at its first use
        pixels, heights = np.diff([in_one_process(questions) for questions in (12, 24)], axis=0)[0]
    finally:
        gc.enable()
    assert pixels == 12 * (20 * 20 * 1176 + LEVELS + 24)
    assert 1 < heights / pixels < 1.9


def held(tmp_path, *words):
    """MB at the height by part, for each number of questions, and the slopes over the pixels."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = json.loads(done.stdout)["env_runners"].values()
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_the_object_store_holds_each_image_once(tmp_path):
    """In one iteration: Ray takes its time to free what the last one has let go."""
    found = held(tmp_path, "--questions", "2", "8", "--env-runners", "2", "--iterations", "1")
    assert found["pixels_mb"] == pytest.approx([11.6, 46.5], abs=0.2)
    assert found["copies"]["store"] == pytest.approx(1, abs=0.1)
