"""POPE's and We-Math's own metrics, by hand."""

import pytest

from sharegrpo_rl.evaluation.benchmark_metrics import pope_figures, we_math_figures
from sharegrpo_rl.evaluation.report import EvaluationRecord


def record(extracted, gold, *, correct=None, categories=(), **labels):
    right = extracted == gold if correct is None else correct
    return EvaluationRecord(
        question_id="q",
        question_index=0,
        subtask="",
        wording=0,
        extracted=extracted,
        gold=gold,
        accuracy=float(right),
        format_ok=True,
        truncated=False,
        num_tokens=1,
        text="",
        categories={"category": tuple(categories)} if categories else {},
        labels=labels,
    )


def test_pope_by_hand():
    random = [record("yes", "yes"), record("Yes, there is.", "no"), record("no", "no"), record(None, "yes")]
    records = [record(r.extracted, r.gold, categories=["random"]) for r in random]
    records.append(record("yes", "yes", categories=["popular", "adversarial"]))
    figures = pope_figures(records)
    assert figures["random"] == {
        "accuracy": 0.5,
        "precision": 0.5,
        "recall": 0.5,
        "f1": 0.5,
        "yes_ratio": 0.5,
        "unanswered": 1,
        "questions": 4,
    }
    assert figures["popular"]["f1"] == figures["adversarial"]["f1"] == 1.0
    assert figures["overall"]["questions"] == 6  # one question counts in both of its categories
    assert figures["overall"]["precision"] == pytest.approx(3 / 4)
    assert figures["overall"]["recall"] == pytest.approx(3 / 4)


def test_pope_without_any_yes():
    figures = pope_figures([record("no", "yes", categories=["random"]), record("no", "no", categories=["random"])])
    assert (figures["overall"]["f1"], figures["overall"]["precision"], figures["overall"]["yes_ratio"]) == (0, 0, 0)


def problem(name, steps, composite):
    parts = [record("", "", correct=right, ID=name, key=f"{len(steps)}steps_{i}") for i, right in enumerate(steps, 1)]
    return [*parts, record("", "", correct=composite, ID=name, key=f"{len(steps)}steps_multi")]


def test_we_math_by_hand():
    records = [
        *problem("all right", [True, True], True),  # CM
        *problem("one step wrong", [True, False], True),  # RM strictly, CM loosely
        *problem("all steps wrong", [False, False, False], True),  # RM
        *problem("not put together", [True, True, True], False),  # IG
        *problem("knows too little", [False, True], False),  # IK
        *problem("cut off", [True, True], True)[:2],
    ]
    figures = we_math_figures(records)
    strict, loose = figures["strict"], figures["loose"]
    assert strict["counts"] == {"IK": 1, "IG": 1, "CM": 1, "RM": 2}
    assert loose["counts"] == {"IK": 1, "IG": 1, "CM": 2, "RM": 1}
    assert (strict["score"], loose["score"]) == (pytest.approx(1.5 / 5), pytest.approx(2.5 / 5))
    assert (strict["RM"], loose["RM"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert (strict["IK"], strict["IG"], strict["CM"]) == (0.2, 0.2, 0.2)
    assert figures["accuracy_by_steps"] == {
        "one_step": pytest.approx(9 / 14),
        "two_step": pytest.approx(2 / 3),
        "three_step": 0.5,
    }
    assert (figures["problems"], figures["incomplete_problems"]) == (5, 1)


def test_the_published_score_is_the_same_number():
    """VLMEvalKit writes it as (N - IG / 2 - RM - IK) / N."""
    records = [r for i in range(8) for r in problem(str(i), [bool(i & 1), bool(i & 2)], bool(i & 4))]
    for figures in (we_math_figures(records)["strict"], we_math_figures(records)["loose"]):
        counts = figures["counts"]
        assert figures["score"] == pytest.approx((8 - counts["IG"] / 2 - counts["RM"] - counts["IK"]) / 8)


def test_nothing_whole_gives_no_rate():
    figures = we_math_figures(problem("p", [True, True], True)[:1])
    assert figures["strict"]["score"] is None
    assert figures["accuracy_by_steps"]["two_step"] is None
