"""`rollouts.jsonl`: whole groups, several times a run: what was asked, every completion, its rewards and its credit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharegrpo_rl.data.types import Completion, Group, PromptPack, SeedQuestion
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.tune.result_log import as_json
from sharegrpo_rl.tune.run_folder import ROLLOUTS, storage_errors, write_atomically


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
