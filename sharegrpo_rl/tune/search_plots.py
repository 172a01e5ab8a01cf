"""A search in two pictures: each trial's way through the search space, and its course over the iterations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sharegrpo_rl.tune.metric_names import value_of
from sharegrpo_rl.tune.run_folder import remove
from sharegrpo_rl.tune.search_folder import PLOTS
from sharegrpo_rl.tune.search_space import LISTS, SearchKey

MAX_LABELLED = 12  # lines with a name in the legend


def draw_curves(folder: Path, results: Mapping[str, Any], rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """`learning_curves.png`: the metric of each trial by iteration; the best one thick. None where nothing is known."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for name, lines in rows.items():
        values = [(r["training_iteration"], value_of(r, results["metric"])) for r in lines]
        if points := [(x, y) for x, y in values if y is not None]:
            curves[name] = points
    target = folder / PLOTS[1]
    if not curves:
        remove(target)
        return
    figure, axes = _figure(8.0)
    best = (results["best"] or {}).get("name")
    for place, (name, known) in enumerate(curves.items()):
        xs, ys = zip(*known, strict=True)
        width, over = (3.0, 3) if name == best else (1.2, 2)
        label = f"{name} (best)" if name == best else name if place < MAX_LABELLED else None
        marker = "o" if len(known) < 25 else None
        axes.plot(xs, ys, linewidth=width, zorder=over, label=label, marker=marker, markersize=3)
    axes.set_xlabel("iteration")
    axes.set_ylabel(results["metric"])
    axes.grid(alpha=0.3)
    axes.legend(title="trial", fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    _save(figure, target)


def draw_parallel(folder: Path, results: Mapping[str, Any], space: Sequence[SearchKey]) -> None:
    """`parallel_coordinates.png`: an axis for each searched key, the metric on the last one, a line for each trial."""
    trials = [trial for trial in results["trials"] if trial["metric"] is not None]
    target = folder / PLOTS[0]
    if not trials:
        remove(target)
        return
    scores = [trial["metric"] for trial in trials]
    low, high = min(scores), max(scores)
    figure, axes = _figure(2.2 * (len(space) + 1) + 1)
    from matplotlib import colormaps

    colors = colormaps["viridis" if results["mode"] == "max" else "viridis_r"]
    for trial in sorted(trials, key=lambda t: t["metric"], reverse=results["mode"] == "min"):
        heights = [_place(key, trial["config"][key.key.removeprefix("config.")]) for key in space]
        score = _share(trial["metric"], low, high)
        is_best = results["best"] is not None and trial["name"] == results["best"]["name"]
        style = "-" if trial["status"] == "finished" else "--"
        axes.plot(
            range(len(space) + 1), [*heights, score], style, color=colors(score), linewidth=3.0 if is_best else 1.4
        )
    for x, key in enumerate(space):
        _axis(axes, x, [(_place(key, value), _label(value)) for value in _ticks(key)])
    _axis(axes, len(space), [(_share(s, low, high), f"{s:.3g}") for s in sorted({low, high})])
    axes.set_xticks(range(len(space) + 1), [*(key.key.removeprefix("config.") for key in space), results["metric"]])
    axes.set_xlim(-0.3, len(space) + 0.45)
    axes.set_ylim(-0.05, 1.05)
    axes.set_yticks([])
    for side in ("top", "left", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.set_title("dashed: not run to the end; thick: best", fontsize=8, loc="left")
    _save(figure, target)


def _axis(axes: Any, x: int, ticks: Sequence[tuple[float, str]]) -> None:
    axes.axvline(x, color="0.5", linewidth=0.8, zorder=0)
    for height, text in ticks:
        axes.text(x + 0.03, height, text, fontsize=7, va="center", backgroundcolor="#ffffffb0", zorder=4)


def _ticks(key: SearchKey) -> Sequence[Any]:
    return key.arguments if key.word in LISTS else key.arguments[:2]


def _label(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)[:24]


def _place(key: SearchKey, value: Any) -> float:
    """Height 0..1 of a value on its axis: by place in a list, by size in a range, by logarithm in a loguniform one."""
    if key.word in LISTS:
        return _share(list(key.arguments).index(value), 0, len(key.arguments) - 1)
    low, high = key.arguments[:2]
    if key.word == "loguniform":
        return _share(math.log(value), math.log(low), math.log(high))
    return _share(value, low, high)


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _figure(width: float) -> tuple[Any, Any]:
    # No pyplot: it would choose a screen and keep the figure.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 4.2), dpi=120)
    return figure, figure.subplots()


def _save(figure: Any, target: Path) -> None:
    partial = target.with_name(f".{target.stem}.tmp.png")
    try:
        figure.savefig(partial, bbox_inches="tight")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
