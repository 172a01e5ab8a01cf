"""The command `evaluate`: a model, two models on the same questions, or a finished evaluation; and what it prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.exchange import read_external_scores
from sharegrpo_rl.evaluation.folder import (
    REMEDY,
    add_scores,
    differences,
    is_evaluation,
    read_predictions,
    read_result,
    read_scores,
)
from sharegrpo_rl.files import storage_errors, write_json
from sharegrpo_rl.runs.evaluate import FIGURES, Evaluated, evaluate_model
from sharegrpo_rl.runs.evaluate_options import EvaluateOptions, check_options
from sharegrpo_rl.runs.model_folder import find_model_folder
from sharegrpo_rl.statistics.formatting import short
from sharegrpo_rl.statistics.questions import compare_paired, image_clusters

# Which questions, and how they were graded: where one of these differs, a difference of accuracies means nothing.
SAME = {"data_digest": "different questions", "blind": "one is blind", "grader": "different rules graded"}
OF_THE_MODEL = ("model", "batch", "env", "env_config", "limit", "split")  # the questions themselves are in the digest


def run_evaluate(
    model: Path, options: EvaluateOptions, *, against: Path | None = None, scores: Sequence[Path] = ()
) -> dict[str, Any]:
    """The result of a model's evaluation; of the comparison of two; or of a finished one, with other tools' scores read
    into it."""
    if against is not None:
        if scores:
            raise UserError("--read-scores: belongs to one evaluation; leave out --against")
        return compare_models(model, against, options)
    if is_evaluation(model) or scores:
        return finished_result(model, scores)
    return evaluate_model(model, options).result


def finished_result(folder: Path, scores: Sequence[Path] = ()) -> dict[str, Any]:
    """The result in an evaluation's folder, with the scores of other tools, those in `scores` added to it first."""
    if not is_evaluation(folder):
        raise UserError(f"--read-scores: {folder} is not a folder that `evaluate --out` wrote; name such a folder")
    result = read_result(folder)
    for file in scores:
        add_scores(folder, read_external_scores(file))
    kept = read_scores(folder)
    return {**result, **({"external_scores": kept} if kept else {})}


def read_evaluation(folder: Path) -> Evaluated:
    """A finished evaluation's folder."""
    return Evaluated(read_result(folder), tuple(read_predictions(folder)))


def compare_models(a: Path, b: Path, options: EvaluateOptions) -> dict[str, Any]:
    """The paired comparison as JSON values; B, where it is a model, is asked A's questions."""
    check_options(options)
    if options.export is not None:
        raise UserError("--export: exports one model's predictions; leave out --against")
    if not is_evaluation(b):
        find_model_folder(b)  # a missing one is found before A is evaluated
    first = read_evaluation(a) if is_evaluation(a) else evaluate_model(a, _in(options, "a"))
    second = read_evaluation(b) if is_evaluation(b) else _evaluate_as(first, b, _in(options, "b"))
    comparison = compare_evaluations(first, second)
    if options.out is not None:
        with storage_errors(options.out, REMEDY):
            write_json(options.out / "comparison.json", comparison, indent=1)
    return comparison


def _in(options: EvaluateOptions, name: str) -> EvaluateOptions:
    return options if options.out is None else options.model_copy(update={"out": options.out / name})


def _evaluate_as(first: Evaluated, model: Path, options: EvaluateOptions) -> Evaluated:
    protocol = first.protocol
    same = {key: protocol[key] for key in ("split", "limit", "blind", "extract")}
    of_options = dict.fromkeys(("env", "data", "kinds", "benchmark"))  # A's questions, not those
    return evaluate_model(
        model, options.model_copy(update={**of_options, **same}), (protocol["env"], protocol["env_config"])
    )


def compare_evaluations(a: Evaluated, b: Evaluated) -> dict[str, Any]:
    """Difference, interval, discordances, test, and where the two protocols differ; UserError for other questions."""
    for key, problem in SAME.items():
        one, other = a.protocol.get(key), b.protocol.get(key)
        if one != other:
            raise UserError(f"--against: {problem} ({key} {one} and {other}); evaluate both the same way")
    ids = [record.question_id for record in a.records]
    if ids != [record.question_id for record in b.records]:
        raise UserError("--against: the two evaluations hold different questions or another order; evaluate both again")
    correct_a, correct_b = ([record.correct for record in side.records] for side in (a, b))
    clusters = image_clusters([record.image_keys for record in a.records])
    changed = differences(a.protocol, b.protocol)
    verdicts = list(zip(ids, correct_a, correct_b, strict=True))
    return {
        **compare_paired(correct_a, correct_b, clusters).summary(),
        "a": _figures(a.result),
        "b": _figures(b.result),
        "protocol_differences": {k: list(v) for k, v in changed.items() if k.split(".")[0] not in OF_THE_MODEL},
        "questions_only_a_right": [name for name, right, other in verdicts if right and not other],
        "questions_only_b_right": [name for name, right, other in verdicts if other and not right],
    }


