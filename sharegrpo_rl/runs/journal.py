"""`result.json`: one JSON object an iteration, appended durably, cut back to a checkpoint on resume."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharegrpo_rl.data.types import Completion, Group, PromptPack, SeedQuestion
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.files import ROLLOUTS, as_json, storage_errors, write_atomically


class ResultLog:
    """The lines of one `result.json`, in memory and on disk alike."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._ends: list[int] = []  # byte offset behind each line, so that a cut leaves the lines before it untouched
        if path.exists():
            self._read()

    def __len__(self) -> int:
        return len(self.rows)

    def _read(self) -> None:
        content = self.path.read_bytes()
        start = 0
        while (end := content.find(b"\n", start)) >= 0:  # what follows the last newline is a line cut short by a kill
            row = self._parse(content[start:end])
            if row is None:
                break
            self.rows.append(row)
            self._ends.append(end + 1)
            start = end + 1

    def _parse(self, line: bytes) -> dict[str, Any] | None:
        try:
            row = json.loads(line)
        except ValueError:
            return None
        return row if isinstance(row, dict) and row.get("training_iteration") == len(self.rows) + 1 else None

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one line and wait until the disk has it; iterations must follow each other."""
        expected = len(self.rows) + 1
        if row.get("training_iteration") != expected:
            raise RuntimeError(f"iteration {row.get('training_iteration')} follows {expected - 1} results")
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        start = self._ends[-1] if self._ends else 0
        with self.path.open("r+b" if self.path.exists() else "w+b", buffering=0) as file:
            file.seek(start)
            file.truncate()  # a torn line from before
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(start)
                raise
        self.rows.append(dict(row))
        self._ends.append(start + len(line))

    def cut_back(self, iteration: int, row: Mapping[str, Any] | None = None) -> None:
        """Keep the lines up to `iteration`; `row` is its own line, for a kill that came before it was written."""
        if len(self.rows) == iteration - 1 and row is not None:
            self.append(row)
        if len(self.rows) < iteration:
            raise UserError(
                f"{self.path}: holds {len(self.rows)} iterations but the checkpoint is from iteration {iteration}; "
                "the run cannot go on, begin another with --name"
            )
        del self.rows[iteration:], self._ends[iteration:]
        if self.path.exists():
            with self.path.open("r+b") as file:
                file.truncate(self._ends[-1] if self._ends else 0)
                os.fsync(file.fileno())

    def mean(self, *path: str) -> float | None:
        """Mean of one metric over all iterations that have it; None where none has."""
        values = [value for row in self.rows if isinstance(value := _at(row, path), int | float)]
        return sum(values) / len(values) if values else None

    def highest(self, *path: str) -> float | None:
        """Largest value of one metric over all iterations that have it; None where none has."""
        return max((value for row in self.rows if isinstance(value := _at(row, path), int | float)), default=None)

    def total(self, *path: str) -> float:
        """Sum of one metric over all iterations."""
        return sum(value for row in self.rows if isinstance(value := _at(row, path), int | float))


def _at(row: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        row = row.get(key) if isinstance(row, Mapping) else None
    return row


# ---- `rollouts.jsonl`: whole groups, several times a run: what was asked, every completion, its rewards and its credit.


def group_entry(group: Group, question: SeedQuestion, packs: Iterable[PromptPack]) -> dict[str, Any]:
    """One group as JSON values; a completion's `advantages` has a place for each variant's prompt, null = not trained."""
    places = {slot.slot: place for place, slot in enumerate(group.slots)}
    credit: dict[tuple[int, int], float] = {}
    for pack in packs:
        if pack.group == group.group and pack.slot in places:
            for completion, advantage in zip(pack.completions, pack.advantages, strict=True):
                credit[id(completion), places[pack.slot]] = float(advantage)
    slots = []
    for v, slot in enumerate(group.slots):
        completions = [
            _completion_entry(c, credit, len(group.slots))
            | {"reward": group.rewards[v, i], "parts": {n: p[v, i] for n, p in group.reward_parts.items()}}
            for i, c in enumerate(group.completions[v])
        ]
        slots.append(
            {
                "variant_index": slot.variant_index,
                "transform": slot.transform,
                "transform_seed": slot.transform_seed,
                "wording": question.wordings[slot.variant_index],
                "completions": completions,
            }
        )
    entry = {
        "question_id": group.question_id,
        "question_index": group.question_index,
        "subtask": group.subtask or question.subtask,
        "answer": question.answer,
        "slots": slots,
    }
    return dict(as_json(entry))


def _completion_entry(completion: Completion, credit: Mapping[tuple[int, int], float], prompts: int) -> dict[str, Any]:
    return {
        "text": completion.text,
        "tokens": len(completion.token_ids),
        "truncated": completion.truncated,
        "advantages": [credit.get((id(completion), place)) for place in range(prompts)],
    }


class RolloutLog:
    """One line for each iteration that was kept, in the order of training."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / ROLLOUTS

    def cut_back(self, iteration: int) -> None:
        """Forget what a killed process wrote for iterations that are run again."""
        if not self.path.exists():
            return
        rows = [row for row in _whole_lines(self.path) if row["training_iteration"] <= iteration]
        with storage_errors(self.path):
            write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in rows))

    def append(self, iteration: int, groups: Sequence[Mapping[str, Any]]) -> None:
        """Add an iteration's groups."""
        line = json.dumps({"training_iteration": iteration, "groups": list(groups)}, allow_nan=False)
        with storage_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """All lines but one that a kill cut short."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        rows.append(json.loads(line))
    return rows


def read_rollouts(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's folder, none where it has no such file; UserError where the file is damaged."""
    path = folder / ROLLOUTS
    if not path.exists():
        return []
    try:
        rows = _whole_lines(path)
        if not all(isinstance(row["training_iteration"], int) and isinstance(row["groups"], list) for row in rows):
            raise ValueError("a line has training_iteration and groups")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a log of rollouts ({error}); remove the file") from None
    return rows
