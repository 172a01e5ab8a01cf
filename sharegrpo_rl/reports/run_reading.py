"""One run's folder as a report reads it: settings, rows, evaluations, predictions; finished or not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.statistics.curves import Curve
from sharegrpo_rl.tune.metric_names import value_of
from sharegrpo_rl.tune.run_folder import PREDICTIONS, RunFolder

AXES = ("completions", "seconds")


@dataclass(frozen=True)
class Run:
    """A run's files in memory. `summary` is None while it is unfinished, `predictions` where the run wrote none."""

    path: Path
    params: dict[str, Any]
    rows: list[dict[str, Any]]
    before: dict[str, Any] | None
    summary: dict[str, Any] | None
    predictions: list[dict[str, Any]] | None

    @property
    def seed(self) -> int:
        return int(self.params["seed"])

    @property
    def finished(self) -> bool:
        return self.summary is not None

    @property
    def planned_iterations(self) -> int:
        return int(self.params["stop"]["training_iteration"])

    @cached_property
    def axes(self) -> dict[str, NDArray[np.float64]]:
        """What was spent at each point, 0 in front: sampled completions (taught rows for SFT), seconds of training."""
        taught = self.params["config"].get("num_questions", 0)
        spent = [value_of(row, "env_runners/num_completions") or taught for row in self.rows]
        seconds = [row.get("iteration_seconds", 0.0) for row in self.rows]
        return {"completions": np.cumsum([0.0, *spent]), "seconds": np.cumsum([0.0, *seconds])}

    def curve(self, metric: str, axis: str = "completions") -> Curve | None:
        """A metric of training (a path with slashes) over an axis; None where no row has it."""
        found = [
            (self.axes[axis][i + 1], v) for i, row in enumerate(self.rows) if (v := value_of(row, metric)) is not None
        ]
        return _curve(found)

    def greedy(self, axis: str = "completions") -> Curve | None:
        """Greedy accuracy on the test questions: before, at each evaluation, after."""
        points: dict[float, float] = {}
        if self.before is not None:
            points[0.0] = self.before["evaluation"]["accuracy"]
        for i, row in enumerate(self.rows):
            if (value := value_of(row, "evaluation/accuracy")) is not None:
                points[float(self.axes[axis][i + 1])] = value
        if self.summary is not None:
            points.setdefault(0.0, self.summary["accuracy_before"])
            points[float(self.axes[axis][-1])] = self.summary["accuracy_after"]
        return _curve(sorted(points.items()))


def _curve(points: list[tuple[float, float]]) -> Curve | None:
    if not points:
        return None
    x, y = zip(*points, strict=True)
    return Curve(np.array(x, dtype=np.float64), np.array(y, dtype=np.float64))


def read_run(path: Path) -> Run:
    """The run in a folder; UserError where there is none, or a file is damaged."""
    folder = RunFolder(path)
    files: dict[str, Any] = {}
    for name in ("params.json", "before.json", "summary.json"):
        try:
            files[name] = folder.read_json(name)
        except ValueError as error:
            raise UserError(f"{path / name}: not a JSON file ({error}); run it again in another folder") from None
    if not isinstance(files["params.json"], dict):
        raise UserError(f"{path}: no run (there is no params.json); name a run's folder or a folder of runs")
    return Run(
        path, files["params.json"], folder.results.rows, files["before.json"], files["summary.json"], _predictions(path)
    )


def _predictions(path: Path) -> list[dict[str, Any]] | None:
    file = path / PREDICTIONS
    if not file.exists():
        return None
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            if not {"question_id", "accuracy", "gold", "text"} <= set(row):
                raise ValueError("a test question has question_id, accuracy, gold and text")
        except (ValueError, TypeError) as error:
            raise UserError(f"{file}: line {number} is no test question ({error}); remove the file") from None
        rows.append(row)
    return rows or None


def find_runs(folder: Path) -> list[Path]:
    """Run folders at a path: itself, or those one or two levels below, sorted."""
    if (folder / "params.json").is_file():
        return [folder]
    found = [file.parent for pattern in ("*/params.json", "*/*/params.json") for file in folder.glob(pattern)]
    runs = [p for p in found if not (p.parent / "params.json").exists()]
    if not runs:
        raise UserError(
            f"{folder}: no run in it (a run's folder holds params.json); name a folder of runs or a run file"
        )
    return sorted(set(runs))
