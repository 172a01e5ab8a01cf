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

from sharegrpo_rl.tune.result_log import as_json
from sharegrpo_rl.tune.run_folder import storage_errors

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
