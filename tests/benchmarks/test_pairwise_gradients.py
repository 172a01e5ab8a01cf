"""The proof of the packed learner: its gradient is that of plain transformers, pair by pair, for every preset."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sharegrpo_rl.config.presets import PRESETS

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "pairwise_gradients.py"
CASES = [(algorithm, preset) for algorithm, presets in PRESETS.items() if algorithm != "SFT" for preset in presets]


@pytest.fixture(scope="module")
def pairwise(tmp_path_factory):
    """The script as a module; its model is written once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.syspath_prepend(str(SCRIPT.parent))
        import pairwise_gradients

        yield pairwise_gradients


def arguments(pairwise, algorithm, preset, **changes):
    given = {"model": None, "questions": 3, "samples": 3, "tokens": 6, "image": 56, "seed": 0, **changes}
    return pairwise.argparse.Namespace(algorithm=algorithm, preset=preset, **given)


@pytest.mark.parametrize(("algorithm", "preset"), CASES)
def test_each_preset_s_gradient_is_that_of_its_pairs(pairwise, algorithm, preset):
    found = pairwise.measure(arguments(pairwise, algorithm, preset))
    assert found["relative_error"] < 1e-5
    assert found["loss"][0] == pytest.approx(found["loss"][1], rel=1e-4, abs=1e-6)
    assert found["clipped"] > 0


def test_a_wrong_weight_is_noticed(pairwise, monkeypatch):
    """The other side's KL as a mean over all pairs instead of the native ones."""
    kept = pairwise.weight
    monkeypatch.setattr(
        pairwise,
        "weight",
        lambda pair, counted, options: kept(pair, counted, options) * (0.5 if len(counted) == 18 else 1),
    )
    options = pairwise.options_of(arguments(pairwise, "ShareGRPO", "paper")).model_copy(update={"kl_coeff": 5.0})
    monkeypatch.setattr(pairwise, "options_of", lambda given: options)
    assert pairwise.measure(arguments(pairwise, "ShareGRPO", "paper"))["relative_error"] > 1e-3


@pytest.mark.slow
def test_the_command_line_prints_one_json_line(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, "--algorithm", "GRPO", "--tokens", "4"],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["relative_error"] < 1e-5
