"""rollouts.jsonl: what it keeps of a group, and how it is cut back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sharegrpo_rl.data.types import Completion, Group, Prompt, PromptPack, SeedQuestion, Slot
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.runs.journal import RolloutLog, group_entry, read_rollouts

QUESTION = SeedQuestion("q7", "How many?", "3", variants=("Count them.",), subtask="counting")


def completion(text: str, tokens: int = 2) -> Completion:
    return Completion(np.zeros(tokens, np.int64), np.zeros(tokens, np.float32), text, truncated=text == "cut")


def make_group(number: int = 4) -> Group:
    rewards = np.array([[1.0, 0.1], [0.0, 1.0]])
    return Group(
        group=number,
        question_id="q7",
        question_index=7,
        slots=(Slot(0, 0), Slot(1, 1, "rotate_90", 5)),
        prompts=(Prompt(np.zeros(1, np.int64)), Prompt(np.ones(1, np.int64))),
        completions=((completion("3"), completion("2")), (completion("cut", 5), completion("3"))),
        rewards=rewards,
        reward_parts={"accuracy": (rewards == 1).astype(float), "format": np.array([[1.0, np.nan], [0.0, 1.0]])},
    )


def test_each_completion_has_its_credit_under_each_prompt() -> None:
    group = make_group()
    (first, second), (third, fourth) = group.completions
    packs = [
        PromptPack(
            4, 0, group.prompts[0], (first, second, fourth), np.array([0.5, -0.5, 0.25]), np.array([1, 1, 0], bool)
        ),
        PromptPack(4, 1, group.prompts[1], (third, fourth), np.array([-1.0, 1.0]), np.array([1, 1], bool)),
        PromptPack(3, 0, group.prompts[0], (first,), np.array([9.0]), np.array([1], bool)),  # another group's
    ]
    entry = group_entry(group, QUESTION, packs)
    said = [c for slot in entry["slots"] for c in slot["completions"]]
    assert [c["advantages"] for c in said] == [[0.5, None], [-0.5, None], [None, -1.0], [0.25, 1.0]]
    assert [c["text"] for c in said] == ["3", "2", "cut", "3"]
    assert [c["truncated"] for c in said] == [False, False, True, False]
    assert [c["reward"] for c in said] == [1.0, 0.1, 0.0, 1.0]
    assert said[1]["parts"] == {"accuracy": 0.0, "format": None}  # a part without a value is null, not NaN
    assert (entry["subtask"], entry["answer"], entry["question_index"]) == ("counting", "3", 7)
    assert [(s["wording"], s["transform"], s["transform_seed"]) for s in entry["slots"]] == [
        ("How many?", None, 0),
        ("Count them.", "rotate_90", 5),
    ]


def test_an_answer_on_which_the_grader_failed_says_so() -> None:
    group = replace(make_group(), errors=((None, "crash: it died"), (None, None)))
    said = [c for slot in group_entry(group, QUESTION, [])["slots"] for c in slot["completions"]]
    assert [c.get("error") for c in said] == [None, "crash: it died", None, None]


def test_cut_back_and_a_torn_line(tmp_path: Path) -> None:
    log = RolloutLog(tmp_path)
    log.cut_back(3)  # no file yet
    entry = group_entry(make_group(), QUESTION, [])
    for iteration in (1, 5, 10):
        log.append(iteration, [entry])
    with log.path.open("a") as file:
        file.write('{"training_iteration": 15, "gro')
    assert [row["training_iteration"] for row in read_rollouts(tmp_path)] == [1, 5, 10]
    log.cut_back(7)
    log.append(10, [entry])
    assert [row["training_iteration"] for row in read_rollouts(tmp_path)] == [1, 5, 10]
    assert read_rollouts(tmp_path)[2]["groups"] == [entry]


@pytest.mark.parametrize("line", ["no json", '{"iteration": 1}', '{"training_iteration": 1, "groups": 3}', "[]"])
def test_a_damaged_file_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "rollouts.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=r"rollouts\.jsonl.*remove the file"):
        read_rollouts(tmp_path)
