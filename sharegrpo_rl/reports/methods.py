"""Finished and unfinished runs as reports read them, and methods: runs that differ in nothing but their seed."""

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
from sharegrpo_rl.statistics.formatting import short
from sharegrpo_rl.statistics.seeds import Curve

DISPLAY_NAMES = {"ShareGRPO": "Share-GRPO", "GRPOD": "GRPO-D"}
METHODS_FILE = "methods.json"
START_OPTIONS = ("model", "model_config", "warm_start")  # they fix the model that RL starts from
MAX_NAMED_OPTIONS = 2  # a label names up to this many differing options; beyond that, methods are numbered
UNNAMED_OPTIONS = ("env_config", "total_steps")  # too long, or a consequence of others


@dataclass(frozen=True)
class Run:
    """The files of a run's folder. `summary` is None while the run is unfinished, `predictions` where it wrote none."""

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
        """Iterations, sampled completions (trained rows for SFT) and seconds of training up to each row, 0 in front."""
        rows_trained = self.params["config"].get("num_questions", 0)
        completions = [value_of(row, "env_runners/num_completions") or rows_trained for row in self.rows]
        seconds = [row.get("iteration_seconds", 0.0) for row in self.rows]
        return {
            "iterations": np.arange(len(self.rows) + 1, dtype=np.float64),
            "completions": np.cumsum([0.0, *completions]),
            "seconds": np.cumsum([0.0, *seconds]),
        }

    def curve(self, metric: str, axis: str = "completions") -> Curve | None:
        """A metric of training (a path with slashes) over an axis; None where no row has it."""
        x = self.axes[axis][1:]
        return _curve([(x[i], v) for i, row in enumerate(self.rows) if (v := value_of(row, metric)) is not None])

    def greedy(self, axis: str = "completions") -> Curve | None:
        """Greedy accuracy on the test questions: before training, at each evaluation, after training."""
        x = self.axes[axis]
        points: dict[float, float] = {}
        if self.before is not None:
            points[0.0] = self.before["evaluation"]["accuracy"]
        for i, row in enumerate(self.rows, start=1):
            if (value := value_of(row, "evaluation/accuracy")) is not None:
                points[float(x[i])] = value
        if self.summary is not None:
            points.setdefault(0.0, self.summary["accuracy_before"])
            points[float(x[-1])] = self.summary["accuracy_after"]
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
        files[name] = folder.read_json(name)
    if not isinstance(files["params.json"], dict):
        raise UserError(f"{path}: no run (there is no params.json); name a run's folder or a folder of runs")
    return Run(
        path,
        files["params.json"],
        folder.results.rows,
        files["before.json"],
        files["summary.json"],
        _read_predictions(path / PREDICTIONS),
    )


def _read_predictions(path: Path) -> list[dict[str, Any]] | None:
    if not path.exists():
        return None
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            if not {"question_id", "accuracy", "gold", "text"} <= set(row):
                raise ValueError("it needs question_id, accuracy, gold and text")
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}: line {number} is not a test question ({error}); remove the file") from None
        rows.append(row)
    return rows or None


def find_runs(folder: Path) -> list[Path]:
    """Run folders: the folder itself, or those one or two levels below it, sorted."""
    if (folder / "params.json").is_file():
        return [folder]
    candidates = [file.parent for pattern in ("*/params.json", "*/*/params.json") for file in folder.glob(pattern)]
    runs = [path for path in candidates if not (path.parent / "params.json").exists()]
    if not runs:
        raise UserError(
            f"{folder}: no run in it (a run's folder holds params.json); name a folder of runs or a run file"
        )
    return sorted(set(runs))


