"""The pictures of the README, from finished run folders (several seeds of one or more algorithms on one task).

python docs/make_figures.py curve runs/share_grpo-0 runs/share_grpo-1 ... runs/grpo-0 runs/grpo-1 ...
python docs/make_figures.py rollout runs/share_grpo-0
python docs/make_figures.py steps runs/cross_task/grpo-d-counting-* runs/cross_task/sft-counting-*
python docs/make_figures.py grader

`curve` writes docs/images/learning_curve.png: greedy accuracy on held-out questions and reward in training, the mean
over seeds with a band from the lowest to the highest seed. `rollout` writes docs/images/rollout.png: one training
question as the exported model of a run is asked it, in each variant, with its completions and their rewards. `steps`
writes docs/images/accuracy_by_step.png: greedy accuracy by optimizer step, RL and SFT on one axis (OThink-MR1, Figure 1).
`grader` needs no run and writes docs/images/grader.svg: the way of an answer through the grader.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

IMAGES = Path(__file__).resolve().parent / "images"
LABELS = {"ShareGRPO": "Share-GRPO", "GRPO": "GRPO", "GRPOD": "GRPO-D", "StepGRPO": "StepGRPO", "SFT": "SFT"}
COLORS = {"ShareGRPO": "#0b6e8f", "GRPO": "#c8702a", "GRPOD": "#0b6e8f", "StepGRPO": "#7a5195", "SFT": "#6c757d"}
SMOOTHED = 8  # iterations that a reward is averaged over
QUESTIONS_TRIED = 64  # for the picture of a rollout


@dataclass(frozen=True)
class Run:
    """A finished run: its summary, and one row an iteration."""

    summary: dict[str, Any]
    rows: list[dict[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> Run:
        """From a run's folder; SystemExit where it is not a finished run."""
        if not (folder / "summary.json").exists():
            raise SystemExit(f"{folder}: not a finished run (no summary.json)")
        rows = [json.loads(line) for line in (folder / "result.json").read_text().splitlines()]
        return cls(json.loads((folder / "summary.json").read_text()), rows)

    def completions(self) -> NDArray[np.float64]:
        """Completions sampled up to the end of each iteration, 0 in front."""
        return np.cumsum([0, *(row["env_runners"]["num_completions"] for row in self.rows)])

    def greedy(self) -> dict[float, float]:
        """Greedy accuracy on the test questions by completions sampled."""
        sampled = self.completions()
        points = {0.0: self.summary["accuracy_before"], float(sampled[-1]): self.summary["accuracy_after"]}
        evaluated = [row for row in self.rows if "accuracy" in row.get("evaluation", {})]
        return points | {float(sampled[r["training_iteration"]]): r["evaluation"]["accuracy"] for r in evaluated}

    def by_step(self) -> dict[int, float]:
        """Greedy accuracy on the test questions by optimizer step."""
        taken = [row["learners"]["default_policy"]["optimizer_steps"] for row in self.rows]
        evaluated = {s: r["evaluation"] for s, r in zip(taken, self.rows, strict=True) if "evaluation" in r}
        points = {int(step): report["accuracy"] for step, report in evaluated.items() if "accuracy" in report}
        return {0: self.summary["accuracy_before"], int(taken[-1]): self.summary["accuracy_after"]} | points

    def reward(self) -> NDArray[np.float64]:
        """Mean reward of each iteration, averaged over the last few."""
        values = np.array([row["env_runners"]["reward_mean"] for row in self.rows])
        return np.array([values[max(0, i + 1 - SMOOTHED) : i + 1].mean() for i in range(len(values))])


# ---- the learning curve


