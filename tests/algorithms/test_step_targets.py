"""What a warm start teaches in the format `steps`, and that the other formats teach what they did."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from sharegrpo_rl.algorithms.warm_start import THOUGHT, target_text
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.rewards.rubric import Rubric

QUESTION = SeedQuestion(id="q", question="How many?", answer="3", key_steps=(("2 dots", "two dots"), ("2 + 1 = 3",)))


def target(question: SeedQuestion, answer_format: str, template: str | None = None) -> str:
    warm_start = None if template is None else {"template": template}
    return target_text(question, SimpleNamespace(answer_format=answer_format, warm_start=warm_start))


def test_the_first_phrasings_are_the_steps() -> None:
    text = target(QUESTION, "steps", "Dots.")
    assert text.startswith("### Image Description: Dots.")
    assert "### Step 1: 2 dots\n### Step 2: 2 + 1 = 3\n### The final answer is: 3" in text
    rubric = Rubric({"accuracy": 1.0, "key_steps": 0.1, "step_validity": 1.0}, "steps")
    assert rubric.score([text], QUESTION)[0].total == pytest.approx(2.1)


def test_a_solution_is_taught_before_key_steps() -> None:
    text = target(replace(QUESTION, solution="Two dots.\nOne more."), "steps")
    assert "### Step 1: Two dots.\n### Step 2: One more.\n### The final" in text


@pytest.mark.parametrize("answer_format", ["think_answer", "boxed"])
def test_other_formats_teach_thought_and_answer(answer_format: str) -> None:
    assert target(QUESTION, answer_format) == target(replace(QUESTION, key_steps=()), answer_format)
    assert THOUGHT in target(QUESTION, answer_format)
