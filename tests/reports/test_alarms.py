"""Each alarm is raised by its own sign, and by nothing else."""

from __future__ import annotations

import pytest

from sharegrpo_rl.reports.alarms import RULES, WINDOW, ends, find_alarms

HEALTHY = {
    "learners/default_policy/entropy": (1.0, 0.5),
    "env_runners/completion_length_mean": (30.0, 45.0),
    "env_runners/truncated_rate": (0.3, 0.02),
    "env_runners/reward_parts/format": (0.2, 0.98),
    "groups/valid_reward_ratio": (0.9, 0.5),
    "groups/reward_density": (0.3, 0.7),
    "env_runners/grader_errors": (0, 0),
    "learners/default_policy/logprob_diff_mean": (1e-6, 2e-6),
    "learners/default_policy/skipped_steps": (0, 0),
}


def rows_of(figures: dict[str, tuple[float, float]], number: int = 40) -> list[dict]:
    """Rows in which each figure goes straight from its first value to its last."""
    rows = []
    for i in range(number):
        row: dict = {"training_iteration": i + 1}
        for path, (first, last) in figures.items():
            *parents, name = path.split("/")
            place = row
            for key in parents:
                place = place.setdefault(key, {})
            place[name] = first + (last - first) * i / (number - 1)
        rows.append(row)
    return rows


def test_a_healthy_run_raises_none() -> None:
    assert find_alarms(rows_of(HEALTHY)) == []
    assert find_alarms([]) == []
    assert find_alarms([{"training_iteration": 1}] * 5) == []


@pytest.mark.parametrize(
    ("name", "path", "values", "seen"),
    [
        ("entropy collapse", "learners/default_policy/entropy", (1.0, -0.1), "entropy"),
        ("length blow-up", "env_runners/completion_length_mean", (20.0, 80.0), "tokens a completion"),
        ("truncation", "env_runners/truncated_rate", (0.0, 0.3), "cut off"),
        ("format stuck", "env_runners/reward_parts/format", (0.1, 0.3), "required format"),
        ("groups without variance", "groups/valid_reward_ratio", (0.6, 0.02), "of the completions right"),
        ("grader errors", "env_runners/grader_errors", (0, 2), "40 completions"),
        ("sampler and trainer apart", "learners/default_policy/logprob_diff_mean", (0.001, 0.1), "log-probs"),
        ("steps skipped", "learners/default_policy/skipped_steps", (0, 3), "3 optimizer steps"),
    ],
)
def test_each_sign_raises_its_alarm(name: str, path: str, values: tuple[float, float], seen: str) -> None:
    (alarm,) = find_alarms(rows_of(HEALTHY | {path: values}))
    assert alarm.name == name
    assert seen in alarm.seen
    assert alarm.remedy


def test_every_rule_is_tested_and_named_once() -> None:
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names) == 8


def test_entropy_that_was_small_from_the_start_is_no_collapse() -> None:
    assert find_alarms(rows_of(HEALTHY | {"learners/default_policy/entropy": (0.04, 0.03)})) == []


def test_ends_average_a_window() -> None:
    rows = rows_of({"a/b": (0.0, 39.0)})
    assert ends(rows, "a/b") == pytest.approx(((WINDOW - 1) / 2, 39 - (WINDOW - 1) / 2))
    assert ends(rows[:4], "a/b") == (0.0, 3.0)  # a quarter of 4 rows is 1
    assert ends(rows[:1], "a/b") is None
