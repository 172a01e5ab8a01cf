"""What `compare` has to run: methods from run files, seeds, and a length at which completions are equal."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.reports.methods import make_labels
from sharegrpo_rl.tune.arithmetic import batch_arithmetic
from sharegrpo_rl.tune.examples import find_run_file
from sharegrpo_rl.tune.resume import differing_keys, run_params
from sharegrpo_rl.tune.run_file import RunSpec, check_folder_name, load_run
from sharegrpo_rl.tune.run_folder import RunFolder

CONTROL = "config.permute_rewards=true"
RUNS = "runs"  # the folder of runs inside --out


@dataclass(frozen=True)
class Target:
    """One FILE argument: `[NAME=]run file or folder of runs`."""

    label: str | None
    place: Path
    is_folder: bool


@dataclass(frozen=True)
class PlannedMethod:
    """A run file with everything laid over it."""

    label: str
    file: Path
    sets: tuple[str, ...]
    spec: RunSpec
    control_of: str | None = None

    def folder_name(self, seed: int) -> str:
        """The name of a seed's run folder."""
        words = "".join(c if c.isalnum() or c in "._" else "-" for c in self.label.lower())
        return check_folder_name(f"{'-'.join(part for part in words.split('-') if part)}-{seed}", self.label)


def read_target(text: str) -> Target:
    """A path or short name, perhaps with a name in front; UserError where nothing is there."""
    label, equals, rest = text.partition("=")
    named = bool(equals) and not Path(text).exists()
    place = rest if named else text
    if named and not (label.strip() and place):
        raise UserError(f"{text}: expected NAME=FILE, such as GRPO=grpo/drawn_shapes-tiny")
    if Path(place).is_dir():
        return Target(label.strip() if named else None, Path(place), True)
    return Target(label.strip() if named else None, find_run_file(place), False)


def plan_methods(
    targets: Sequence[Target], sets: Sequence[str], completions: int | None, control: bool
) -> list[PlannedMethod]:
    """The methods of the run files, cut to equal completions; `control` adds the permuted-reward twin of each."""
    own, shared = _split_sets(sets, [t.label for t in targets if t.label])
    specs = [load_run(t.place, [*shared, *own.get(t.label or "", [])]) for t in targets]
    automatic = make_labels([vars(spec) for spec in specs])
    labels = [t.label or label for t, label in zip(targets, automatic, strict=True)]
    if twice := {label for label in labels if labels.count(label) > 1}:
        raise UserError(f"two methods are called {min(twice)!r}; give them names: NAME=FILE")
    _refuse_alike(specs, labels)
    budget = completions or min((c for spec in specs if (c := planned_completions(spec))), default=None)
    planned = []
    for target, spec, label in zip(targets, specs, labels, strict=True):
        given = (*shared, *own.get(target.label or "", []), *stop_settings(spec, budget))
        planned.append(PlannedMethod(label, target.place, given, load_run(target.place, given)))
        if control and "permute_rewards" in spec.config and not spec.config["permute_rewards"]:
            twin = (*given, CONTROL)
            planned.append(
                PlannedMethod(f"{label}, permuted rewards", target.place, twin, load_run(target.place, twin), label)
            )
    return planned


def _refuse_alike(specs: Sequence[RunSpec], labels: Sequence[str]) -> None:
    """Equal settings and seeds make equal runs: nothing could differ."""
    for i, spec in enumerate(specs):
        for j in range(i):
            if (spec.run, spec.env, spec.stop, spec.config) == (
                specs[j].run,
                specs[j].env,
                specs[j].stop,
                specs[j].config,
            ):
                raise UserError(
                    f"{labels[j]} and {labels[i]} have the same settings and would give the same runs; change one, "
                    "such as by NAME=FILE and --set NAME:KEY=VALUE"
                )


def planned_completions(spec: RunSpec) -> int | None:
    """Completions that a run samples, selection apart; None for a method that samples none."""
    return batch_arithmetic(spec.config, spec.iterations).get("completions")


def stop_settings(spec: RunSpec, budget: int | None) -> list[str]:
    """`--set` texts that end a run at the budget: by iterations, and by completions where selection samples more."""
    each = batch_arithmetic(spec.config, 1).get("completions an iteration")
    if budget is None or each is None:
        return []
    iterations = max(1, ceil(budget / each))
    settings = [] if iterations == spec.iterations else [f"stop.training_iteration={iterations}"]
    if spec.config.get("selection", "none") != "none":
        settings.append(f"stop.completions={budget}")
    return settings


def _split_sets(sets: Sequence[str], labels: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """`NAME:KEY=VALUE` by method, and the settings of all."""
    own: dict[str, list[str]] = {}
    shared = []
    for text in sets:
        label, colon, setting = text.partition(":")
        if not colon or "=" in label:
            shared.append(text)
        elif label in labels:
            own.setdefault(label, []).append(setting)
        else:
            known = f"known: {', '.join(labels)}" if labels else "give one as NAME=FILE"
            raise UserError(f"--set {text}: no method is named {label!r} ({known})")
    return own, shared


def check_folders(
    planned: Sequence[PlannedMethod], seeds: Sequence[int], out: Path, imports: Mapping[str, str]
) -> None:
    """UserError where a folder already holds a run with other settings than those that are asked for."""
    names = [method.folder_name(seed) for method in planned for seed in seeds]
    if len(set(names)) < len(names):
        raise UserError("two methods would share run folders; give them names that differ in letters: NAME=FILE")
    for method in planned:
        for seed in seeds:
            folder = RunFolder(out / RUNS / method.folder_name(seed))
            stored = folder.read_json("params.json")
            if not stored or not (folder.has_progress or folder.is_finished):
                continue
            if different := differing_keys(stored, run_params(method.spec, seed, imports)):
                key, was, now = different[0]
                raise UserError(
                    f"{folder.path}: holds a run with other settings: {key} (there {was!r}, now {now!r}); give another --out"
                )


def default_jobs(planned: Sequence[PlannedMethod]) -> int:
    """Runs at a time: as many as the cores bear for tiny models, one for others, which may want a whole GPU."""
    if any(method.spec.config["model"] != "tiny" for method in planned):
        return 1
    threads = max((int(method.spec.config["num_threads"]) for method in planned), default=1)
    return max(1, len(os.sched_getaffinity(0)) // max(1, threads)) if hasattr(os, "sched_getaffinity") else 1
