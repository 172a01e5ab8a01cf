"""`evaluate A --against B`: two models, or two finished evaluations, on the same questions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.folder import is_evaluation, read_predictions, read_result
from sharegrpo_rl.evaluation.intervals import image_clusters
from sharegrpo_rl.evaluation.paired import compare_paired
from sharegrpo_rl.evaluation.protocol import differences
from sharegrpo_rl.tune.evaluate_model import FIGURES, Evaluated, evaluate_model
from sharegrpo_rl.tune.evaluate_options import EvaluateOptions, check_options
from sharegrpo_rl.tune.model_folder import find_model_folder

# Which questions, and how they were graded: where one of these differs, a difference of accuracies says nothing.
SAME = {"data_digest": "other questions were asked", "blind": "one is blind", "grader": "other rules graded"}
OF_THE_MODEL = ("model", "batch", "env", "env_config", "limit", "split")  # the questions themselves are in the digest


def read_evaluation(folder: Path) -> Evaluated:
    """A finished evaluation's folder."""
    return Evaluated(read_result(folder), tuple(read_predictions(folder)))


def compare_models(a: Path, b: Path, options: EvaluateOptions) -> dict[str, Any]:
    """The paired comparison as JSON values; B, where it is a model, gets the questions that A was asked."""
    check_options(options)
    if options.export is not None:
        raise UserError("--export: exports one model's predictions; leave out --against")
    if not is_evaluation(b):
        find_model_folder(b)  # rather now than after A has been asked everything
    first = read_evaluation(a) if is_evaluation(a) else evaluate_model(a, _in(options, "a"))
    second = read_evaluation(b) if is_evaluation(b) else _evaluate_as(first, b, _in(options, "b"))
    found = compare_evaluations(first, second)
    if options.out is not None:
        file = options.out / "comparison.json"
        options.out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def _in(options: EvaluateOptions, name: str) -> EvaluateOptions:
    return options if options.out is None else replace(options, out=options.out / name)


def _evaluate_as(first: Evaluated, model: Path, options: EvaluateOptions) -> Evaluated:
    protocol = first.protocol
    asked = {key: protocol[key] for key in ("split", "limit", "blind", "extract")}
    questions = (protocol["env"], protocol["env_config"])
    return evaluate_model(model, replace(options, env=None, data=None, kinds=None, benchmark=None, **asked), questions)


def compare_evaluations(a: Evaluated, b: Evaluated) -> dict[str, Any]:
    """Difference, interval, discordances, test, and where the two protocols differ; UserError for other questions."""
    _check_comparable(a, b)
    ids = [record.question_id for record in a.records]
    if ids != [record.question_id for record in b.records]:
        raise UserError("--against: the two evaluations hold other questions or another order; evaluate both again")
    clusters = image_clusters([record.image_keys for record in a.records])
    verdicts = [[record.correct for record in side.records] for side in (a, b)]
    found = compare_paired(verdicts[0], verdicts[1], clusters)
    changed = {
        key: list(values)
        for key, values in differences(a.protocol, b.protocol).items()
        if key.split(".")[0] not in OF_THE_MODEL
    }
    pairs = list(zip(ids, *verdicts, strict=True))
    return {
        **found.summary(),
        "a": _figures(a.result),
        "b": _figures(b.result),
        "protocol_differences": changed,
        "questions_only_a_right": [name for name, right, other in pairs if right and not other],
        "questions_only_b_right": [name for name, right, other in pairs if other and not right],
    }


def _check_comparable(a: Evaluated, b: Evaluated) -> None:
    for key, what in SAME.items():
        one, other = a.protocol.get(key), b.protocol.get(key)
        if one != other:
            raise UserError(f"--against: {what} ({key} {one} and {other}); evaluate both the same way")


def _figures(result: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": result.get("model"), **{name: result[name] for name in FIGURES}}
