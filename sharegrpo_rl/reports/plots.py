"""The pictures of reports: one panel each, so that they stay readable on a phone.

A comparison has PNG files over methods and seeds; the page of one run has SVG panels over its iterations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from PIL import Image

from sharegrpo_rl.reports.methods import Method, Run
from sharegrpo_rl.reports.pages import data_uri
from sharegrpo_rl.statistics.seeds import Curve, make_band, smoothed

COLORS = ("#0b6e8f", "#c8702a", "#4f7d3a", "#8a4f9e", "#a8323e", "#5c6b7a", "#a58a1f", "#2f8f83")
INK, SOFT, GRID = "#1b2330", "#5d6878", "#dfe3e9"
SMOOTHED = 8  # iterations that a figure of training is averaged over
DPI = 170
PALETTE = 256  # colors of a PNG
LEARNER = "learners/default_policy"


@dataclass(frozen=True)
class Picture:
    """A PNG next to the report: file name, and what it shows."""

    name: str
    caption: str


@dataclass(frozen=True)
class CurvePlot:
    """A picture of one figure over training, for all methods; `read` takes it from a run."""

    name: str
    title: str
    caption: str
    read: Callable[[Run], Curve | None]
    axis: str = "completions"
    share: bool = True
    marked: bool = False


AXIS_LABELS = {"completions": "completions sampled", "seconds": "seconds of training"}


def use_style() -> None:
    """Small, quiet pictures, drawn without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {
            "font.size": 9,
            "axes.edgecolor": GRID,
            "axes.labelcolor": SOFT,
            "xtick.color": SOFT,
            "ytick.color": SOFT,
            "text.color": INK,
            "axes.titleweight": "semibold",
            "axes.titlesize": 10,
        }
    )


def draw_all(methods: Sequence[Method], analysis: dict[str, Any], folder: Path) -> list[Picture]:
    """Write every picture that the runs have figures for."""
    use_style()
    folder.mkdir(parents=True, exist_ok=True)
    colors = method_colors(methods)
    pictures = [draw_final(analysis, colors, folder)]
    if analysis["comparisons"]:
        pictures.append(draw_differences(analysis, folder))
    pictures += draw_training(methods, analysis["confidence"], folder, analysis["wall_time"])
    if any(analysis["zero_gradient"].values()):
        pictures.append(draw_zero_gradient(analysis, folder))
    return pictures


def draw_training(
    methods: Sequence[Method], confidence: float, folder: Path, wall_time: dict[str, Any] | None = None
) -> list[Picture]:
    """The curves over training, of runs that are not finished too."""
    use_style()
    colors = method_colors(methods)
    drawn = [draw_curves(plot, methods, colors, confidence, wall_time, folder) for plot in curve_plots(methods)]
    return [picture for picture in drawn if picture]


def method_colors(methods: Sequence[Method]) -> dict[str, str]:
    """A color for each method; a control has its method's."""
    labels = [m.label for m in methods if m.control_of is None]
    colors = {label: COLORS[i % len(COLORS)] for i, label in enumerate(labels)}
    return colors | {m.label: colors.get(m.control_of, SOFT) for m in methods if m.control_of is not None}


