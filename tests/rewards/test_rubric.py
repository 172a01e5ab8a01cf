"""The rubric: parts, weights, user rewards, and what a truncated completion is worth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from sharegrpo_rl.config.registry import REWARDS, register_reward
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.envs.registry import make_env
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.grader import grading
from sharegrpo_rl.rewards import steps
from sharegrpo_rl.rewards.rubric import Rubric

QUESTION = SeedQuestion(id="q", question="How many dots?", answer="5", extra={"colour": "red"})
RIGHT = "<think>so</think><answer>5</answer>"
WRONG = "<think>so</think><answer>6</answer>"
LOOSE = "<answer>5</answer>"
BARE = "The answer is 5"


@pytest.fixture
def registered() -> Iterator[None]:
    before = dict(REWARDS.user_functions)
    yield
    REWARDS.user_functions = before


def test_weighted_sum_of_accuracy_and_format() -> None:
    scores = Rubric({"accuracy": 0.9, "format": 0.1}).score([RIGHT, WRONG, LOOSE, BARE], QUESTION)
    assert [score.total for score in scores] == pytest.approx([1.0, 0.1, 0.9, 0.0])
    assert [score.parts for score in scores][2] == {"accuracy": 1.0, "format": 0.0}
    assert [score.extracted for score in scores] == ["5", "6", "5", None]
    assert all(score.error is None for score in scores)


def test_both_parts_are_measured_without_weight() -> None:
    (score,) = Rubric({"accuracy": 1.0}).score([RIGHT], QUESTION)
    assert score.parts == {"accuracy": 1.0, "format": 1.0}
    assert score.total == 1.0


def test_the_runs_own_format_alone_counts() -> None:
    (score,) = Rubric({"accuracy": 1.0}, "boxed").score([RIGHT], QUESTION)
    assert score.total == 0.0
    assert score.error is None
    (score,) = Rubric({"accuracy": 1.0}, "boxed").score(["<think>so</think>\\boxed{5}"], QUESTION)
    assert score.total == 1.0


def test_a_rule_of_ours_that_fails_is_an_error_and_a_users_own_stops_the_run(
    registered: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["accuracy", "key_steps", "step_validity"]
    rubric = Rubric(dict.fromkeys(names, 1.0))
    question = replace(QUESTION, key_steps=(("five",),))

    def broken(*_: object) -> None:
        raise ValueError("substring not found")

    monkeypatch.setattr(steps, "step_texts", broken)
    scores = rubric.score([RIGHT, BARE], question)
    assert [score.parts["accuracy"] for score in scores] == [1.0, 0.0]
    assert [score.unscored for score in scores] == [("key_steps",), ()]  # without an answer no step is looked for
    assert (scores[0].error or "").startswith("unexpected: ValueError at ")
    assert scores[1].error is None

    register_reward("broken", lambda completions, **columns: broken())
    with pytest.raises(ValueError, match="substring"):
        Rubric({"broken": 1.0}).score([RIGHT], QUESTION)


def test_an_environment_goes_on_where_the_grader_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("substring not found")

    env = make_env("DrawnShapes-v0", {"max_questions": 4})
    env.reset(options={"question_index": 0})
    monkeypatch.setattr(grading, "_compare", broken)
    _, reward, terminated, _, info = env.step("<think>so</think><answer>5</answer>")
    assert terminated
    assert info["error"].startswith("unexpected: ValueError at ")
    assert info["reward_parts"]["accuracy"] == 0
    assert reward == pytest.approx(0.1)  # of the format


def test_a_truncated_completion_is_not_well_formed() -> None:
    whole, cut = Rubric({"format": 1.0}).score([RIGHT, RIGHT], QUESTION, truncated=[False, True])
    assert (whole.total, cut.total) == (1.0, 0.0)


def test_user_rewards_take_trls_signature(registered: None) -> None:
    def shortness(completions: list[str], colour: list[str], **columns: Any) -> list[float | None]:
        assert colour == ["red"] * len(completions)
        assert columns["answer"] == ["5"] * len(completions)
        return [None if "6" in text else 1.0 / len(text) for text in completions]

    register_reward("shortness", shortness)
    right, wrong = Rubric({"accuracy": 1.0, "shortness": 2.0}).score([RIGHT, WRONG], QUESTION)
    assert right.total == pytest.approx(1.0 + 2.0 / len(RIGHT))
    assert wrong.unscored == ("shortness",)
    assert "shortness" not in wrong.parts


@pytest.mark.parametrize(
    ("weights", "named"),
    [({"accuracy": 1.0, "beauty": 1.0}, "beauty"), ({}, "rewards"), ({"accuracy": "much"}, "accuracy")],
)
def test_bad_weights_are_named(weights: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        Rubric(weights)


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(UserError, match="haiku"):
        Rubric({"accuracy": 1.0}, "haiku")


def test_a_name_is_registered_once(registered: None) -> None:
    with pytest.raises(UserError, match="accuracy"):
        register_reward("accuracy", lambda completions, **columns: [1.0] * len(completions))


def test_a_decorator_registers_too(registered: None) -> None:
    @register_reward("nothing")
    def nothing(completions: list[str], **columns: Any) -> list[float | None]:
        """Always 0."""
        return [0.0] * len(completions)

    assert REWARDS.load("nothing") is nothing
    assert list(REWARDS)[:2] == ["accuracy", "format"]
    assert dict(REWARDS.describe())["nothing"] == "Always 0."
