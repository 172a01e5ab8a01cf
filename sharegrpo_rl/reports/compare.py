"""`compare`: plan methods x seeds at equal completions, run what is missing, read what is finished, write the report."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil
from pathlib import Path
from typing import Any

from rich.console import Console

from sharegrpo_rl.config.user_code import import_user_files
from sharegrpo_rl.errors import UserError, require_extra
from sharegrpo_rl.files import storage_errors
from sharegrpo_rl.reports.analysis import check_confidence, check_metric
from sharegrpo_rl.reports.comparison_page import write_report
from sharegrpo_rl.reports.jobs import Outcome, run_jobs, training_job
from sharegrpo_rl.reports.methods import Method, make_labels, read_methods, read_run, write_methods
from sharegrpo_rl.reports.options import CompareOptions
from sharegrpo_rl.runs.display import say
from sharegrpo_rl.runs.examples import find_run_file
from sharegrpo_rl.runs.folder import RunFolder, differing_keys, run_params
from sharegrpo_rl.runs.run_file import RunSpec, check_folder_name, load_run

CONTROL = "config.shuffle_rewards=true"
RUNS = "runs"  # the folder of runs inside --out


def compare(options: CompareOptions, console: Console, import_files: Sequence[Path] = ()) -> int:
    """The exit code: 0, 1 where a run failed, 130 or 143 where a signal stopped it. What is finished is reported anyway.

    import_files: user code, for this process and for the runs.
    """
    return run_comparison(options, console, import_files)[0]


def run_comparison(
    options: CompareOptions, console: Console, import_files: Sequence[Path]
) -> tuple[int, dict[str, Any] | None]:
    """The exit code, and the content of report.json; None where nothing was finished."""
    require_extra("plots", "compare")
    import_files = [path.absolute() for path in import_files]
    imports = import_user_files(import_files)
    check_metric(options.metric)
    targets = [read_target(text) for text in options.files]
    planned = plan_methods([t for t in targets if not t.is_folder], options.sets, options.completions, options.control)
    seeds = list(range(options.seeds)) if planned else []
    if planned:
        check_confidence(options.confidence, options.seeds)
        check_folders(planned, seeds, options.out, imports)
    elif options.sets or options.control or options.completions:
        raise UserError("--set, --completions and --control are for run files; these are folders of finished runs")
    finished = [method for t in targets if t.is_folder for method in read_methods(t.path, t.label)]
    _check_names([*(m.label for m in planned), *(m.label for m in finished)], "NAME=FILE or NAME=FOLDER")
    outcome = Outcome()
    if planned and not options.report_only:
        outcome = _run(planned, seeds, options, import_files, console)
    methods = [_read_planned(m, seeds, options.out, outcome) for m in planned] + finished
    if outcome.code is not None and not any(m.finished for m in methods):
        say(console, "stopped before a run was finished; the same command resumes")
        return outcome.code, None
    report = write_report(methods, options, options.out, _command(options))
    for line in report["findings"]:
        say(console, line)
    if report["partial"]:
        say(console, f"PARTIAL: {'; '.join(report['partial_notes'])}. The same command runs what is missing.")
    say(console, f"wrote {options.out / 'report.html'}, report.md, report.json and pictures")
    return outcome.code or (1 if outcome.failures else 0), report


@dataclass(frozen=True)
class Target:
    """One FILE argument: `[NAME=]run file or folder of runs`."""

    label: str | None
    path: Path
    is_folder: bool


def read_target(text: str) -> Target:
    """A path or short name, perhaps with a name in front; UserError where nothing is there."""
    label, equals, rest = text.partition("=")
    named = bool(equals) and not Path(text).exists()
    path = rest if named else text
    if named and not (label.strip() and path):
        raise UserError(f"{text}: expected NAME=FILE, such as GRPO=grpo/drawn_shapes-tiny")
    is_folder = Path(path).is_dir()
    return Target(label.strip() if named else None, Path(path) if is_folder else find_run_file(path), is_folder)


@dataclass(frozen=True)
class PlannedMethod:
    """A run file with all settings applied."""

    label: str
    file: Path
    sets: tuple[str, ...]
    spec: RunSpec
    control_of: str | None = None

    def folder_name(self, seed: int) -> str:
        """The name of a seed's run folder."""
        words = "".join(c if c.isalnum() or c in "._" else "-" for c in self.label.lower())
        return check_folder_name(f"{'-'.join(part for part in words.split('-') if part)}-{seed}", self.label)