def draw_curve(runs: Sequence[Run], out: Path) -> None:
    """Two panels: greedy accuracy on held-out questions, and reward in training."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), sharex=True, constrained_layout=True)
    for name, seeds in _by_algorithm(runs).items():
        shared = sorted(set.intersection(*(set(run.greedy()) for run in seeds)))
        _band(left, name, np.array(shared), np.array([[run.greedy()[x] for x in shared] for run in seeds]), "o-")
        length = min(len(run.rows) for run in seeds)
        _band(right, name, seeds[0].completions()[1 : length + 1], np.array([run.reward()[:length] for run in seeds]))
        blind = float(np.mean([run.summary["blind_accuracy_after"] for run in seeds]))
        left.axhline(
            blind, color=COLORS.get(name), linestyle=":", linewidth=1.2, label=f"{_label(name)}, images swapped"
        )
    questions = runs[0].summary["test_questions"]
    left.set_title(f"Greedy accuracy, {questions} held-out questions", loc="left", fontsize=10)
    right.set_title("Mean reward in training", loc="left", fontsize=10)
    for axes in (left, right):
        axes.set_ylim(0, 1)
        axes.set_xlabel("completions sampled")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    _save(figure, out)


def draw_steps(runs: Sequence[Run], out: Path) -> None:
    """One panel: greedy accuracy by optimizer step, a line for each algorithm."""
    figure, axes = plt.subplots(figsize=(5.6, 3.8), constrained_layout=True)
    for name, seeds in _by_algorithm(runs).items():
        shared = sorted(set.intersection(*(set(run.by_step()) for run in seeds)))
        _band(axes, name, np.array(shared), np.array([[run.by_step()[x] for x in shared] for run in seeds]), "o-")
    axes.set_title(f"Greedy accuracy, {runs[0].summary['test_questions']} held-out questions", loc="left", fontsize=10)
    axes.set_xlabel("optimizer steps")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    _save(figure, out)


def _by_algorithm(runs: Sequence[Run]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.summary["algorithm"], []).append(run)
    return found


def _band(axes: Any, name: str, x: NDArray[Any], values: NDArray[Any], style: str = "-") -> None:
    """Mean over seeds `[seeds, points]`, and the range from the lowest to the highest."""
    color = COLORS.get(name)
    number = f"{len(values)} seed{'s' if len(values) > 1 else ''}"
    axes.plot(x, values.mean(0), style, color=color, markersize=4, label=f"{_label(name)}, {number}")
    axes.fill_between(x, values.min(0), values.max(0), color=color, alpha=0.2, linewidth=0)


def _label(name: str) -> str:
    return LABELS.get(name, name)


# ---- the rollout


@dataclass(frozen=True)
class Shown:
    """One variant as the model was asked it: pictures, text, and its completions with their scores."""

    heading: str
    pictures: tuple[NDArray[np.uint8], ...]
    text: str
    completions: tuple[str, ...]
    scores: tuple[Any, ...]

    @property
    def mixed(self) -> bool:
        """Are some answers right and some wrong?"""
        return len({score.parts["accuracy"] for score in self.scores}) > 1


def sample_group(folder: Path) -> tuple[str, list[Shown]]:
    """(answer, variants) of the first question with a transformed image and both right and wrong answers.

    Where none of the questions tried is like that, the first one.
    """
    from sharegrpo_rl.data.transforms import allowed_transforms
    from sharegrpo_rl.data.variants import plan_slots
    from sharegrpo_rl.envs.registry import make_env
    from sharegrpo_rl.models.loading import ModelSettings, load_policy
    from sharegrpo_rl.models.prompts import PromptSettings
    from sharegrpo_rl.runs.process import quiet_libraries

    quiet_libraries()
    run = json.loads((folder / "params.json").read_text())
    config = run["config"]
    recorded = json.loads((folder / "export" / "sharegrpo_rl.json").read_text())
    policy = load_policy(
        ModelSettings(
            str(folder / "export"), temperature=config["temperature"], prompts=PromptSettings(**recorded["prompts"])
        )
    )
    skipped = (config["warm_start"] or {}).get("rows", 0)
    env_config = {**config["env_config"], "skip_questions": skipped}
    env = make_env(
        run["env"], env_config, rewards=config["rewards"], answer_format=config["answer_format"], check=False
    )
    names = ("num_variants", "transform_probability", "include_original", "wording", "strict_variants")
    first = None
    for index in range(min(QUESTIONS_TRIED, len(env.bank))):
        question = env.bank[index]
        allowed = allowed_transforms(question, config["transforms"])
        slots = plan_slots(question, allowed=allowed, seed=index, **{name: config[name] for name in names})
        shown = [_ask(env, policy, config, index, slot) for slot in slots]
        group = (question.answer, shown)
        first = first or group
        if any(slot.transform for slot in slots) and any(variant.mixed for variant in shown):
            return group
    assert first is not None
    return first


def _ask(env: Any, policy: Any, config: dict[str, Any], index: int, slot: Any) -> Shown:
    """Show one variant, sample its completions, grade them."""
    from sharegrpo_rl.data.transforms import TRANSFORMS
    from sharegrpo_rl.data.variants import derive_seed
    from sharegrpo_rl.generation.generator import Sampling
    from sharegrpo_rl.generation.hf import HFGenerator
    from sharegrpo_rl.models.prompts import Question

    options = {
        "question_index": index,
        "variant_index": slot.variant_index,
        "transform": slot.transform,
        "transform_seed": slot.transform_seed,
    }
    observation, _ = env.reset(options=options)
    prompts = policy.encoder.encode([Question(observation["question"], observation["images"])])
    sampling = Sampling(config["max_completion_tokens"], config["top_p"])
    seeds = [derive_seed("picture", index, slot.slot)]
    (completions,) = HFGenerator(policy).generate(prompts, config["num_generations"], seeds, sampling)
    texts = tuple(completion.text for completion in completions)
    scores = tuple(env.score(texts, [completion.truncated for completion in completions]))
    done = TRANSFORMS[slot.transform].label if slot.transform else "image as it is"
    heading = f"variant {slot.slot + 1}: wording {slot.variant_index}, {done}"
    return Shown(heading, observation["images"], observation["question"], texts, scores)


def draw_rollout(answer: str, variants: Sequence[Shown], out: Path) -> None:
    """A row for each variant: the picture, the question, and the completions with their rewards."""
    figure, grid = plt.subplots(
        len(variants), 2, figsize=(10, 2.7 * len(variants)), width_ratios=(1, 4.2), squeeze=False, layout="constrained"
    )
    figure.suptitle(f"One question in {len(variants)} variants; the answer is {answer}", fontsize=11, x=0.01, ha="left")
    for variant, (left, right) in zip(variants, grid, strict=True):
        left.set(xticks=[], yticks=[])
        left.spines[:].set_color("#cccccc")
        if variant.pictures:
            left.imshow(variant.pictures[0], interpolation="nearest")
        right.axis("off")
        y = _write(right, 1.0, variant.heading, "#777777", 8)
        y = _write(right, y, variant.text, "black", 9.5)
        for text, score in zip(variant.completions, variant.scores, strict=True):
            color = "#11713a" if score.parts["accuracy"] >= 1 else "#a51d2d"
            y = _write(right, y, f"{score.total:.2f}   {_printable(text) or '(empty)'}", color, 8.5)
    _save(figure, out)


def _write(axes: Any, y: float, text: str, color: str, size: float) -> float:
    """Text at height `y` (1 = top) with at most two lines; the height below it."""
    lines = textwrap.wrap(text, 100)[:2]
    axes.text(0, y, "\n".join(lines), color=color, fontsize=size, va="top", transform=axes.transAxes)
    return y - 0.0105 * size * len(lines) - 0.025


def _printable(text: str) -> str:
    """One line, without the control characters that an untrained model writes."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _save(figure: Any, out: Path, **options: Any) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130, facecolor="white", **options)
    plt.close(figure)
    print(f"wrote {out}")