def _figures(result: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": result.get("model"), **{name: result[name] for name in FIGURES}}


def print_result(result: Mapping[str, Any]) -> None:
    """Accuracy and its breakdowns, figures of samples, the benchmark's own metric, and apart other tools' scores."""
    low, high = result["confidence_interval"]
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_row("accuracy", f"{result['accuracy']:.4f}  (95 % interval {low:.4f} to {high:.4f})")
    if "clustered" in result["interval_method"]:
        table.add_row("interval", result["interval_method"])
    for name in ("questions", "format_rate", "truncated_rate", "mean_length", "extractor"):
        table.add_row(name.replace("_", " "), _shown(result[name]))
    for task, entry in result["by_task"].items():
        table.add_row(f"  {task}", _cell(entry))
    if len(result["by_kind"]) > 1:
        for kind, entry in result["by_kind"].items():
            table.add_row(f"  {kind or '(unnamed)'}", _cell(entry))
    for name, values in result.get("by_category", {}).items():
        if 1 < len(values) <= 40 and values != result["by_kind"]:
            table.add_row(f"by {name}", "")
            for value, entry in values.items():
                table.add_row(f"  {value}", _cell(entry))
    console = Console()
    console.print(table)
    if sampling := result.get("sampling"):
        console.print(_sampling_table(sampling, result["protocol"]["decoding"]["sampled"]["temperature"]))
    for name, figures in result.get("metrics", {}).items():
        console.print(_nested_table(f"{name}, rule-based", figures))
    for scores in result.get("external_scores", []):
        console.print(_nested_table(f"{scores['tool']}'s own scores, from {scores['file']}", scores["scores"]))


def print_comparison(comparison: Mapping[str, Any]) -> None:
    """The difference with its interval, and the counts of agreement."""
    low, high = comparison["confidence_interval"]
    table = Table(show_header=False, box=None, padding=(0, 2))
    for side in ("a", "b"):
        table.add_row(
            f"accuracy of {side.upper()}", f"{comparison[f'accuracy_{side}']:.4f}  {comparison[side]['model']}"
        )
    table.add_row("A - B", f"{comparison['difference']:+.4f}  (95 % interval {low:+.4f} to {high:+.4f})")
    table.add_row("only A right", str(comparison["only_a_right"]))
    table.add_row("only B right", str(comparison["only_b_right"]))
    table.add_row("both right, both wrong", f"{comparison['both_right']}, {comparison['both_wrong']}")
    table.add_row("p-value", f"{comparison['p_value']:.4g}  ({comparison['test']})")
    table.add_row("questions", f"{comparison['questions']} in {comparison['clusters']} clusters of shared images")
    for key, (one, other) in comparison["protocol_differences"].items():
        table.add_row("protocols differ", f"{key}: {one!r} and {other!r}"[:200])
    Console().print(table)


def _sampling_table(sampling: Mapping[str, Any], temperature: float) -> Table:
    title = f"{sampling['samples']} samples at temperature {temperature:g}"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2))
    for heading in ("k", "pass@k", "mean@k", "majority@k"):
        table.add_column(heading)
    for k in sampling["pass@k"]:
        cells = [sampling[name][k] for name in ("pass@k", "mean@k", "majority@k")]
        table.add_row(k, *("{:.4f} ({:.3f} to {:.3f})".format(c["value"], *c["confidence_interval"]) for c in cells))
    return table


def _nested_table(title: str, figures: Mapping[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    for name, value in figures.items():
        shown = ", ".join(f"{k} {_shown(v)}" for k, v in value.items()) if isinstance(value, Mapping) else _shown(value)
        table.add_row(f"  {name}", shown)
    return table


def _cell(entry: Mapping[str, Any]) -> str:
    return f"{entry['accuracy']:.4f}  of {entry['questions']}"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{k} {_shown(v)}" for k, v in value.items())
    return short(value)
