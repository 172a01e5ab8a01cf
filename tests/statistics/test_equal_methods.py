"""Simulated A/A experiments: two equal methods, with spreads over seeds as measured here (benchmarks/aa_experiments.py)."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from sharegrpo_rl.statistics.seeds import paired_difference, t_interval

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "aa_experiments.py"


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("aa_experiments", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting", ["easy_vqa", "mnist_pairs", "drawn shapes, Share-GRPO", "drawn shapes, GRPO, 12 seeds"]
)
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_equal_methods_are_called_different_in_one_of_twenty(program, setting, seeds):
    found = program.simulate(program.SETTINGS[setting], seeds, experiments=2000, seed=3)
    assert 0.04 <= found["paired test"] <= 0.06
    assert 0.93 <= found["interval, these questions"] <= 0.97
    assert 0.93 <= found["interval, other questions"] <= 0.98
    assert found["test per question"] > 0.15  # which is why it is no test of the methods


def test_the_simulation_is_not_blind_to_a_difference(program):
    """The same tests find a difference of three standard deviations of a run, nearly always at ten seeds."""
    spread = program.Spread(0.6, warm_start=0.04, run=0.02)
    source = program.Experiments(spread, 10, np.random.default_rng(0))
    found = [
        paired_difference(a.mean(1) + 0.06, b.mean(1)).p_value < 0.05
        for a, b, _, _ in (source.draw() for _ in range(60))
    ]
    assert np.mean(found) > 0.95


def test_the_simulation_has_the_spread_and_level_that_it_is_asked_for(program):
    spread = program.Spread(0.6, warm_start=0.05, run=0.03, test_questions=400)
    source = program.Experiments(spread, 20, np.random.default_rng(1))
    a, b, _, _ = zip(*(source.draw() for _ in range(60)), strict=True)
    means, others = np.array([x.mean(1) for x in a]), np.array([x.mean(1) for x in b])
    assert means.mean() == pytest.approx(0.6, abs=0.02)
    assert (means - others).std() == pytest.approx(np.sqrt(2 * (0.03**2 + 0.17 / 400)), rel=0.12)


def test_a_real_experiment_splits_one_methods_seeds_in_every_way(program):
    assert program.every_split([0.1, 0.2, 0.3, 0.4]) == 0.0
    far = program.every_split([0.1, 0.11, 0.12, 0.9, 0.91, 0.92])
    assert far == pytest.approx(2 / 20)  # the split into low and high, either way round
    assert t_interval([0.1, 0.2]).value == pytest.approx(0.15)