def curve_plots(methods: Sequence[Method]) -> list[CurvePlot]:
    """The pictures over training, in the order of the report."""
    parts = sorted(
        {
            name
            for method in methods
            for run in method.runs
            for row in run.rows[:1]
            for name in row.get("env_runners", {}).get("reward_parts", {})
        }
    )

    def over(name: str, title: str, metric: str, caption: str, share: bool = True) -> CurvePlot:
        return CurvePlot(name, title, caption, lambda run: _smooth(run.curve(metric)), share=share)

    smooth = f"averaged over {SMOOTHED} iterations"
    return [
        CurvePlot(
            "accuracy_by_completions",
            "Greedy accuracy on the test questions",
            "By completions sampled. Line: mean over seeds; band: pointwise interval; thin lines: single seeds.",
            lambda run: run.greedy(),
            marked=True,
        ),
        CurvePlot(
            "accuracy_by_seconds",
            "Greedy accuracy by wall time",
            "By seconds of training, the warm start left out. Dotted: the smallest final time, where the table reads them.",
            lambda run: run.greedy("seconds"),
            axis="seconds",
            marked=True,
        ),
        *(
            over(
                f"reward_{part}", f"Reward part: {part}", f"env_runners/reward_parts/{part}", f"In training, {smooth}."
            )
            for part in parts
        ),
        over(
            "valid_advantage_ratio",
            "Valid-advantage ratio",
            "groups/valid_advantage_ratio",
            f"Share of questions whose completions are not all alike in accuracy, {smooth}.",
        ),
        over("reward_density", "Reward density", "groups/reward_density", f"Share of right completions, {smooth}."),
        over("kl", "KL to the reference", f"{LEARNER}/kl", f"Where the loss has a KL; {smooth}.", False),
        over("entropy", "Entropy", f"{LEARNER}/entropy", f"Of a trained token's distribution, {smooth}.", False),
        over("length", "Completion length", "env_runners/completion_length_mean", f"Tokens, {smooth}.", False),
    ]


def _smooth(curve: Curve | None) -> Curve | None:
    return curve and Curve(curve.x, smoothed(list(curve.y), SMOOTHED))


def draw_curves(
    plot: CurvePlot,
    methods: Sequence[Method],
    colors: dict[str, str],
    confidence: float,
    wall_time: dict[str, Any] | None,
    folder: Path,
) -> Picture | None:
    """Mean over seeds with a band, and each seed as a thin line; None where no run has the figure, or all are 0."""
    curves = {m.label: [c for run in m.runs if (c := plot.read(run)) and len(c.x) > 1] for m in methods}
    curves = {label: each for label, each in curves.items() if each}
    if all((c.y == 0).all() for each in curves.values() for c in each):
        return None
    figure, axes = new_figure(plot.title)
    controls = {m.label for m in methods if m.control_of is not None}
    for label, each in curves.items():
        color, style = colors[label], "--" if label in controls else "-"
        for curve in each:
            axes.plot(curve.x, curve.y, color=color, alpha=0.3, linewidth=0.7, linestyle=style)
        band = make_band(each, confidence)
        axes.plot(
            band.x,
            band.mean,
            color=color,
            linewidth=1.8,
            linestyle=style,
            marker="o" if plot.marked and len(band.x) < 40 else None,
            markersize=3.5,
            label=f"{label}, {len(each)} seed{'s' if len(each) > 1 else ''}",
        )
        if len(each) > 1:
            low, high = (np.clip(v, 0, 1) if plot.share else v for v in (band.low, band.high))
            axes.fill_between(band.x, low, high, color=color, alpha=0.13, linewidth=0)
    if plot.share:
        axes.set_ylim(-0.02, 1.02)
    if plot.axis == "seconds" and wall_time:
        axes.axvline(wall_time["seconds"], color=SOFT, linestyle=":", linewidth=1)
    axes.set_xlabel(AXIS_LABELS[plot.axis])
    return _save(figure, axes, folder, plot.name, f"{plot.title}. {plot.caption}")


def draw_final(analysis: dict[str, Any], colors: dict[str, str], folder: Path) -> Picture:
    """Each seed's final figure as a dot, the mean with its interval; blind accuracy as a hollow dot next to it."""
    entries = [m for m in analysis["methods"] if m["final"]]
    names = [_row_name(entry["label"]) for entry in reversed(entries)]
    figure, axes = _row_figure("Final accuracy", names, 0.5)
    share = analysis["metric"] != "gain"
    for row, entry in enumerate(reversed(entries)):
        color, final = colors[entry["label"]], entry["final"]
        axes.plot(final["values"], [row] * len(final["values"]), "o", color=color, alpha=0.35, markersize=5)
        if final["seeds"]:
            _interval(axes, final["seeds"], row, color, clip=share)
        if entry["blind"] and analysis["metric"] == "accuracy_after":
            axes.plot(entry["blind"]["value"], row, "o", color=color, markerfacecolor="white", markersize=6)
    axes.set_yticks(range(len(entries)), names)
    axes.set_ylim(-0.6, len(entries) - 0.4)
    if share:
        axes.set_xlim(0, 1)
    axes.set_xlabel(analysis["metric_meaning"], loc="right")
    caption = "Filled: single seeds, and their mean with its interval. Hollow: the same questions with swapped images."
    return _save(figure, axes, folder, "final", caption, legend=False)