# ---- the way of an answer through the grader

BOX = {"boxstyle": "round,pad=0.5", "facecolor": "#eef4f7", "edgecolor": "#0b6e8f"}
FOUND = (
    "response",
    "Where is the answer?  (formats.py, prose.py)\ntraining: the run's own format, nothing else\n"
    "files, evaluation: tags, then boxes, then the end of the prose",
    "What is it compared as?  (grading.py)\nThe gold decides: the first kind that it is.\n"
    "Too long or nested too deeply: no comparison.",
)
DECIDED_BY = (  # what the gold is, the kind in the verdict, where it is compared
    ("one of the row's choices", "option", "choices.py"),
    ("the answer's own text", "text", "text.py"),
    ("yes or no, true or false", "verdict", "words.py"),
    ("a letter of options that the row does not list", "letter", "words.py"),
    ("a value with a name: even, isosceles", "name", "words.py"),
    ("a time or a date", "moment", "words.py"),
    ("a number, with or without a unit", "number", "numbers.py"),
    ("several values, a set, an interval, a matrix", "list", "lists.py"),
    ("plain words", "words", "words.py"),
    ("anything else", "mathematics", "symbolic.py"),
)
ENDS = (
    "math-verify in a child process  (math_worker.py)\nat most 1.5 s of its processor time; equal pairs are asked once",
    "verdict: score, extracted, reason, kind, and error where the grader failed",
)


