"""When runs end, and what `stop` refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.runs.run_file import load_run, reason_to_stop

RUN_FILE = """
mine:
  run: GRPO
  env: DrawnShapes-v0
  stop: {training_iteration: 20}
  config: {evaluation_interval: 2}
"""


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(RUN_FILE)
    return path


def rows(*accuracies: float | None) -> list[dict]:
    """An iteration each; None = not evaluated."""
    return [
        {"evaluation": {"accuracy": a}, "env_runners": {"num_completions": 10}} if a is not None else {}
        for a in accuracies
    ]


def test_lengths() -> None:
    assert reason_to_stop([], {"training_iteration": 1}) is None
    assert reason_to_stop(rows(0.1), {"training_iteration": 2}) is None
    assert reason_to_stop(rows(0.1, 0.1), {"training_iteration": 2}) == "training_iteration"
    assert reason_to_stop(rows(0.1, 0.1), {"training_iteration": 9, "completions": 20}) == "completions"


def test_a_figure_that_is_reached() -> None:
    stop = {"training_iteration": 9, "evaluation/accuracy": 0.8}
    assert reason_to_stop(rows(0.1, 0.9, 0.7), stop) is None  # only the newest counts, as in Ray Tune
    assert reason_to_stop(rows(0.1, 0.8), stop) == "evaluation/accuracy"
    assert reason_to_stop(rows(0.8, None), stop) is None


@pytest.mark.parametrize(
    ("accuracies", "ends"),
    [
        ((0.1, 0.2, 0.3), False),
        ((0.3, 0.2, 0.3), True),
        ((0.3, None, 0.2, None), False),
        ((0.3, None, 0.2, None, 0.1), True),
        ((0.3, 0.2, 0.31, 0.1), False),
        ((0.3, 0.31, 0.305), False),
    ],
)
def test_a_plateau(accuracies: tuple[float | None, ...], ends: bool) -> None:
    plateau = {"metric": "evaluation/accuracy", "mode": "max", "patience": 2, "min_delta": 0.0}
    stop = {"training_iteration": 99, "plateau": plateau}
    assert (reason_to_stop(rows(*accuracies), stop) == "plateau") is ends


def test_a_plateau_of_a_falling_figure_and_a_least_step() -> None:
    plateau = {"metric": "evaluation/accuracy", "mode": "min", "patience": 2, "min_delta": 0.05}
    stop = {"training_iteration": 99, "plateau": plateau}
    assert reason_to_stop(rows(0.9, 0.8, 0.7, 0.6), stop) is None
    assert reason_to_stop(rows(0.9, 0.88, 0.86), stop) == "plateau"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(1, 6), st.floats(0, 0.2))
def test_a_plateau_is_the_slow_definition(values: list[float], patience: int, delta: float) -> None:
    plateau = {"metric": "evaluation/accuracy", "mode": "max", "patience": patience, "min_delta": delta}
    counted = [0]
    best = values[0]
    for value in values[1:]:
        better = value > best + delta
        best = value if better else best
        counted.append(0 if better else counted[-1] + 1)
    found = reason_to_stop(rows(*values), {"training_iteration": 99, "plateau": plateau})
    assert (found == "plateau") == (counted[-1] >= patience)


def test_settings_reach_the_run(run_file: Path) -> None:
    spec = load_run(run_file, ["stop.evaluation/accuracy=0.9", "stop.plateau.patience=3", "stop.completions=50"])
    assert spec.stop == {
        "training_iteration": 20,
        "evaluation/accuracy": 0.9,
        "plateau": {"metric": "evaluation/accuracy", "mode": "max", "patience": 3, "min_delta": 0.0},
        "completions": 50,
    }


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("stop.training_iteration=0", "stop.training_iteration: expected a whole number"),
        ("stop.completions=1.5", "stop.completions: expected a whole number"),
        ("stop.complitions=5", "did you mean completions"),
        ("stop.evaluation/acuracy=0.5", "did you mean evaluation/accuracy"),
        ("stop.evaluation/accuracy=high", "stop.evaluation/accuracy: expected a number"),
        ("stop.plateau=5", "expected a table such as"),
        ("stop.plateau.patients=5", "did you mean patience"),
        ("stop.plateau.patience=0", "stop.plateau.patience: 0 is too small"),
        ("stop.plateau.mode=up", "stop.plateau.mode: 'up' is not one of max, min"),
        ("stop.plateau.metric=groups/x", "this run reports no 'groups/x'"),
        ("config.best_metric=evaluation/best", "config.best_metric: this run reports no"),
        ("config.user_callbacks=[mine]", "config.user_callbacks: no callbacks 'mine'"),
    ],
)
def test_wrong_settings_are_told(run_file: Path, setting: str, words: str) -> None:
    with pytest.raises(UserError, match=r"--set: ") as caught:
        load_run(run_file, [setting])
    assert words in str(caught.value)


def test_a_figure_that_is_never_measured_is_refused(run_file: Path) -> None:
    for interval in (0, 20):
        with pytest.raises(UserError, match="not measured before the end"):
            load_run(run_file, ["stop.plateau.patience=3", f"config.evaluation_interval={interval}"])
