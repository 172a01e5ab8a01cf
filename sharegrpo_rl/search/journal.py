"""`events.jsonl`: what happened in a search, in order. All that the driver must remember across a kill is in it.

A line is on disk before anything acts on it. On resume the lines are replayed to a fresh scheduler and searcher,
which brings them to the state they were in.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.files import JsonLines, as_json, storage_errors
from sharegrpo_rl.runs.folder import RunFolder, differing_keys, versions
from sharegrpo_rl.search.file import SearchSpec

EVENTS = "events.jsonl"
PARAMS, RESULTS, BEST = "search_params.json", "search.json", "best.yaml"
PARALLEL_PLOT, CURVES_PLOT = "parallel_coordinates.png", "learning_curves.png"
OWN_FILES = (PARAMS, RESULTS, BEST, PARALLEL_PLOT, CURVES_PLOT, EVENTS, "trials", "errors")
FREE_OPTIONS = ("budget", "max_concurrent", "max_failures")  # of `tune:`; they decide no trial's numbers

FINISHED, STOPPED, FAILED, UNFINISHED = "finished", "stopped", "failed", "unfinished"  # a trial's status
ALL_TRIALS, BUDGET, INTERRUPTED = "all trials", "budget", "interrupted"  # why a search ended
ITERATION, SCORE = "iteration", "score"  # what a trial reports


@dataclass
class TrialRecord:
    """What is known of one trial. `values` by dotted key; `score` is the last that it reported."""

    name: str
    values: dict[str, Any]
    status: str = UNFINISHED
    iterations: int = 0
    score: float | None = None
    completions: int = 0
    failures: int = 0
    error: str | None = None
    adopted: list[dict[str, Any]] = field(default_factory=list)  # rounds of pbt in which it took over another's state

    @property
    def is_over(self) -> bool:
        return self.status != UNFINISHED


class Journal:
    """The events of one search, in memory and on disk alike; `planned` iterations end a trial."""

    def __init__(self, path: Path, planned: int) -> None:
        self.path = path
        self.planned = planned
        self.events: list[dict[str, Any]] = []
        self.trials: dict[str, TrialRecord] = {}
        self.rounds: list[dict[str, Any]] = []
        self.seconds = 0.0  # wall seconds of the search up to the last event, over all its processes
        self._file = JsonLines(path)
        self._file.read(self._take)
        self._started = time.monotonic() - self.seconds

    @property
    def completions(self) -> int:
        return sum(trial.completions for trial in self.trials.values())

    @property
    def trials_over(self) -> int:
        return sum(trial.is_over for trial in self.trials.values())

    def elapsed(self) -> float:
        """Wall seconds of the search until now, those of earlier processes included."""
        return time.monotonic() - self._started

    def append(self, *events: Mapping[str, Any]) -> None:
        """Write events with their time, all in one go, and wait until the disk has them."""
        entries = [as_json({**event, "seconds": event.get("seconds", self.elapsed())}) for event in events]
        with storage_errors(self.path):
            self._file.append(*entries)
        for entry in entries:
            self._take(entry)

    def repair(self) -> None:
        """Write the `end` of a trial whose last result was written and its end not."""
        ended = {event["trial"] for event in self.events if event["event"] == "end"}
        for trial in self.trials.values():
            if trial.is_over and trial.name not in ended:
                self.append({"event": "end", "trial": trial.name, "status": trial.status})

    def last_error(self, trial: str) -> str:
        """The last line of a trial's last traceback."""
        path = self.path.parent / "errors" / f"{trial}.txt"
        lines = path.read_text().strip().splitlines() if path.exists() else []
        return lines[-1] if lines else "its process died"

    def _take(self, entry: dict[str, Any]) -> None:
        kind = entry["event"]
        if kind == "trial":
            self.trials[entry["trial"]] = TrialRecord(entry["trial"], entry["values"])
        elif kind == "round":
            self.rounds.append(entry)
            for name, change in entry["changes"].items():
                self.trials[name].values = change["values"]
                self.trials[name].adopted.append({ITERATION: entry[ITERATION], **change})
        else:
            self._take_of_trial(self.trials[entry["trial"]], entry)
        self.events.append(entry)
        self.seconds = entry.get("seconds", self.seconds)

    def _take_of_trial(self, trial: TrialRecord, entry: Mapping[str, Any]) -> None:
        if entry["event"] == "end":
            trial.status, trial.error = entry["status"], entry.get("error")
        elif entry["event"] == "failure":
            trial.failures += 1
            trial.error = entry.get("error")
        elif entry["event"] == "result" and entry[ITERATION] > trial.iterations:
            trial.iterations = entry[ITERATION]
            trial.completions += entry["completions"]
            trial.score = trial.score if entry[SCORE] is None else entry[SCORE]
            # Its `end` follows in the same write, which a kill can cut short.
            if entry[ITERATION] >= self.planned:
                trial.status = FINISHED
            elif entry["decision"] == "STOP":
                trial.status = STOPPED


class SearchFolder(RunFolder):
    """A search's place on disk: locked and written like a run's, gone again where no trial finished an iteration."""

    kind = "search"
    params_file = PARAMS
    own_files = OWN_FILES

    @property
    def has_progress(self) -> bool:
        return any(RunFolder(path).has_progress for path in (self.path / "trials").glob("[0-9]*"))

    @property
    def is_finished(self) -> bool:
        return (self.path / RESULTS).exists()

    def clear(self) -> None:
        """Remove what an unfinished start left behind (this package's own files only)."""
        if not (self.has_progress or self.is_finished):
            super().clear()


def search_params(spec: SearchSpec, seed: int, imports: Mapping[str, str]) -> dict[str, Any]:
    """The content of search_params.json: the search as its file gives it, its seed, digests of user code, versions."""
    deciding = {key: value for key, value in spec.options.items() if key not in FREE_OPTIONS}
    params: dict[str, Any] = as_json(
        {
            "name": spec.base.name,
            "run": spec.base.run,
            "env": spec.base.env,
            "seed": seed,
            "stop": spec.base.stop,
            "config": {**spec.tree.get("config", {}), "tune": deciding},
            "imports": dict(imports),
            "versions": versions(),
        }
    )
    return params


def decide_search(folder: SearchFolder, params: Mapping[str, Any], options: Mapping[str, Any], resume: str) -> str:
    """`new`, `resume` or `finished`; UserError where the folder holds a search that must not be touched."""
    if not (folder.has_progress or folder.is_finished):
        return "new"
    if (stored := folder.read_json(PARAMS)) is None:
        raise UserError(
            f"{folder.path}: holds results of a search, but no {PARAMS} to tell of which; "
            "restore it from a copy, or give another --name to begin a new search"
        )
    if resume == "never":
        raise UserError(f"{folder.path}: already holds a search; give another --name, or --resume auto to continue it")
    if different := differing_keys(stored, params):
        key, was, now = different[0]
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise UserError(
            f"{folder.path}: holds a search with other settings: {key.replace('config.tune.', 'tune.')} "
            f"(there {was!r}, now {now!r}){more}; give another --name to begin a new one"
        )
    results = folder.read_json(RESULTS)
    if results is None or results["ended"] == INTERRUPTED:
        return "resume"
    budget = options["budget"] or {}  # perhaps larger than before
    left = all(budget.get(key) is None or results[key] < budget[key] for key in ("seconds", "completions"))
    return "resume" if results["ended"] == BUDGET and left else "finished"
