"""`compare`: run what is missing, read what is there, write the report."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

from rich.console import Console

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.files import as_json, storage_errors, write_atomically
from sharegrpo_rl.reports import markdown
from sharegrpo_rl.reports import pages as page
from sharegrpo_rl.reports.children import Job, Outcome, run_jobs, training_job
from sharegrpo_rl.reports.comparison import Settings, analyse, check_confidence, check_methods, check_metric
from sharegrpo_rl.reports.examples import (
    DISAGREEMENT_RULE,
    SAMPLE_RULE,
    disagreements,
    question_images,
    sample_rollouts,
)
from sharegrpo_rl.reports.methods import Method, make_labels, read_methods, read_run, write_methods
from sharegrpo_rl.reports.pages import Content
from sharegrpo_rl.reports.plots import draw_all
from sharegrpo_rl.reports.wording import findings, method_notes, partial_notes, stop_notes
from sharegrpo_rl.runs.display import say
from sharegrpo_rl.runs.folder import RunFolder, differing_keys, run_params
from sharegrpo_rl.runs.run_file import RunSpec, check_folder_name, find_run_file, load_run

# ---- What `compare` has to run: methods from run files, seeds, and a length at which completions are equal.

CONTROL = "config.shuffle_rewards=true"
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
        if control and "shuffle_rewards" in spec.config and not spec.config["shuffle_rewards"]:
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
    return spec.options.work(spec.iterations).completions or None


def stop_settings(spec: RunSpec, budget: int | None) -> list[str]:
    """`--set` texts that end a run at the budget: by iterations, and by completions where selection samples more."""
    each = spec.options.work(1).completions_per_iteration or None
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


# ---- Write a comparison: report.json, report.md, report.html and the pictures.


def write_report(methods: Sequence[Method], settings: Settings, out: Path, command: str = "") -> dict[str, Any]:
    """Check, analyse, draw, write; returns the content of report.json. UserError where there is nothing to compare.

    `command` makes the report again; it is shown as it is.
    """
    check_methods(methods, settings.metric, settings.confidence)
    analysis = analyse(methods, settings)
    shown = [m for m in methods if m.runs]
    samples = sample_rollouts(shown)
    differing = disagreements(shown, analysis["comparisons"])
    ids = [e.question_id for e in samples]
    ids += [e.question_id for pair in differing for e in (*pair.only_a, *pair.only_b)]
    finished = next(run for m in methods for run in m.finished)
    images, problem = question_images(finished, list(dict.fromkeys(ids))) if ids else ({}, "")
    notes = [problem] if problem else []
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        pictures = draw_all(shown, analysis, out)
        content = Content(make_title(methods, analysis), analysis, pictures, samples, differing, images, notes, command)
        report = as_json(
            {
                "title": content.title,
                "partial": bool(partial_notes(analysis)),
                "partial_notes": partial_notes(analysis),
                "findings": findings(analysis),
                "stopped": stop_notes(analysis),
                **analysis,
                "pictures": [vars(p) for p in pictures],
                "sample_rule": SAMPLE_RULE,
                "disagreement_rule": DISAGREEMENT_RULE,
                "disagreements": [
                    {
                        "a": d.a,
                        "b": d.b,
                        **{side: [e.question_id for e in getattr(d, side)] for side in ("only_a", "only_b")},
                    }
                    for d in differing
                ],
                "notes": [*method_notes(analysis), *notes],
                "command": command,
            }
        )
        write_atomically(out / "report.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
        write_atomically(out / "report.md", markdown.render(content))
        write_atomically(out / "report.html", page.render(content, out))
    return report


def make_title(methods: Sequence[Method], analysis: dict[str, Any]) -> str:
    """`Share-GRPO and GRPO on DrawnShapes-v0`."""
    names = [m.label for m in methods if m.control_of is None]
    joined = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    data = analysis["test_set"]["data"]
    place = Path(data).name if isinstance(data, str) else analysis["test_set"]["env"]
    return f"{joined} on {place}"


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