def plan_methods(
    targets: Sequence[Target], sets: Sequence[str], completions: int | None, control: bool
) -> list[PlannedMethod]:
    """The methods of the run files, cut to equal completions; `control` adds each with shuffled rewards."""
    of_method, shared = _split_sets(sets, [t.label for t in targets if t.label])
    specs = [load_run(t.path, [*shared, *of_method.get(t.label or "", [])]) for t in targets]
    automatic = make_labels([{"run": s.run, "env": s.env, "stop": s.stop, "config": s.config} for s in specs])
    labels = [t.label or label for t, label in zip(targets, automatic, strict=True)]
    _check_names(labels, "NAME=FILE")
    for (first, a), (second, b) in combinations(zip(labels, specs, strict=True), 2):
        if (a.run, a.env, a.stop, a.config) == (b.run, b.env, b.stop, b.config):
            raise UserError(
                f"{first} and {second} have the same settings and would give the same runs; change one, "
                "for example with NAME=FILE and --set NAME:KEY=VALUE"
            )
    budget = completions or min((c for spec in specs if (c := planned_completions(spec))), default=None)
    planned = []
    for target, spec, label in zip(targets, specs, labels, strict=True):
        settings = (*shared, *of_method.get(target.label or "", []), *stop_settings(spec, budget))
        planned.append(PlannedMethod(label, target.path, settings, load_run(target.path, settings)))
        if control and "shuffle_rewards" in spec.config and not spec.config["shuffle_rewards"]:
            twin = (*settings, CONTROL)
            planned.append(
                PlannedMethod(f"{label}, permuted rewards", target.path, twin, load_run(target.path, twin), label)
            )
    return planned


def planned_completions(spec: RunSpec) -> int | None:
    """Completions that a run samples, selection not counted; None for a method that samples none."""
    return spec.options.work(spec.iterations).completions or None


def stop_settings(spec: RunSpec, budget: int | None) -> list[str]:
    """`--set` texts that end a run at the budget: by iterations, and by completions where selection samples more."""
    per_iteration = spec.options.work(1).completions_per_iteration
    if budget is None or not per_iteration:
        return []
    iterations = max(1, ceil(budget / per_iteration))
    settings = [] if iterations == spec.iterations else [f"stop.training_iteration={iterations}"]
    if spec.config.get("selection", "none") != "none":
        settings.append(f"stop.completions={budget}")
    return settings


def _split_sets(sets: Sequence[str], labels: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """`NAME:KEY=VALUE` by method, and the settings of all methods."""
    of_method: dict[str, list[str]] = {}
    shared = []
    for text in sets:
        label, colon, setting = text.partition(":")
        if not colon or "=" in label:
            shared.append(text)
        elif label in labels:
            of_method.setdefault(label, []).append(setting)
        else:
            known = f"known: {', '.join(labels)}" if labels else "give one as NAME=FILE"
            raise UserError(f"--set {text}: no method is named {label!r} ({known})")
    return of_method, shared


def _check_names(labels: Sequence[str], remedy: str) -> None:
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise UserError(f"two methods are called {twice[0]!r}; give them names: {remedy}")


def check_folders(
    planned: Sequence[PlannedMethod], seeds: Sequence[int], out: Path, imports: Mapping[str, str]
) -> None:
    """UserError where a folder already holds a run with other settings."""
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
    """Runs at a time: as many as the cores allow for tiny models, one for others, which may need a whole GPU."""
    if any(method.spec.config["model"] != "tiny" for method in planned):
        return 1
    threads = max((int(method.spec.config["num_threads"]) for method in planned), default=1)
    return max(1, len(os.sched_getaffinity(0)) // max(1, threads)) if hasattr(os, "sched_getaffinity") else 1


def _run(
    planned: Sequence[PlannedMethod],
    seeds: Sequence[int],
    options: CompareOptions,
    import_files: Sequence[Path],
    console: Console,
) -> Outcome:
    """Train every run that is not finished."""
    folders = {(m.label, s): options.out / RUNS / m.folder_name(s) for m in planned for s in seeds}
    with storage_errors(options.out):
        (options.out / RUNS).mkdir(parents=True, exist_ok=True)
        write_methods(options.out, [Method(m.label, [], list(seeds), m.control_of) for m in planned], folders)
    # The first method's seeds come first: they make the warm starts that the others find in the cache.
    jobs = [
        training_job(m.file, folders[m.label, s], s, m.sets, options.out / "logs", import_files)
        for m in planned
        for s in seeds
        if not RunFolder(folders[m.label, s]).is_finished
    ]
    parallel = options.jobs or default_jobs(planned)
    say(
        console,
        f"{len(planned)} methods x {len(seeds)} seeds: {len(folders) - len(jobs)} runs are finished, {len(jobs)} to go, "
        f"{min(parallel, max(1, len(jobs)))} at a time",
    )
    return run_jobs(jobs, parallel, lambda line: say(console, line))


def _read_planned(planned: PlannedMethod, seeds: Sequence[int], out: Path, outcome: Outcome) -> Method:
    folders = {seed: out / RUNS / planned.folder_name(seed) for seed in seeds}
    runs = [read_run(folder) for folder in folders.values() if (folder / "params.json").exists()]
    failures = {s: outcome.failures[folder.name] for s, folder in folders.items() if folder.name in outcome.failures}
    return Method(planned.label, runs, list(seeds), planned.control_of, failures)


def _command(options: CompareOptions) -> str:
    """What makes the report again."""
    words = ["sharegrpo-rl", "compare", *options.files, *(word for text in options.sets for word in ("--set", text))]
    words += ["--completions", str(options.completions)] if options.completions else []
    words += ["--control"] if options.control else []
    return shlex.join([*words, "--seeds", str(options.seeds), "--out", options.out.name])
