"""Methods: runs that differ in nothing but their seed, with a name, and what their settings do not share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.reports.run_reading import Run, find_runs, read_run
from sharegrpo_rl.tune.resume import leaves
from sharegrpo_rl.tune.run_folder import write_atomically

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
    if own["config"].get("permute_rewards") and not all(s["config"].get("permute_rewards") for s in alike):
        return ", permuted rewards"
    keys = [k for k in differing_options(alike) if k.split(".")[0] not in UNTOLD and k != "permute_rewards"]
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