def draw_grader(out: Path) -> None:
    """Boxes from the response down to the verdict, with a row for each kind of comparison."""
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "grader"}):
        figure = plt.figure(figsize=(8.6, 9.0))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 86), ylim=(0, 90))
        axes.axis("off")
        for y, text in zip((86, 78, 67.5), FOUND, strict=True):
            axes.text(43, y, text, ha="center", va="center", fontsize=10, bbox=BOX)
        for y, (gold, kind, module) in zip(np.linspace(58.8, 19.4, len(DECIDED_BY)), DECIDED_BY, strict=True):
            axes.text(11, y, gold, va="center", fontsize=10)
            axes.text(44, y, kind, va="center", fontsize=10, fontweight="bold", color="#0b6e8f")
            axes.text(61, y, module, va="center", fontsize=10, color="#777777")
        axes.add_patch(plt.Rectangle((8.5, 16.8), 69, 44.5, fill=False, edgecolor="#0b6e8f"))
        for y, text in zip((11.3, 3), ENDS, strict=True):
            axes.text(43, y, text, ha="center", va="center", fontsize=10, bbox=BOX)
        for top, bottom in ((84.3, 81.9), (74.2, 71.4), (63.7, 61.5), (16.6, 13.8), (8.7, 4.8)):
            axes.annotate("", (43, bottom), (43, top), arrowprops={"arrowstyle": "->", "color": "#0b6e8f"})
        axes.plot((77.5, 82, 82), (40, 40, 3), color="#0b6e8f", linewidth=1)
        axes.annotate("", (69.5, 3), (82, 3), arrowprops={"arrowstyle": "->", "color": "#0b6e8f", "shrinkA": 0})
        axes.text(
            44, 15.1, "mathematics, where none of our own rules decides", fontsize=8.5, va="center", color="#777777"
        )
        _save(figure, out, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("curve", "rollout", "steps", "grader"))
    parser.add_argument("runs", type=Path, nargs="*", help="folders of finished runs")
    parser.add_argument("--out", type=Path, help="the picture to write")
    options = parser.parse_args()
    if options.what != "grader" and not options.runs:
        parser.error("give the folders of finished runs")
    if options.what == "grader":
        draw_grader(options.out or IMAGES / "grader.svg")
    elif options.what == "curve":
        draw_curve([Run.read(folder) for folder in options.runs], options.out or IMAGES / "learning_curve.png")
    elif options.what == "steps":
        draw_steps([Run.read(folder) for folder in options.runs], options.out or IMAGES / "accuracy_by_step.png")
    else:
        draw_rollout(*sample_group(options.runs[0]), options.out or IMAGES / "rollout.png")


if __name__ == "__main__":
    main()
