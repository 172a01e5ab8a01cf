"""What a search leaves: `search.json`, `best.yaml`, a table, and two plots."""

from __future__ import annotations

import io
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.table import Table

from sharegrpo_rl.config.metrics import value_of
from sharegrpo_rl.config.search import LISTS, SearchKey, with_values
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.files import as_json, remove, storage_errors, write_atomically
from sharegrpo_rl.runs.display import say
from sharegrpo_rl.runs.folder import RunFolder, versions
from sharegrpo_rl.runs.journal import ResultLog
from sharegrpo_rl.search.file import SearchSpec, read_search_tree
from sharegrpo_rl.search.journal import (
    BEST,
    CURVES_PLOT,
    EVENTS,
    PARALLEL_PLOT,
    PARAMS,
    RESULTS,
    UNFINISHED,
    Journal,
    SearchFolder,
    TrialRecord,
)
from sharegrpo_rl.statistics.formatting import clock, number, short

if TYPE_CHECKING:  # of an extra; `check_packages` comes first
    from matplotlib.figure import Figure

MAX_LABELLED = 12  # curves with a name in the legend


def write_results(
    spec: SearchSpec, seed: int, folder: SearchFolder, journal: Journal, ended: str, console: Console
) -> None:
    """Write everything that a search leaves, and print its table. search.json comes last: it marks the output as complete."""
    best = best_trial(journal, spec.options["mode"])
    results = _search_results(spec, seed, folder, journal, ended, best)
    path = folder.path
    with storage_errors(path / BEST):
        if best is None:
            remove(path / BEST)
        else:
            write_atomically(path / BEST, _best_file(spec, seed, best))
        plots = _plots(spec, folder, results)
        for name, image in plots.items():
            if image is None:
                remove(path / name)
            else:
                write_atomically(path / name, image)
    folder.write_json(RESULTS, results)
    console.print(_table(results))
    text = f"everything is in {path}: {RESULTS}, {', '.join(sorted(name for name in plots if plots[name] is not None))}"
    if not results["best"]:
        say(console, text)
        return
    say(console, f"{text}, {BEST}. Next:")
    say(console, f"  {shlex.join(['sharegrpo-rl', 'train', str(path / BEST), '--seed', str(seed)])}")
    if checkpoint := results["best"]["checkpoint"]:
        say(console, f"  {shlex.join(['sharegrpo-rl', 'evaluate', str(path / checkpoint), '--blind'])}")


