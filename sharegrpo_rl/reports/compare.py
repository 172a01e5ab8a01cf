"""`compare`: run what is missing, read what is there, write the report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.reports.checks import check_confidence, check_metric
from sharegrpo_rl.reports.children import Job, Outcome, run_jobs, training_job
from sharegrpo_rl.reports.methods import Method, read_methods, write_methods
from sharegrpo_rl.reports.plan import (
    RUNS,
    PlannedMethod,
    check_folders,
    default_jobs,
    plan_methods,
    read_target,
)
from sharegrpo_rl.reports.run_reading import read_run
from sharegrpo_rl.reports.scores import Settings
from sharegrpo_rl.reports.wording import findings, partial_notes
from sharegrpo_rl.reports.write_report import write_report
from sharegrpo_rl.tune.progress import say
from sharegrpo_rl.tune.run_folder import RunFolder, storage_errors


@dataclass(frozen=True)
class CompareOptions:
    """What the command line gives."""

    files: Sequence[str]
    out: Path
    seeds: int = 5
    sets: Sequence[str] = ()
    jobs: int | None = None
    completions: int | None = None
    control: bool = False
    settings: Settings = field(default_factory=Settings)
    imports: Mapping[str, str] = field(default_factory=dict)
    import_files: Sequence[Path] = ()
    report_only: bool = False


def compare(options: CompareOptions, console: Console) -> int:
    """The exit code: 0, 1 where a run failed, 130 or 143 where a signal stopped it. Whatever is finished is reported."""
    check_metric(options.settings.metric)
    targets = [read_target(text) for text in options.files]
    planned = plan_methods([t for t in targets if not t.is_folder], options.sets, options.completions, options.control)
    seeds = list(range(options.seeds)) if planned else []
    if planned:
        check_confidence(options.settings.confidence, options.seeds)
        check_folders(planned, seeds, options.out, options.imports)
    elif options.sets or options.control or options.completions:
        raise UserError("--set, --completions and --control are for run files; these are folders of finished runs")
    read = [method for t in targets if t.is_folder for method in read_methods(t.place, t.label)]
    _refuse_same_names([*(m.label for m in planned), *(m.label for m in read)])
    outcome = _run(planned, seeds, options, console) if planned and not options.report_only else Outcome()
    methods = [*_read_planned(planned, seeds, options, outcome), *read]
    return _report(methods, outcome, options, console)


def _report(methods: Sequence[Method], outcome: Outcome, options: CompareOptions, console: Console) -> int:
    if outcome.code is not None and not any(m.finished for m in methods):
        say(console, "stopped before a run was finished; the same command goes on")
        return outcome.code
    report = write_report(methods, options.settings, options.out, _command(options))
    for line in findings(report):
        say(console, line)
    if missing := partial_notes(report):
        say(console, f"PARTIAL: {'; '.join(missing)}. The same command goes on with what is missing.")
    say(console, f"wrote {options.out / 'report.html'}, report.md, report.json and pictures")
    return outcome.code or (1 if outcome.failures else 0)


def _run(planned: Sequence[PlannedMethod], seeds: Sequence[int], options: CompareOptions, console: Console) -> Outcome:
    with storage_errors(options.out):
        (options.out / RUNS).mkdir(parents=True, exist_ok=True)
        folders = {(m.label, s): options.out / RUNS / m.folder_name(s) for m in planned for s in seeds}
        write_methods(options.out, [Method(m.label, [], list(seeds), m.control_of) for m in planned], folders)
    # The first method's seeds come first: they make the warm starts that the others find in the cache.
    wanted = [(m, s) for m in planned for s in seeds]
    left = [(m, s) for m, s in wanted if not RunFolder(folders[m.label, s]).is_finished]
    at_a_time = options.jobs or default_jobs(planned)
    say(
        console,
        f"{len(planned)} methods x {len(seeds)} seeds: {len(wanted) - len(left)} runs are finished, {len(left)} to go, "
        f"{min(at_a_time, max(1, len(left)))} at a time",
    )
    jobs = [_job(m, s, options) for m, s in left]
    return run_jobs(jobs, at_a_time, lambda line: say(console, line))


def _job(method: PlannedMethod, seed: int, options: CompareOptions) -> Job:
    folder = options.out / RUNS / method.folder_name(seed)
    return training_job(method.file, folder, seed, method.sets, options.out / "logs", options.import_files)


def _read_planned(
    planned: Sequence[PlannedMethod], seeds: Sequence[int], options: CompareOptions, outcome: Outcome
) -> list[Method]:
    methods = []
    for m in planned:
        places = [options.out / RUNS / m.folder_name(seed) for seed in seeds]
        runs = [read_run(place) for place in places if (place / "params.json").exists()]
        failures = {s: outcome.failures[n] for s in seeds if (n := m.folder_name(s)) in outcome.failures}
        methods.append(Method(m.label, runs, list(seeds), m.control_of, failures))
    return methods


def _command(options: CompareOptions) -> str:
    """What makes the report again."""
    words = ["sharegrpo-rl", "compare", *options.files, *(word for text in options.sets for word in ("--set", text))]
    words += ["--completions", str(options.completions)] if options.completions else []
    words += ["--control"] if options.control else []
    return shlex.join([*words, "--seeds", str(options.seeds), "--out", options.out.name])


def _refuse_same_names(labels: Sequence[str]) -> None:
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise UserError(f"two methods are called {twice[0]!r}; give them names: NAME=FILE or NAME=FOLDER")
