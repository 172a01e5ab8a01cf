"""`events.jsonl`: what happened in a search, in its order. All that the driver must remember over a kill is in here.

A line is on disk before anything follows from it. On resume the lines are played to a fresh scheduler and searcher,
which so come to the state that they were in.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.files import as_json, remove, storage_errors
from sharegrpo_rl.runs.folder import RunFolder, differing_keys, versions
from sharegrpo_rl.search.file import SearchSpec

# ---- The folder of one search, and whether a search begins, goes on or is already finished.

PARAMS, RESULTS, BEST = "search_params.json", "search.json", "best.yaml"
PLOTS = ("parallel_coordinates.png", "learning_curves.png")
OWN = (PARAMS, RESULTS, BEST, *PLOTS, "events.jsonl", "trials", "errors")
FREE = ("budget", "max_concurrent", "max_failures")  # of `tune:`; they decide no trial's numbers


class SearchFolder(RunFolder):
    """A search's place on disk: locked and written like a run's, gone again where no trial finished an iteration."""

    @property
    def has_progress(self) -> bool:
        return any(RunFolder(path).has_progress for path in (self.path / "trials").glob("[0-9]*"))

    @property
    def is_finished(self) -> bool:
        return (self.path / RESULTS).exists()

    def clear(self) -> None:
        """Remove what an unfinished start left behind (this package's own files only)."""
        if self.has_progress or self.is_finished:
            return
        for name in OWN:
            remove(self.path / name)
        for file in self.path.glob(".*.tmp"):
            file.unlink(missing_ok=True)

    @staticmethod
    def _refuse_foreign_files(path: Path) -> None:
        if (path / PARAMS).exists():
            return
        foreign = [p.name for p in path.iterdir() if p.name not in OWN and not p.name.startswith(".")]
        if foreign:
            raise UserError(f"{path}: holds other files ({foreign[0]}) and no search; give another --name")


def search_params(spec: SearchSpec, seed: int, imports: Mapping[str, str]) -> dict[str, Any]:
    """The content of search_params.json: the search as its file gives it, its seed, digests of user code, versions."""
    deciding = {key: value for key, value in spec.options.items() if key not in FREE}
    params = {
        "name": spec.base.name,
        "run": spec.base.run,
        "env": spec.base.env,
        "seed": seed,
        "stop": spec.base.stop,
        "config": {**spec.tree.get("config", {}), "tune": deciding},
        "imports": dict(imports),
        "versions": versions(),
    }
    return as_json(params)


def decide_search(folder: SearchFolder, params: Mapping[str, Any], options: Mapping[str, Any], resume: str) -> str:
    """`new`, `resume` or `finished`; UserError where the folder holds a search that must not be touched."""
    stored = folder.read_json(PARAMS)
    if stored is None or not (folder.has_progress or folder.is_finished):
        return "new"
    if resume == "never":
        raise UserError(
            f"{folder.path}: already holds a search; give another --name, or --resume auto to go on with it"
        )
    if different := differing_keys(stored, params):
        key, was, now = different[0]
        key = key.replace("config.tune.", "tune.")
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise UserError(
            f"{folder.path}: holds a search with other settings: {key} (there {was!r}, now {now!r}){more}; "
            "give another --name to begin a new one"
        )
    results = folder.read_json(RESULTS)
    if results is None or results["ended"] == "interrupted":
        return "resume"
    return "resume" if results["ended"] == "budget" and _has_left(results, options["budget"] or {}) else "finished"


def _has_left(results: Mapping[str, Any], budget: Mapping[str, int | None]) -> bool:
    """Does a budget, larger than before, allow to go on?"""
    return all(budget.get(key) is None or results[key] < budget[key] for key in ("seconds", "completions"))


FINISHED, STOPPED, FAILED, UNFINISHED = "finished", "stopped", "failed", "unfinished"


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
        self._end = 0
        if path.exists():
            self._read()

    @property
    def completions(self) -> int:
        return sum(trial.completions for trial in self.trials.values())

    def append(self, *events: Mapping[str, Any]) -> None:
        """Write events, all in one go, and wait until the disk has them."""
        entries = [as_json(event) for event in events]
        lines = "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in entries).encode()
        with storage_errors(self.path), self.path.open("r+b" if self.path.exists() else "w+b", buffering=0) as file:
            file.seek(self._end)
            file.truncate()  # a torn line from before
            try:
                file.write(lines)
                os.fsync(file.fileno())
            except OSError:
                file.truncate(self._end)
                raise
        self._end += len(lines)
        for entry in entries:
            self._take(entry)

    def repair(self) -> None:
        """Write the `end` of a trial whose last result was written and its end not."""
        ended = {event["trial"] for event in self.events if event["event"] == "end"}
        for trial in self.trials.values():
            if trial.is_over and trial.name not in ended:
                self.append({"event": "end", "trial": trial.name, "status": trial.status, "seconds": self.seconds})

    def _read(self) -> None:
        for entry, end in _lines(self.path.read_bytes()):
            self._take(entry)
            self._end = end

    def _take(self, entry: dict[str, Any]) -> None:
        self.events.append(entry)
        self.seconds = entry.get("seconds", self.seconds)
        kind = entry["event"]
        if kind == "trial":
            self.trials[entry["trial"]] = TrialRecord(entry["trial"], entry["values"])
        elif kind == "round":
            self.rounds.append(entry)
            for name, change in entry["changes"].items():
                self.trials[name].values = change["values"]
                self.trials[name].adopted.append({"iteration": entry["iteration"], **change})
        else:
            self._take_of_trial(self.trials[entry["trial"]], entry)

    def _take_of_trial(self, trial: TrialRecord, entry: Mapping[str, Any]) -> None:
        if entry["event"] == "end":
            trial.status, trial.error = entry["status"], entry.get("error")
        elif entry["event"] == "failure":
            trial.failures += 1
            trial.error = entry.get("error")
        elif entry["event"] == "result" and entry["iteration"] > trial.iterations:
            trial.iterations = entry["iteration"]
            trial.completions += entry["completions"]
            trial.score = trial.score if entry["score"] is None else entry["score"]
            # Its `end` follows in the same write; a kill can tear that.
            if entry["iteration"] >= self.planned:
                trial.status = FINISHED
            elif entry["decision"] == "STOP":
                trial.status = STOPPED


def _lines(content: bytes) -> Iterator[tuple[dict[str, Any], int]]:
    """Whole lines with the offset behind each, up to the first that a kill has torn."""
    start = 0
    while (end := content.find(b"\n", start)) >= 0:
        try:
            entry = json.loads(content[start:end])
        except ValueError:
            return
        if not isinstance(entry, dict) or "event" not in entry:
            return
        yield entry, end + 1
        start = end + 1
