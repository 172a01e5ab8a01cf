"""The command `evaluate`: which of its four works is asked for, and its output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.external_scores import read_external_scores
from sharegrpo_rl.evaluation.folder import add_scores, is_evaluation, read_result, read_scores
from sharegrpo_rl.tune.evaluate_model import evaluate_model
from sharegrpo_rl.tune.evaluate_options import EvaluateOptions, check_options
from sharegrpo_rl.tune.evaluate_pair import compare_models
from sharegrpo_rl.tune.evaluate_print import print_comparison, print_json, print_result


def run_evaluate(
    model: Path, options: EvaluateOptions, *, against: Path | None, scores: Sequence[Path], as_json: bool
) -> None:
    """Evaluate a model; or compare two; or show a finished evaluation, with other tools' scores read into it."""
    if against is not None:
        if scores:
            raise UserError("--read-scores: belongs to one evaluation; leave out --against")
        found = compare_models(model, against, options)
        if as_json:
            print_json(found)
        else:
            print_comparison(found)
        return
    if is_evaluation(model) or scores:
        result = finished_result(model, scores)
    else:
        check_options(options)
        result = evaluate_model(model, options).result
    if as_json:
        print_json(result)
    else:
        print_result(result)


def finished_result(folder: Path, scores: Sequence[Path] = ()) -> dict[str, Any]:
    """The result of an evaluation's folder, with the scores of other tools that were read into it, now or before."""
    if not is_evaluation(folder):
        raise UserError(f"--read-scores: {folder} is no folder that `evaluate --out` wrote; name that folder")
    result = read_result(folder)
    for file in scores:
        add_scores(folder, read_external_scores(file))
    kept = read_scores(folder)
    return {**result, **({"external_scores": kept} if kept else {})}