@dataclass
class Method:
    """What is compared: its runs by rising seed, the planned seeds, and the method that it is the control of."""

    label: str
    runs: list[Run] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)  # planned; empty = those of `runs`
    control_of: str | None = None
    failures: dict[int, str] = field(default_factory=dict)  # seed -> why its run failed

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
    """The methods whose runs are in a folder, named as `compare` named them, else by what tells them apart.

    `label` names the method of a folder that holds one, and is put in front of the names of several.
    """
    named = RunFolder(folder).read_json(METHODS_FILE)
    methods = _grouped_methods(folder) if named is None else _named_methods(folder, named)
    if label is None:
        return methods
    if len(methods) == 1:
        return [replace(methods[0], label=label)]
    return [
        replace(m, label=f"{label}, {m.label}", control_of=m.control_of and f"{label}, {m.control_of}") for m in methods
    ]


def write_methods(out: Path, methods: Sequence[Method], folders: Mapping[tuple[str, int], Path]) -> None:
    """Record names, seeds and folders of the planned runs in `methods.json`, for `read_methods`."""
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
        paths = {int(seed): folder / name for seed, name in sorted(entry["runs"].items(), key=lambda run: int(run[0]))}
        runs = [read_run(path) for path in paths.values() if (path / "params.json").exists()]
        methods.append(Method(entry["label"], runs, list(paths), entry["control_of"]))
    return methods


def _grouped_methods(folder: Path) -> list[Method]:
    groups: dict[str, list[Run]] = {}
    for path in find_runs(folder):
        run = read_run(path)
        settings = {key: run.params.get(key) for key in ("run", "env", "stop", "config", "imports")}
        groups.setdefault(json.dumps(settings, sort_keys=True), []).append(run)
    methods = [sorted(runs, key=lambda run: run.seed) for runs in groups.values()]
    for first, second in (pair for runs in methods for pair in pairwise(runs)):
        if first.seed == second.seed:
            raise UserError(
                f"{second.path}: the same settings and seed {second.seed} as {first.path}; a seed counts once, leave one out"
            )
    labels = make_labels([runs[0].params for runs in methods])
    return [Method(name, runs) for name, runs in zip(labels, methods, strict=True)]


def display_name(algorithm: str) -> str:
    """How an algorithm is written in reports."""
    return DISPLAY_NAMES.get(algorithm, algorithm)


def make_labels(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """A short name for each method: its algorithm, with the differing options where several have the same algorithm."""
    names = [display_name(s["run"]) for s in settings]
    labels = []
    for name, params in zip(names, settings, strict=True):
        same_name = [s for other, s in zip(names, settings, strict=True) if other == name]
        labels.append(name if len(same_name) == 1 else f"{name}{_distinction(params, same_name)}")
    return [
        f"{label} {labels[:i].count(label) + 1}" if labels.count(label) > 1 else label for i, label in enumerate(labels)
    ]


def _distinction(params: Mapping[str, Any], same_name: Sequence[Mapping[str, Any]]) -> str:
    if params["config"].get("shuffle_rewards") and not all(s["config"].get("shuffle_rewards") for s in same_name):
        return ", permuted rewards"
    keys = [
        k for k in differing_options(same_name) if k.split(".")[0] not in UNNAMED_OPTIONS and k != "shuffle_rewards"
    ]
    if not 0 < len(keys) <= MAX_NAMED_OPTIONS:
        return ""
    values = flat_config(params)
    return " (" + ", ".join(f"{key}={short(values.get(key), 6)}" for key in keys) + ")"


def differing_options(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Dotted options that are not the same in all settings, sorted."""
    flat = [flat_config(s) for s in settings]
    keys = sorted({key for values in flat for key in values})
    return [key for key in keys if len({json.dumps(values.get(key, "-"), sort_keys=True) for values in flat}) > 1]


def flat_config(params: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a run by dotted name, with algorithm, environment and stop."""
    return leaves({"run": params["run"], "env": params["env"], "stop": params["stop"], **params["config"]})


def same_start(a: Run, b: Run) -> bool:
    """Did two finished runs of one seed start RL from the same model?"""
    if a.summary is None or b.summary is None or a.summary["accuracy_before"] != b.summary["accuracy_before"]:
        return False
    return all(a.params["config"].get(key) == b.params["config"].get(key) for key in START_OPTIONS)
