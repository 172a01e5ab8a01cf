"""The two line files of a run: `result.json`, one object an iteration, and `rollouts.jsonl`, whole groups now and then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharegrpo_rl.data.types import Completion, Group, PromptPack, SeedQuestion
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.files import ROLLOUTS, JsonLines, as_json, storage_errors


class ResultLog:
    """The lines of one `result.json`, in memory and on disk alike: iterations 1, 2, 3, ..."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._file = JsonLines(path)
        self._file.read(self._add)

    def __len__(self) -> int:
        return len(self.rows)

    def _add(self, row: Mapping[str, Any]) -> None:
        if row["training_iteration"] != len(self.rows) + 1:
            raise ValueError(f"iteration {row['training_iteration']} follows {len(self.rows)} results")
        self.rows.append(dict(row))

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one line and wait until the disk has it; iterations must follow each other."""
        if row.get("training_iteration") != len(self.rows) + 1:
            raise RuntimeError(f"iteration {row.get('training_iteration')} follows {len(self.rows)} results")
        self._file.append(row)
        self._add(row)

    def cut_back(self, iteration: int, row: Mapping[str, Any] | None = None) -> None:
        """Keep the lines up to `iteration`; `row` is that iteration's, in case a kill came before it was written."""
        if len(self.rows) == iteration - 1 and row is not None:
            self.append(row)
        if len(self.rows) < iteration:
            raise UserError(
                f"{self.path}: holds {len(self.rows)} iterations but the checkpoint is from iteration {iteration}; "
                "the run cannot be resumed; start another with --name"
            )
        del self.rows[iteration:]
        self._file.cut_back(iteration)

    def values(self, *path: str) -> list[int | float]:
        """One metric over all iterations that have it."""
        return [value for row in self.rows if isinstance(value := _value_at(row, path), int | float)]

    def mean(self, *path: str) -> float | None:
        """Mean of one metric over all iterations that have it; None where none has."""
        values = self.values(*path)
        return sum(values) / len(values) if values else None


def _value_at(row: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        row = row.get(key) if isinstance(row, Mapping) else None
    return row


class RolloutLog:
    """`rollouts.jsonl`: one line for each iteration whose groups were kept, in the order of training."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / ROLLOUTS
        self._file = JsonLines(self.path)

    def read(self) -> list[dict[str, Any]]:
        """All rows, [] where there is no file; UserError where it is damaged."""
        return self._file.read(_checked_rollouts, "not a line that `train` wrote; remove the file")

    def append(self, iteration: int, groups: Sequence[Mapping[str, Any]]) -> None:
        """Add an iteration's groups, each made by `group_entry`."""
        with storage_errors(self.path):
            self._file.append({"training_iteration": iteration, "groups": list(groups)})

    def cut_back(self, iteration: int) -> None:
        """Drop what a killed process wrote for iterations that are run again."""
        with storage_errors(self.path):
            self._file.cut_back(sum(row["training_iteration"] <= iteration for row in self.read()))


def _checked_rollouts(row: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(row["training_iteration"], int) or not isinstance(row["groups"], list):
        raise ValueError("training_iteration and groups are missing")
    return row


def read_rollouts(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's `rollouts.jsonl`, [] where it has none; UserError where the file is damaged."""
    return RolloutLog(folder).read()


def group_entry(group: Group, question: SeedQuestion, packs: Iterable[PromptPack]) -> dict[str, Any]:
    """One group as JSON values: its prompts, every completion with its rewards and its credit.

    A completion's `advantages` has one value for each variant's prompt, in the order of `slots`; null = not trained.
    """
    variants = {slot.slot: v for v, slot in enumerate(group.slots)}
    advantages: dict[tuple[int, int], float] = {}  # (id of the completion, variant)
    for pack in packs:
        if pack.group == group.group and pack.slot in variants:
            for completion, advantage in zip(pack.completions, pack.advantages, strict=True):
                advantages[id(completion), variants[pack.slot]] = float(advantage)

    def completion_entry(completion: Completion, v: int, i: int) -> dict[str, Any]:
        return {
            "text": completion.text,
            "tokens": len(completion.token_ids),
            "truncated": completion.truncated,
            "advantages": [advantages.get((id(completion), variant)) for variant in range(len(group.slots))],
            "reward": group.rewards[v, i],
            "parts": {name: part[v, i] for name, part in group.reward_parts.items()},
            **({"error": group.errors[v][i]} if group.errors and group.errors[v][i] else {}),
        }

    entry = {
        "question_id": group.question_id,
        "question_index": group.question_index,
        "subtask": group.subtask or question.subtask,
        "answer": question.answer,
        "slots": [
            {
                "variant_index": slot.variant_index,
                "transform": slot.transform,
                "transform_seed": slot.transform_seed,
                "wording": question.wordings[slot.variant_index],
                "completions": [completion_entry(c, v, i) for i, c in enumerate(group.completions[v])],
            }
            for v, slot in enumerate(group.slots)
        ],
    }
    return dict(as_json(entry))
