"""The metrics that POPE and We-Math define for themselves, on rule-based verdicts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from sharegrpo_rl.evaluation.report import EvaluationRecord
from sharegrpo_rl.grader import parse_boolean


def pope_figures(records: Sequence[EvaluationRecord]) -> dict[str, Any]:
    """Accuracy, precision, recall and F1 of "yes", and the share of yes, over all and by category (Li et al. 2023).

    A question of several categories counts in each of them, and as often in the whole, as VLMEvalKit counts it.
    An answer that is neither yes nor no counts as no yes, and as wrong.
    """
    groups: dict[str, list[EvaluationRecord]] = defaultdict(list)
    for record in records:
        for category in record.categories.get("category", ("",)):
            groups[category].append(record)
    return {
        "overall": _yes_figures([record for group in groups.values() for record in group]),
        **{name: _yes_figures(groups[name]) for name in sorted(groups) if name},
    }


def _yes_figures(records: Sequence[EvaluationRecord]) -> dict[str, Any]:
    answers = [None if r.extracted is None else parse_boolean(r.extracted, verbose=True) for r in records]
    golds = [parse_boolean(r.gold) is True for r in records]
    hits = sum(answer is True and gold for answer, gold in zip(answers, golds, strict=True))
    positives, yes = sum(answer is True for answer in answers), sum(golds)
    precision, recall = hits / positives if positives else 0.0, hits / yes if yes else 0.0
    return {
        "accuracy": sum(answer is gold for answer, gold in zip(answers, golds, strict=True)) / len(records),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "yes_ratio": positives / len(records),
        "unanswered": sum(answer is None for answer in answers),
        "questions": len(records),
    }


def we_math_figures(records: Sequence[EvaluationRecord]) -> dict[str, Any]:
    """We-Math's four classes of two- and three-step problems, and its scores (Qiao et al. 2024, arXiv 2407.01284).

    Of the problems whose every step was asked: IK composite wrong and a step wrong, IG composite wrong and all steps
    right, CM and RM composite right. Strictly, one wrong step makes it RM; loosely, only all steps wrong.
    Score = CM + IG / 2; the rate of RM is RM / (RM + CM).
    """
    problems: dict[tuple[str, int], dict[str, bool]] = defaultdict(dict)
    for record in records:
        steps, _, part = record.labels["key"].partition("steps_")
        problems[record.labels["ID"], int(steps)][part] = record.correct
    complete = {key: parts for key, parts in problems.items() if len(parts) == key[1] + 1 and "multi" in parts}
    accuracy = {
        "one_step": _share([r.correct for r in records if not r.labels["key"].endswith("multi")]),
        "two_step": _share([parts["multi"] for (_, steps), parts in complete.items() if steps == 2]),
        "three_step": _share([parts["multi"] for (_, steps), parts in complete.items() if steps == 3]),
    }
    return {
        "strict": _four_classes(list(complete.values()), mastered=all),
        "loose": _four_classes(list(complete.values()), mastered=any),
        "accuracy_by_steps": accuracy,
        "problems": len(complete),
        "incomplete_problems": len(problems) - len(complete),
    }


def _four_classes(problems: Sequence[dict[str, bool]], mastered: Callable[[list[bool]], bool]) -> dict[str, Any]:
    counts = dict.fromkeys(("IK", "IG", "CM", "RM"), 0)
    for parts in problems:
        steps = [right for part, right in parts.items() if part != "multi"]
        if parts["multi"]:
            counts["CM" if mastered(steps) else "RM"] += 1
        else:
            counts["IG" if all(steps) else "IK"] += 1
    total, composite = len(problems), counts["CM"] + counts["RM"]
    return {
        "score": (counts["CM"] + counts["IG"] / 2) / total if total else None,
        **{name: counts[name] / total if total else None for name in ("IK", "IG", "CM")},
        "RM": counts["RM"] / composite if composite else None,
        "counts": counts,
    }


def _share(verdicts: Sequence[bool]) -> float | None:
    return sum(verdicts) / len(verdicts) if verdicts else None


METRICS: dict[str, Callable[[Sequence[EvaluationRecord]], dict[str, Any]]] = {
    "pope": pope_figures,
    "wemath": we_math_figures,
}
