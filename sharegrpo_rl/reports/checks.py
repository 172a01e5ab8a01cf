"""What must hold before methods are compared: finished runs, one test set, seeds enough, a metric that they have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.reports.methods import Method
from sharegrpo_rl.reports.run_reading import Run
from sharegrpo_rl.statistics.seeds import fewest_seeds
from sharegrpo_rl.tune.peer_names import suggestion

METRICS = {
    "accuracy_after": "greedy accuracy after training",
    "gain": "gain in greedy accuracy",
    "blind_accuracy_after": "greedy accuracy with swapped images",
    "format_rate_after": "share of answers in the asked form",
    "valid_advantage_ratio": "valid-advantage ratio, mean over training",
    "reward_density": "reward density, mean over training",
    "solved_ratio": "solved ratio, mean over training",
}
ACCURACY = "accuracy_after"


def check_metric(metric: str) -> None:
    """UserError for a metric that no comparison knows."""
    if metric not in METRICS:
        raise UserError(f"--metric {metric}: no such metric{suggestion(metric, METRICS)} (known: {', '.join(METRICS)})")


def check_confidence(confidence: float, seeds: int) -> None:
    """UserError where so few seeds give no usable interval at this confidence."""
    if not 0.5 <= confidence < 1:
        raise UserError(f"--confidence {confidence:g}: expected a share of at least 0.5 and below 1, such as 0.95")
    if seeds < (needed := fewest_seeds(confidence)):
        raise UserError(
            f"{seeds} seed{'s are' if seeds > 1 else ' is'} too few for {100 * confidence:g} % confidence, which takes "
            f"{needed}; raise --seeds or lower --confidence"
        )


def check_methods(methods: Sequence[Method], metric: str, confidence: float) -> None:
    """UserError where the methods cannot be compared; seeds that are planned and still missing are no error."""
    finished = [run for method in methods for run in method.finished]
    if not finished:
        raise UserError("no finished run among those given (a finished run has summary.json); train them to their end")
    for method in methods:
        if not method.seeds:
            if not method.finished:
                raise UserError(f"{method.label}: no finished run ({method.runs[0].path}); train it or leave it out")
            try:
                check_confidence(confidence, len(method.finished))
            except UserError as error:
                raise UserError(f"{method.label}: {error}") from None
    if all(run.summary is not None and run.summary.get(metric) is None for run in finished):
        raise UserError(f"--metric {metric}: none of these runs has it")
    check_test_sets(finished)


def check_test_sets(runs: Sequence[Run]) -> None:
    """UserError naming two runs that were tested on different questions."""
    predicted = [run for run in runs if run.predictions is not None]
    _all_alike(predicted, questions_asked, "other questions")
    if len(predicted) < len(runs):  # then settings must tell
        _all_alike(runs, _test_settings, "other settings of environment or evaluation")


def questions_asked(run: Run) -> list[tuple[str, str, str]]:
    """Every test question of a run as (id, wording, gold answer), in order."""
    return [(r["question_id"], r.get("question", ""), r["gold"]) for r in run.predictions or []]


def _test_settings(run: Run) -> str:
    config: dict[str, Any] = run.params["config"]
    count = (run.summary or {}).get("test_questions")
    return json.dumps([run.params["env"], config["env_config"], config["evaluation_questions"], count], sort_keys=True)


def _all_alike(runs: Sequence[Run], key: Any, what: str) -> None:
    for run in runs[1:]:
        if key(run) != key(runs[0]):
            raise UserError(
                f"{run.path} was tested on a different test set than {runs[0].path} ({what}); compare runs with one test set"
            )
