"""The images of test questions, read again from the run's own environment."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from sharegrpo_rl.envs.registry import make_env
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.reports.comparison import verdicts
from sharegrpo_rl.reports.methods import Method, Run

# ---- Which test questions a report shows, and what each method answered to them. The rules are stated in the report.

MOST_KINDS = 6
MOST_PAIRS = 6
A_SIDE = 3

SAMPLE_RULE = (
    f"The first test question of each kind (at most {MOST_KINDS} kinds), with the answer of each method's lowest seed. "
    "Nothing was picked by hand."
)
DISAGREEMENT_RULE = (
    "Questions where exactly one of two methods is right. They are ranked by the difference between the methods' shares of "
    f"right seeds, then by their place in the test set; the first {A_SIDE} of either side are shown, with the completions "
    "of the lowest seed pair in which exactly one is right. "
    f"Of more than {MOST_PAIRS} pairs of methods those with the largest difference in accuracy."
)


@dataclass(frozen=True)
class Answer:
    """One method's completion for one question."""

    label: str
    seed: int
    text: str
    extracted: str | None
    right: bool


@dataclass(frozen=True)
class Example:
    """A test question with answers side by side."""

    question_id: str
    question: str
    gold: str
    kind: str
    answers: tuple[Answer, ...]
    note: str = ""


@dataclass(frozen=True)
class Disagreement:
    """A pair of methods, and the questions that only one of them gets right."""

    a: str
    b: str
    only_a: tuple[Example, ...]
    only_b: tuple[Example, ...]


def sample_rollouts(methods: Sequence[Method]) -> list[Example]:
    """By SAMPLE_RULE; empty where no run has predictions."""
    shown = _with_predictions(methods)
    if not shown:
        return []
    rows = shown[0].finished[0].predictions or []
    first: dict[str, int] = {}
    for place, row in enumerate(rows):
        first.setdefault(row.get("subtask", ""), place)
    return [_example(place, [(m, m.finished[0]) for m in shown]) for place in sorted(list(first.values())[:MOST_KINDS])]


def disagreements(methods: Sequence[Method], comparisons: Sequence[dict[str, Any]]) -> list[Disagreement]:
    """By DISAGREEMENT_RULE, over the pairs that were compared."""
    by_label = {m.label: m for m in _with_predictions(methods)}
    pairs = [p for p in comparisons if p["a"] in by_label and p["b"] in by_label]
    pairs = sorted(pairs, key=lambda p: -abs(p["difference"]["value"]))[:MOST_PAIRS]
    found = [_disagreement(by_label[p["a"]], by_label[p["b"]]) for p in pairs]
    return [d for d in found if d.only_a or d.only_b]


def _with_predictions(methods: Sequence[Method]) -> list[Method]:
    return [m for m in methods if m.finished and all(run.predictions for run in m.finished)]


def _disagreement(a: Method, b: Method) -> Disagreement:
    right_a, right_b = (verdicts(m.finished) >= 1 for m in (a, b))
    difference = right_a.mean(0) - right_b.mean(0)
    order = np.argsort(-np.abs(difference), kind="stable")
    sides = []
    for sign in (1, -1):
        places = [int(q) for q in order if np.sign(difference[q]) == sign][:A_SIDE]
        sides.append(tuple(_side(q, a, b, right_a[:, q], right_b[:, q], sign) for q in places))
    return Disagreement(a.label, b.label, sides[0], sides[1])


def _side(place: int, a: Method, b: Method, right_a: Any, right_b: Any, sign: int) -> Example:
    i, j = _seed_pair(a.finished, b.finished, right_a, right_b, wanted=sign > 0)
    note = (
        f"right in {int(right_a.sum())} of {len(right_a)} seeds with {a.label}, "
        f"in {int(right_b.sum())} of {len(right_b)} with {b.label}"
    )
    return _example(place, [(a, a.finished[i]), (b, b.finished[j])], note)


def _seed_pair(
    runs_a: Sequence[Run], runs_b: Sequence[Run], right_a: Any, right_b: Any, *, wanted: bool
) -> tuple[int, int]:
    """The lowest pair of seeds, one seed for both where that is possible, with a right and b wrong (or the reverse)."""
    pairs = [
        (i, j)
        for i in range(len(runs_a))
        for j in range(len(runs_b))
        if bool(right_a[i]) is wanted and bool(right_b[j]) is not wanted
    ]
    return min(pairs, key=lambda p: (runs_a[p[0]].seed != runs_b[p[1]].seed, runs_a[p[0]].seed, runs_b[p[1]].seed))


def _example(place: int, chosen: Sequence[tuple[Method, Run]], note: str = "") -> Example:
    rows = [(run.predictions or [])[place] for _, run in chosen]
    answers = tuple(
        Answer(method.label, run.seed, row["text"], row.get("extracted"), float(row["accuracy"]) >= 1)
        for (method, run), row in zip(chosen, rows, strict=True)
    )
    row = rows[0]
    return Example(row["question_id"], row.get("question", ""), row["gold"], row.get("subtask", ""), answers, note)


LONGEST_SHOWN = 320  # pixels
SMALLEST_SHOWN = 112  # smaller pictures are enlarged by whole factors


def question_images(run: Run, question_ids: Sequence[str]) -> tuple[dict[str, list[str]], str]:
    """PNG images as base64 by question id, and why there are none where the data cannot be read any more."""
    config = run.params["config"]
    try:
        env = make_env(
            run.params["env"],
            config["env_config"],
            split="test",
            rewards=config["rewards"],
            answer_format=config["answer_format"],
            check=False,
        )
        found = {}
        for question in question_ids:
            observation, _ = env.reset(options={"question_id": question})
            found[question] = [png(Image.fromarray(pixels)) for pixels in observation["images"]]
    except UserError as error:
        return {}, f"The images are not shown, because the data could not be read: {error}"
    return found, ""


def png(image: Image.Image) -> str:
    """A PNG as base64, large enough to be seen and small enough for a page."""
    image.thumbnail((LONGEST_SHOWN, LONGEST_SHOWN))
    factor = max(1, -(-SMALLEST_SHOWN // max(image.size)))
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")
