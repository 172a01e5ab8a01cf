"""Which test questions a comparison shows, by rules that the report states, with each method's answers and the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.envs.registry import make_env
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.reports.analysis import Comparison, verdicts
from sharegrpo_rl.reports.methods import Method, Run
from sharegrpo_rl.reports.pages import picture

MAX_KINDS = 6
MAX_PAIRS = 6
MAX_PER_SIDE = 3

SAMPLE_RULE = (
    f"The first test question of each kind (at most {MAX_KINDS} kinds), with the answer of each method's lowest seed. "
    "Nothing was picked by hand."
)
DISAGREEMENT_RULE = (
    "Questions where exactly one of two methods is right. They are ranked by the difference between the methods' shares of "
    f"right seeds, then by their place in the test set; the first {MAX_PER_SIDE} of either side are shown, with the completions "
    "of the lowest seed pair in which exactly one is right. "
    f"Of more than {MAX_PAIRS} pairs of methods those with the largest difference in accuracy."
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

    @property
    def sides(self) -> list[tuple[str, str, tuple[Example, ...]]]:
        """(which is right, which is wrong, examples) of the sides that have any."""
        sides = [(self.a, self.b, self.only_a), (self.b, self.a, self.only_b)]
        return [side for side in sides if side[2]]


def sample_answers(methods: Sequence[Method]) -> list[Example]:
    """By SAMPLE_RULE; empty where no run has predictions."""
    shown = _with_predictions(methods)
    if not shown:
        return []
    first: dict[str, int] = {}
    for index, row in enumerate(shown[0].finished[0].predictions or []):
        first.setdefault(row.get("subtask", ""), index)
    runs = [(m, m.finished[0]) for m in shown]
    return [_example(index, runs) for index in sorted(list(first.values())[:MAX_KINDS])]


def disagreements(methods: Sequence[Method], comparisons: Sequence[Comparison]) -> list[Disagreement]:
    """By DISAGREEMENT_RULE, over the pairs that were compared."""
    by_label = {m.label: m for m in _with_predictions(methods)}
    pairs = [p for p in comparisons if p["a"] in by_label and p["b"] in by_label]
    pairs = sorted(pairs, key=lambda p: -abs(p["difference"]["value"]))[:MAX_PAIRS]
    return [d for p in pairs if (d := _disagreement(by_label[p["a"]], by_label[p["b"]])).sides]


def _with_predictions(methods: Sequence[Method]) -> list[Method]:
    return [m for m in methods if m.finished and all(run.predictions for run in m.finished)]


def _disagreement(a: Method, b: Method) -> Disagreement:
    right_a, right_b = (verdicts(m.finished) >= 1 for m in (a, b))  # [seeds, questions]
    difference = right_a.mean(0) - right_b.mean(0)
    order = np.argsort(-np.abs(difference), kind="stable")
    only_a, only_b = (
        tuple(
            _differing_example(int(q), a, b, right_a[:, q], right_b[:, q])
            for q in [q for q in order if np.sign(difference[q]) == sign][:MAX_PER_SIDE]
        )
        for sign in (1, -1)
    )
    return Disagreement(a.label, b.label, only_a, only_b)


def _differing_example(
    index: int, a: Method, b: Method, right_a: NDArray[np.bool_], right_b: NDArray[np.bool_]
) -> Example:
    """The answers of the lowest pair of seeds (one seed for both where possible) in which the better method alone is right."""
    a_wins = right_a.mean() > right_b.mean()
    pairs = [
        (run_a, run_b)
        for run_a, is_right_a in zip(a.finished, right_a, strict=True)
        for run_b, is_right_b in zip(b.finished, right_b, strict=True)
        if is_right_a == a_wins and is_right_b != a_wins
    ]
    run_a, run_b = min(pairs, key=lambda p: (p[0].seed != p[1].seed, p[0].seed, p[1].seed))
    note = (
        f"right in {int(right_a.sum())} of {len(right_a)} seeds with {a.label}, "
        f"in {int(right_b.sum())} of {len(right_b)} with {b.label}"
    )
    return _example(index, [(a, run_a), (b, run_b)], note)


def _example(index: int, runs: Sequence[tuple[Method, Run]], note: str = "") -> Example:
    rows = [(run.predictions or [])[index] for _, run in runs]
    answers = tuple(
        Answer(method.label, run.seed, row["text"], row.get("extracted"), float(row["accuracy"]) >= 1)
        for (method, run), row in zip(runs, rows, strict=True)
    )
    row = rows[0]
    return Example(row["question_id"], row.get("question", ""), row["gold"], row.get("subtask", ""), answers, note)


def question_images(run: Run, question_ids: Sequence[str]) -> tuple[dict[str, list[str]], str]:
    """Images as data URIs by question id; and why there are none where the data cannot be read any more."""
    config, images = run.params["config"], dict[str, list[str]]()
    try:
        env = make_env(
            run.params["env"],
            config["env_config"],
            split="test",
            rewards=config["rewards"],
            answer_format=config["answer_format"],
            check=False,
        )
        for question_id in question_ids:
            observation, _ = env.reset(options={"question_id": question_id})
            images[question_id] = [picture(pixels) for pixels in observation["images"]]
    except UserError as error:
        return {}, f"The images are not shown, because the data could not be read: {error}"
    return images, ""
