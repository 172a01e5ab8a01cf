"""StepGRPO's rewards (R1-VL): which key steps the reasoning contains (StepRAR), and whether it is in order (StepRVR).

With `rewards: {accuracy: 1.0, key_steps: 0.1, step_validity: 1.0}` the total is StepRAR + StepRVR:
1 + 0.1 k for a right answer, 0.1 k for a wrong one, 0 without an answer, and 1 more for valid reasoning.
The `_released` rewards behave as the authors' code does, its gaps included.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from sharegrpo_rl.rewards.formats import find_format
from sharegrpo_rl.rewards.key_steps_matching import KeySteps, matched_share, substring_share
from sharegrpo_rl.rewards.step_format import is_complete_and_ordered, sections, step_texts

_RELEASED_STEP = re.compile(r"### Step (\d+):\s*+")
_RELEASED_ANSWER = "### The final answer is:"
_RELEASED_HEADINGS = ("### Image Description:", "### Rationales:", "### Step 1:", _RELEASED_ANSWER)


def key_steps_reward(
    completions: Sequence[str],
    *,
    key_steps: Sequence[KeySteps | None],
    answer_format: str = "steps",
    **columns: Any,
) -> list[float | None]:
    """Share of the row's key steps found in the steps; 0 where the row has none or the completion no answer."""
    form = find_format(answer_format)
    return [
        matched_share(step_texts(text), wanted) if wanted and form.extract(text) is not None else 0.0
        for text, wanted in zip(completions, key_steps, strict=True)
    ]


def step_validity_reward(
    completions: Sequence[str], *, truncated: Sequence[bool] | None = None, **columns: Any
) -> list[float | None]:
    """1 where every section is there, filled, once and in logical order, and nothing was cut off; else 0."""
    cut = truncated or [False] * len(completions)
    return [
        float(not was_cut and is_complete_and_ordered(sections(text)[1]))
        for text, was_cut in zip(completions, cut, strict=True)
    ]


def key_steps_released_reward(
    completions: Sequence[str], *, key_steps: Sequence[KeySteps | None], **columns: Any
) -> list[float | None]:
    """Released code's share of key steps: substrings, with or without an answer."""
    return [
        substring_share(_released_steps(text), wanted) if wanted else 0.0
        for text, wanted in zip(completions, key_steps, strict=True)
    ]


def step_validity_released_reward(completions: Sequence[str], **columns: Any) -> list[float | None]:
    """Released code's validity: bodies may be empty, sections before or behind the steps, the answer missing."""
    return [float(_released_validity(text)) for text in completions]


def _released_steps(text: str) -> list[str]:
    """What follows each `### Step k:`, as far as the next line that begins with `###`."""
    found, place = [], 0
    while heading := _RELEASED_STEP.search(text, place):
        end = text.find("\n###", heading.end())
        place = end if end >= 0 else len(text)
        found.append(text[heading.end() : place])
    return found


def _released_validity(text: str) -> bool:
    if not all(heading in text for heading in _RELEASED_HEADINGS):
        return False
    steps = list(_RELEASED_STEP.finditer(text))
    if not text.strip().endswith(_RELEASED_ANSWER) and text.index(_RELEASED_ANSWER) < steps[-1].end():
        return False
    return all(_is_number(step[1], place) for place, step in enumerate(steps, 1))


def _is_number(digits: str, number: int) -> bool:
    return len(digits) <= 4_000 and int(digits) == number  # Python reads no longer ones; no count is as high


STEP_REWARDS: dict[str, Callable[..., Sequence[float | None]]] = {
    "key_steps": key_steps_reward,
    "step_validity": step_validity_reward,
    "key_steps_released": key_steps_released_reward,
    "step_validity_released": step_validity_released_reward,
}
