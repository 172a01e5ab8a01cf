"""One run's folder as a report reads it: settings, rows, evaluations, predictions; finished or not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.config.metrics import value_of
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.files import PREDICTIONS, write_atomically
from sharegrpo_rl.runs.folder import RunFolder, leaves
from sharegrpo_rl.statistics.seeds import Curve

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


# ---- Methods: runs that differ in nothing but their seed, with a name, and what their settings do not share.

DISPLAY = {"ShareGRPO": "Share-GRPO", "GRPOD": "GRPO-D"}
METHODS_FILE = "methods.json"
START = ("model", "model_config", "warm_start")  # options that fix the model RL begins with
NAMED_KEYS = 2  # differing settings that a label names; with more, methods are numbered
UNTOLD = ("env_config", "total_steps")  # too long, or following from others


@dataclass
class Method:
    """What is compared: its runs by rising seed, the seeds that were asked for, and whose control it is."""

    label: str
    runs: list[Run] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)  # planned; empty = those that are there
    control_of: str | None = None
    failures: dict[int, str] = field(default_factory=dict)  # seed -> why its run ended badly

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.finished]

    @property
    def missing(self) -> list[int]:
        """Seeds without a finished run."""
        done = {run.seed for run in self.finished}
        return [s for s in (self.seeds or [run.seed for run in self.runs]) if s not in done]

    def run(self, seed: int) -> Run:
        """The finished run of a seed."""
        return next(run for run in self.finished if run.seed == seed)


def read_methods(folder: Path, label: str | None = None) -> list[Method]:
    """The methods whose runs lie in a folder, named as `compare` named them, else after what tells them apart.

    `label` names a folder of one method, and stands before the names of several.
    """
    named = folder / METHODS_FILE
    if named.exists():
        methods = _named_methods(folder, json.loads(named.read_text(encoding="utf-8")))
    else:
        methods = _grouped_methods(folder)
    if label is None:
        return methods
    if len(methods) == 1:
        return [replace(methods[0], label=label)]
    return [
        replace(m, label=f"{label}, {m.label}", control_of=m.control_of and f"{label}, {m.control_of}") for m in methods
    ]


def _grouped_methods(folder: Path) -> list[Method]:
    """Runs that differ in their seeds only are one method."""
    groups: dict[str, list[Run]] = {}
    for path in find_runs(folder):
        run = read_run(path)
        groups.setdefault(json.dumps(_settings(run.params), sort_keys=True), []).append(run)
    runs = [sorted(group, key=lambda run: run.seed) for group in groups.values()]
    for group in runs:
        _refuse_twice(group)
    labels = make_labels([group[0].params for group in runs])
    return [Method(name, group) for name, group in zip(labels, runs, strict=True)]


def write_methods(out: Path, methods: Sequence[Method], folders: Mapping[tuple[str, int], Path]) -> None:
    """Leave names, seeds and folders of the planned runs in `methods.json`, so that a folder can be read again."""
    entries = [
        {
            "label": m.label,
            "control_of": m.control_of,
            "runs": {str(seed): str(folders[m.label, seed].relative_to(out)) for seed in m.seeds},
        }
        for m in methods
    ]
    write_atomically(out / METHODS_FILE, json.dumps({"methods": entries}, indent=2) + "\n")


def _named_methods(folder: Path, content: Mapping[str, Any]) -> list[Method]:
    methods = []
    for entry in content["methods"]:
        places = {int(seed): folder / place for seed, place in entry["runs"].items()}
        runs = [read_run(places[seed]) for seed in sorted(places) if (places[seed] / "params.json").exists()]
        methods.append(Method(entry["label"], runs, sorted(places), entry["control_of"]))
    return methods


def _refuse_twice(runs: Sequence[Run]) -> None:
    for first, second in pairwise(runs):
        if first.seed == second.seed:
            raise UserError(
                f"{second.path}: the same settings and seed {second.seed} as {first.path}; a seed counts once, leave one out"
            )


def _settings(params: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a method is: all but seed, name and versions."""
    return {key: params.get(key) for key in ("run", "env", "stop", "config", "imports")}


def display_name(algorithm: str) -> str:
    """How an algorithm is written in reports."""
    return DISPLAY.get(algorithm, algorithm)


def make_labels(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """A short name for each method: the algorithm's, with the settings that differ where several have the same."""
    names = [display_name(s["run"]) for s in settings]
    labels = []
    for i, own in enumerate(settings):
        alike = [s for j, s in enumerate(settings) if names[j] == names[i]]
        labels.append(names[i] if len(alike) == 1 else f"{names[i]}{_distinction(own, alike)}")
    return [
        f"{label} {labels[:i].count(label) + 1}" if labels.count(label) > 1 else label for i, label in enumerate(labels)
    ]


def _distinction(own: Mapping[str, Any], alike: Sequence[Mapping[str, Any]]) -> str:
    if own["config"].get("shuffle_rewards") and not all(s["config"].get("shuffle_rewards") for s in alike):
        return ", permuted rewards"
    keys = [k for k in differing_options(alike) if k.split(".")[0] not in UNTOLD and k != "shuffle_rewards"]
    if not 0 < len(keys) <= NAMED_KEYS:
        return ""
    values = flat_config(own)
    return " (" + ", ".join(f"{key}={_short(values.get(key))}" for key in keys) + ")"


def differing_options(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Dotted options whose values are not the same everywhere, sorted."""
    flat = [flat_config(s) for s in settings]
    keys = sorted({key for values in flat for key in values})
    return [key for key in keys if len({json.dumps(values.get(key, "-"), sort_keys=True) for values in flat}) > 1]


def flat_config(params: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a run by dotted name, the algorithm, the environment and the stop among them."""
    return leaves({"run": params["run"], "env": params["env"], "stop": params["stop"], **params["config"]})


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def same_start(a: Run, b: Run) -> bool:
    """Did two runs of one seed begin with the same model?"""
    alike = all(a.params["config"].get(key) == b.params["config"].get(key) for key in START)
    return (
        alike
        and a.summary is not None
        and b.summary is not None
        and (a.summary["accuracy_before"] == b.summary["accuracy_before"])
    )