def draw_differences(analysis: dict[str, Any], folder: Path) -> Picture:
    """Differences of all pairs with their intervals over seeds."""
    pairs = analysis["comparisons"]
    names = [f"{_row_name(p['a'])}\nminus {_row_name(p['b'])}" for p in reversed(pairs)]
    figure, axes = _row_figure("Differences between methods", names, 0.45)
    for row, pair in enumerate(reversed(pairs)):
        _interval(axes, pair["difference"], row, INK)
    axes.axvline(0, color=SOFT, linewidth=1, linestyle=":")
    axes.set_yticks(range(len(pairs)), names)
    axes.set_ylim(-0.6, len(pairs) - 0.4)
    axes.set_xlabel(f"difference in {analysis['metric_meaning']}", loc="right")
    caption = "With intervals over seeds, not corrected for the number of pairs."
    return _save(figure, axes, folder, "differences", caption, legend=False)


def _interval(axes: Any, estimate: dict[str, Any], row: int, color: str, clip: bool = False) -> None:
    axes.plot(estimate["value"], row, "D", color=color, markersize=6)
    if estimate["low"] is not None and np.isfinite(estimate["low"]):
        ends = np.clip([estimate["low"], estimate["high"]], 0, 1) if clip else [estimate["low"], estimate["high"]]
        axes.plot(ends, [row, row], color=color, linewidth=2)


def draw_zero_gradient(analysis: dict[str, Any], folder: Path) -> Picture:
    """Stacked bars by kind of question, hardest first: all wrong, all right."""
    bars = [(label, e) for label, entries in analysis["zero_gradient"].items() for e in entries]
    order = {kind: i for i, kind in enumerate(dict.fromkeys(e["kind"] for _, e in bars))}
    bars.sort(key=lambda bar: order[bar[1]["kind"]])
    names = [_row_name(f"{e['kind']}, {label}") for label, e in reversed(bars)]
    figure, axes = _row_figure("Questions without a gradient", names, 0.3)
    for row, (_, entry) in enumerate(reversed(bars)):
        axes.barh(row, entry["all_wrong"], color="#a8323e", height=0.62, label="all wrong" if row == 0 else None)
        right = {"left": entry["all_wrong"], "color": "#9fb8a4", "height": 0.62}
        axes.barh(row, entry["all_right"], **right, label="all right" if row == 0 else None)
    axes.set_yticks(range(len(bars)), names)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the groups in training", loc="right")
    caption = (
        "Share of groups that teach nothing, by kind of question; the kind that was hardest before training first."
    )
    return _save(figure, axes, folder, "zero_gradient", caption)


def _row_name(name: str) -> str:
    """A name in lines that leave room for the row beside it."""
    return fill(name, 28)


def _row_figure(title: str, names: Sequence[str], row_height: float) -> tuple[Any, Any]:
    """A figure of named rows, with its title above the names; rows are as high as the longest name needs."""
    lines = max(name.count("\n") + 1 for name in names)
    figure, axes = new_figure("", height=0.9 + len(names) * max(row_height, 0.17 * lines))
    figure.suptitle(title, x=0.02, ha="left", fontsize=10, fontweight="semibold")
    return figure, axes


