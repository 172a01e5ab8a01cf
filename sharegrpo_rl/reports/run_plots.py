"""The curves of one run as SVG pictures, over iterations."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sharegrpo_rl.reports.plots import COLORS, SMOOTHED, new_figure, use_style
from sharegrpo_rl.reports.run_reading import Run
from sharegrpo_rl.statistics.curves import smoothed
from sharegrpo_rl.tune.metric_names import value_of

LEARNER = "learners/default_policy"


@dataclass(frozen=True)
class Panel:
    """One picture: its curves as label -> metric."""

    title: str
    metrics: Mapping[str, str]
    share: bool = False
    smooth: bool = True


PANELS = (
    Panel(
        "Training signal",
        {
            "valid-advantage ratio": "groups/valid_advantage_ratio",
            "reward density": "groups/reward_density",
            "solved ratio": "groups/solved_ratio",
        },
        share=True,
    ),
    Panel(
        "Completion length, tokens",
        {"mean": "env_runners/completion_length_mean", "longest": "env_runners/completion_length_max"},
    ),
    Panel("Cut off", {"truncated rate": "env_runners/truncated_rate"}, share=True),
    Panel("Entropy of a trained token", {"entropy": f"{LEARNER}/entropy"}),
    Panel("KL to the reference", {"KL": f"{LEARNER}/kl"}),
    Panel(
        "Clipped tokens",
        {
            "lower bound": f"{LEARNER}/clip_fraction_low",
            "upper bound": f"{LEARNER}/clip_fraction_high",
            "dual bound": f"{LEARNER}/clip_fraction_dual",
        },
    ),
    Panel("Gradient norm", {"before clipping": f"{LEARNER}/grad_norm"}),
    Panel("Learning rate", {"learning rate": f"{LEARNER}/lr"}, smooth=False),
    Panel(
        "Sampler and trainer apart", {"mean": f"{LEARNER}/sampler_gap_mean", "largest": f"{LEARNER}/sampler_gap_max"}
    ),
    Panel("Sampled tokens a second", {"tokens a second": "tokens_per_second"}),
)


def draw_panels(run: Run) -> list[tuple[str, str]]:
    """(caption, SVG as base64) of every panel that the run has figures for; curves that are 0 throughout are left out."""
    use_style()
    parts = sorted({name for row in run.rows for name in row.get("env_runners", {}).get("reward_parts", {})})
    rewards = Panel(
        "Rewards", {"reward": "env_runners/reward_mean"} | {n: f"env_runners/reward_parts/{n}" for n in parts}
    )
    drawn = [_accuracy(run), *(_panel(run, panel) for panel in (rewards, *PANELS))]
    return [picture for picture in drawn if picture]


def _accuracy(run: Run) -> tuple[str, str] | None:
    greedy, sampled = _greedy(run), _points(run.rows, "env_runners/accuracy")
    if not greedy and not sampled:
        return None
    figure, axes = new_figure("Accuracy")
    if greedy:
        axes.plot(*zip(*greedy, strict=True), color=COLORS[0], marker="o", markersize=4, label="greedy, test questions")
    if sampled:
        _smooth_line(axes, sampled, COLORS[1], "sampled, training questions")
    axes.set_ylim(-0.02, 1.02)
    return _finish(figure, axes, "Accuracy")


def _greedy(run: Run) -> list[tuple[int, float]]:
    points = {0: run.before["evaluation"]["accuracy"]} if run.before else {}
    points |= dict(_points(run.rows, "evaluation/accuracy"))
    if run.summary:
        points[len(run.rows)] = run.summary["accuracy_after"]
    return sorted(points.items())


def _panel(run: Run, panel: Panel) -> tuple[str, str] | None:
    curves = {label: _points(run.rows, metric) for label, metric in panel.metrics.items()}
    curves = {label: points for label, points in curves.items() if any(y != 0 for _, y in points)}
    if not curves:
        return None
    figure, axes = new_figure(panel.title)
    for (label, points), color in zip(curves.items(), COLORS, strict=False):
        _smooth_line(axes, points, color, label, SMOOTHED if panel.smooth else 1)
    if panel.share:
        axes.set_ylim(-0.02, 1.02)
    elif all(y >= 0 for points in curves.values() for _, y in points):
        axes.set_ylim(bottom=0)
    return _finish(figure, axes, panel.title)


def _points(rows: Sequence[Mapping[str, Any]], metric: str) -> list[tuple[int, float]]:
    return [(row["training_iteration"], value) for row in rows if (value := value_of(row, metric)) is not None]


def _smooth_line(axes: Any, points: Sequence[tuple[int, float]], color: str, label: str, width: int = SMOOTHED) -> None:
    x, y = zip(*points, strict=True)
    axes.plot(x, y, color=color, alpha=0.25, linewidth=0.8)
    axes.plot(x, smoothed(list(y), width), color=color, linewidth=1.7, label=label)


def _finish(figure: Any, axes: Any, title: str) -> tuple[str, str]:
    import matplotlib.pyplot as plt

    axes.set_xlabel("iteration")
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2, frameon=False, fontsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return title, base64.b64encode(stream.getvalue()).decode("ascii")