def read_search(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What a search has so far, finished or not: what search.json will hold, and the plots as PNG by file name.

    Trials come in the order of the table; `planned_trials` is how many there will be. Writes nothing. UserError where
    there is no search, or its files are damaged.
    """
    folder = SearchFolder(path)
    if (params := folder.read_json(PARAMS)) is None:
        raise UserError(f"{path}: no search (there is no {PARAMS}); name the folder of a search")
    written = folder.read_json(RESULTS)
    config = {key: value for key, value in params["config"].items() if key != "tune"}
    tree = {key: params[key] for key in ("run", "env", "stop")} | {"config": config, "tune": params["config"]["tune"]}
    spec = read_search_tree(params["name"], tree)
    journal = Journal(path / EVENTS, spec.base.iterations)
    ended = written["ended"] if written else UNFINISHED
    best = best_trial(journal, spec.options["mode"])
    results = _search_results(spec, params["seed"], folder, journal, ended, best)
    plots = {name: image for name, image in _plots(spec, folder, results).items() if image is not None}
    return results | {"planned_trials": spec.trials, "trials": _ranked(results)}, plots


def _plots(spec: SearchSpec, folder: SearchFolder, results: Mapping[str, Any]) -> dict[str, bytes | None]:
    """Both plots as PNG by file name; None where nothing was measured."""
    names = [trial["name"] for trial in results["trials"]]
    rows = {name: ResultLog(folder.path / "trials" / name / "result.json").rows for name in names}
    figures = {CURVES_PLOT: _curves(results, rows), PARALLEL_PLOT: _parallel_coordinates(results, spec.space)}
    return {name: _as_png(figure) if figure else None for name, figure in figures.items()}


def _as_png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", bbox_inches="tight")
    return stream.getvalue()


def best_trial(journal: Journal, mode: str) -> TrialRecord | None:
    """The trial with the best last score, of those that ran to their end where some did; the earlier one of equals."""
    scored = [trial for trial in journal.trials.values() if trial.score is not None]
    candidates = [trial for trial in scored if trial.iterations >= journal.planned] or scored
    sign = 1 if mode == "max" else -1
    return max(candidates, key=lambda trial: sign * (trial.score or 0.0), default=None)


def _search_results(
    spec: SearchSpec, seed: int, folder: SearchFolder, journal: Journal, ended: str, best: TrialRecord | None
) -> dict[str, Any]:
    """The content of search.json."""
    trials = [_trial_entry(folder, record) for record in journal.trials.values()]
    results: dict[str, Any] = as_json(
        {
            "name": spec.base.name,
            "run": spec.base.run,
            "env": spec.base.env,
            "metric": spec.options["metric"],
            "mode": spec.options["mode"],
            "seed": seed,
            "ended": ended,
            "trials": trials,
            "best": next((dict(entry) for entry in trials if best is not None and entry["name"] == best.name), None),
            "space": {key.key.removeprefix("config."): {key.word: list(key.arguments)} for key in spec.space},
            "tune": spec.options,
            "iterations_of_a_trial": spec.base.iterations,
            "seconds": journal.seconds,
            "completions": journal.completions,
            "versions": versions(),
        }
    )
    return results


def _trial_entry(folder: SearchFolder, record: TrialRecord) -> dict[str, Any]:
    saved = RunFolder(folder.path / "trials" / record.name).checkpoint_paths()
    return {
        "name": record.name,
        "config": {key.removeprefix("config."): value for key, value in record.values.items()},
        "status": record.status,
        "metric": record.score,
        "iterations": record.iterations,
        "completions": record.completions,
        "failures": record.failures,
        "error": record.error,
        "adopted": record.adopted,
        "folder": f"trials/{record.name}",
        "checkpoint": str(saved[-1].relative_to(folder.path)) if saved else None,
    }


def _best_file(spec: SearchSpec, seed: int, best: TrialRecord) -> str:
    """A run file with the best trial's values in place of the search space, ready for `train`."""
    tree = with_values(spec.tree, {key.path: best.values[key.key] for key in spec.space})
    comment = (
        f"# {spec.options['metric']} {short(best.score)} after {best.iterations} iterations in trial {best.name}, "
        f"seed {seed}\n"
    )
    if best.adopted:
        comment += "# pbt changed its values on the way; these are the last ones\n"
    return comment + yaml.safe_dump({f"{spec.base.name}-best": tree}, sort_keys=False, allow_unicode=True, width=120)


def _table(results: Mapping[str, Any]) -> Table:
    """A line for each trial."""
    title = f"{results['name']}: {len(results['trials'])} trials in {clock(results['seconds'])}, seed {results['seed']}"
    table = Table(title=title, title_justify="left")
    table.add_column("trial")
    for key in results["space"]:
        table.add_column(key, justify="right")
    for heading in ("status", "iterations", results["metric"]):
        table.add_column(heading, justify="left" if heading == "status" else "right")
    for trial in _ranked(results):
        values = [short(trial["config"][key]) for key in results["space"]]
        score = number(trial["metric"], ".4g")
        style = "bold" if _is_best(trial["name"], results) else None
        table.add_row(trial["name"], *values, trial["status"], str(trial["iterations"]), score, style=style)
    return table


def _ranked(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The trials, longer ones first, as scores of other iterations compare badly, then from best to worst."""

    def rank(trial: Mapping[str, Any]) -> tuple[int, float, str]:
        score = math.inf if trial["metric"] is None else trial["metric"] * (-1 if results["mode"] == "max" else 1)
        return -trial["iterations"], score, trial["name"]

    return sorted(results["trials"], key=rank)


def _is_best(name: str, results: Mapping[str, Any]) -> bool:
    return results["best"] is not None and name == results["best"]["name"]


def _curves(results: Mapping[str, Any], rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure | None:
    """The metric of each trial by iteration, the best one thick; None where nothing was measured."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for name, lines in rows.items():
        values = [(row["training_iteration"], value_of(row, results["metric"])) for row in lines]
        if points := [(x, y) for x, y in values if y is not None]:
            curves[name] = points
    if not curves:
        return None
    figure, axes = _figure(8.0)
    for index, (name, points) in enumerate(curves.items()):
        xs, ys = zip(*points, strict=True)
        is_best = _is_best(name, results)
        label = f"{name} (best)" if is_best else name if index < MAX_LABELLED else None
        width, zorder = (3.0, 3) if is_best else (1.2, 2)
        marker = "o" if len(points) < 25 else None
        axes.plot(xs, ys, linewidth=width, zorder=zorder, label=label, marker=marker, markersize=3)
    axes.set_xlabel("iteration")
    axes.set_ylabel(results["metric"])
    axes.grid(alpha=0.3)
    axes.legend(title="trial", fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _parallel_coordinates(results: Mapping[str, Any], space: Sequence[SearchKey]) -> Figure | None:
    """An axis for each searched key, the metric on the last one, a line for each trial; None without a measured one."""
    trials = [trial for trial in results["trials"] if trial["metric"] is not None]
    if not trials:
        return None
    from matplotlib import colormaps

    scores = [trial["metric"] for trial in trials]
    low, high = min(scores), max(scores)
    names = [key.key.removeprefix("config.") for key in space]
    figure, axes = _figure(2.2 * (len(space) + 1) + 1)
    colors = colormaps["viridis" if results["mode"] == "max" else "viridis_r"]
    for trial in sorted(trials, key=lambda t: t["metric"], reverse=results["mode"] == "min"):
        heights = [_height(key, trial["config"][name]) for key, name in zip(space, names, strict=True)]
        score = _share(trial["metric"], low, high)
        style = "-" if trial["status"] == "finished" else "--"
        width = 3.0 if _is_best(trial["name"], results) else 1.4
        axes.plot(range(len(space) + 1), [*heights, score], style, color=colors(score), linewidth=width)
    ticks = [
        [
            (_height(key, value), _tick_label(value))
            for value in (key.arguments if key.word in LISTS else key.arguments[:2])
        ]
        for key in space
    ]
    ticks.append([(_share(score, low, high), number(score, ".3g")) for score in sorted({low, high})])
    for x, labels in enumerate(ticks):
        axes.axvline(x, color="0.5", linewidth=0.8, zorder=0)
        for height, text in labels:
            axes.text(x + 0.03, height, text, fontsize=7, va="center", backgroundcolor="#ffffffb0", zorder=4)
    axes.set_xticks(range(len(space) + 1), [*names, results["metric"]])
    axes.set_xlim(-0.3, len(space) + 0.45)
    axes.set_ylim(-0.05, 1.05)
    axes.set_yticks([])
    for side in ("top", "left", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.set_title("dashed: not run to the end; thick: best", fontsize=8, loc="left")
    return figure


def _figure(width: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure  # not pyplot, which would choose a screen and keep the figure

    figure = Figure(figsize=(width, 4.2), dpi=120)
    return figure, figure.subplots()


def _tick_label(value: Any) -> str:
    return short(value, 3)[:24]


def _height(key: SearchKey, value: Any) -> float:
    """Height 0..1 of a value on its axis: by index in a list, by size in a range, by logarithm in a loguniform one."""
    if key.word in LISTS:
        return _share(list(key.arguments).index(value), 0, len(key.arguments) - 1)
    low, high = key.arguments[:2]
    if key.word == "loguniform":
        return _share(math.log(value), math.log(low), math.log(high))
    return _share(value, low, high)


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5