def new_figure(title: str, height: float = 2.9) -> tuple[Any, Any]:
    """A figure of one panel, as wide as a column of the page."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(4.4, height), constrained_layout=True)
    axes.set_title(title, loc="left")
    axes.grid(axis="both", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0)
    return figure, axes


def _save(figure: Any, axes: Any, folder: Path, name: str, caption: str, legend: bool = True) -> Picture:
    import matplotlib.pyplot as plt

    if legend:
        handles, labels = axes.get_legend_handles_labels()
        columns = 2 if max(map(len, labels), default=0) < 28 else 1
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
    file = "".join(c if c.isalnum() or c in "-_" else "_" for c in name) + ".png"
    stream = BytesIO()
    figure.savefig(stream, dpi=DPI, format="png")
    plt.close(figure)
    # A palette: a third of the bytes, in files that the page embeds and that people commit.
    Image.open(stream).convert("RGB").quantize(PALETTE, dither=Image.Dither.NONE).save(folder / file, optimize=True)
    return Picture(file, caption)


@dataclass(frozen=True)
class Panel:
    """A picture of one run: its curves as label -> metric."""

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
        "Sampler and trainer apart", {"mean": f"{LEARNER}/logprob_diff_mean", "largest": f"{LEARNER}/logprob_diff_max"}
    ),
    Panel("Sampled tokens a second", {"tokens a second": "tokens_per_second"}),
)


def draw_panels(run: Run) -> list[dict[str, str]]:
    """`caption` and `source` (an SVG as data URI) of every panel that the run has figures for; curves of zeros are left out."""
    use_style()
    parts = sorted({name for row in run.rows for name in row.get("env_runners", {}).get("reward_parts", {})})
    rewards = Panel(
        "Rewards", {"reward": "env_runners/reward_mean"} | {n: f"env_runners/reward_parts/{n}" for n in parts}
    )
    panels = [_draw_accuracy(run), *(_draw_panel(run, panel) for panel in (rewards, *PANELS))]
    return [panel for panel in panels if panel]


def _draw_accuracy(run: Run) -> dict[str, str] | None:
    greedy, sampled = run.greedy("iterations"), run.curve("env_runners/accuracy", "iterations")
    if greedy is None and sampled is None:
        return None
    figure, axes = new_figure("Accuracy")
    if greedy:
        axes.plot(greedy.x, greedy.y, color=COLORS[0], marker="o", markersize=4, label="greedy, test questions")
    if sampled:
        _draw_smoothed(axes, sampled, COLORS[1], "sampled, training questions")
    axes.set_ylim(-0.02, 1.02)
    return _as_svg(figure, axes, "Accuracy")


def _draw_panel(run: Run, panel: Panel) -> dict[str, str] | None:
    curves = {label: run.curve(metric, "iterations") for label, metric in panel.metrics.items()}
    shown = {label: curve for label, curve in curves.items() if curve and (curve.y != 0).any()}
    if not shown:
        return None
    figure, axes = new_figure(panel.title)
    for (label, curve), color in zip(shown.items(), COLORS, strict=False):
        _draw_smoothed(axes, curve, color, label, SMOOTHED if panel.smooth else 1)
    if panel.share:
        axes.set_ylim(-0.02, 1.02)
    elif all((curve.y >= 0).all() for curve in shown.values()):
        axes.set_ylim(bottom=0)
    return _as_svg(figure, axes, panel.title)


def _draw_smoothed(axes: Any, curve: Curve, color: str, label: str, width: int = SMOOTHED) -> None:
    axes.plot(curve.x, curve.y, color=color, alpha=0.25, linewidth=0.8)
    axes.plot(curve.x, smoothed(list(curve.y), width), color=color, linewidth=1.7, label=label)


def _as_svg(figure: Any, axes: Any, title: str) -> dict[str, str]:
    import matplotlib.pyplot as plt

    axes.set_xlabel("iteration")
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2, frameon=False, fontsize=8)
    stream = BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return {"caption": title, "source": data_uri(stream.getvalue(), "svg+xml")}
