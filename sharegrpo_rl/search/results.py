"""What a person sees while a search goes on: trials running and over, the best so far; a bar on a terminal, else lines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from sharegrpo_rl.config.metrics import value_of
from sharegrpo_rl.config.search import LISTS, SearchKey, with_values
from sharegrpo_rl.files import as_json, remove, storage_errors, write_atomically
from sharegrpo_rl.runs.display import clock, say
from sharegrpo_rl.runs.folder import RunFolder, versions
from sharegrpo_rl.runs.journal import ResultLog
from sharegrpo_rl.search.file import SearchSpec
from sharegrpo_rl.search.journal import BEST, FAILED, PLOTS, RESULTS, Journal, SearchFolder, TrialRecord

if TYPE_CHECKING:
    from sharegrpo_rl.search.scheduler import JournaledScheduler

# ---- A search in two pictures: each trial's way through the search space, and its course over the iterations.

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


def short_values(values: Mapping[str, Any]) -> str:
    """`clip_high 0.28, kl_coeff 0.01`."""
    return ", ".join(f"{key.removeprefix('config.')} {short(value)}" for key, value in values.items())


def short(value: Any) -> str:
    """A number in at most four digits, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def best_trial(journal: Journal, mode: str) -> TrialRecord | None:
    """The trial with the best last score, of those that came to their end where some did; the earlier one of equals."""
    scored = [trial for trial in journal.trials.values() if trial.score is not None]
    candidates = [trial for trial in scored if trial.iterations >= journal.planned] or scored
    sign = 1 if mode == "max" else -1
    return max(candidates, key=lambda trial: sign * (trial.score or 0.0), default=None)


class SearchDisplay:
    """Reports starts, ends and failures of trials, and on a terminal every iteration."""

    def __init__(self, console: Console, journal: Journal, spec: SearchSpec) -> None:
        self.console, self.journal, self.spec = console, journal, spec
        self.running: set[str] = set()
        self._told: set[str] = {name for name, record in journal.trials.items() if record.is_over}
        self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            total = spec.trials * spec.base.iterations
            self._bar = Progress(BarColumn(bar_width=24), TextColumn("{task.fields[text]}"), console=console)
            self._task = self._bar.add_task("search", total=total, text="")
            self._bar.start()

    def line(self, text: str) -> None:
        """A plain line, above the bar where there is one."""
        say(self.console, text)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def state(self) -> str:
        """`2 running, 3 of 8 over, best evaluation/accuracy 0.612 in 0003`."""
        over = sum(record.is_over for record in self.journal.trials.values())
        best = best_trial(self.journal, self.spec.options["mode"])
        found = "" if best is None else f", best {self.spec.options['metric']} {short(best.score)} in {best.name}"
        return f"{len(self.running)} running, {over} of {self.spec.trials} over{found}"

    def started(self, name: str) -> None:
        record = self.journal.trials[name]
        again = f", goes on after iteration {record.iterations}" if record.iterations else ""
        if name not in self._told:
            self._told.add(name)
            self.line(f"trial {name} starts{again}: {short_values(record.values)}")
        self.running.add(name)
        self._refresh()

    def reported(self, name: str) -> None:
        self.running.add(name)
        record = self.journal.trials[name]
        if self._bar is None and time.monotonic() - self._last_line >= 10:
            self._last_line = time.monotonic()
            figure = "" if record.score is None else f", {self.spec.options['metric']} {short(record.score)}"
            self.line(f"trial {name} {record.iterations}/{self.journal.planned}{figure}; {self.state()}")
        self._refresh()

    def ended(self, name: str, seconds: float) -> None:
        self.running.discard(name)
        record = self.journal.trials[name]
        if record.is_over:
            self._last_line = time.monotonic()
            why = f" ({record.error})" if record.status == FAILED else ""
            figure = "no result" if record.score is None else f"{self.spec.options['metric']} {short(record.score)}"
            text = f"trial {name} {record.status} after iteration {record.iterations}: {figure}{why}"
            self.line(f"{text}; {self.state()}; {clock(seconds)}")
        self._refresh()

    def changed(self) -> None:
        """A round of pbt: who took over from whom."""
        last = self.journal.rounds[-1]
        for name, change in last["changes"].items():
            self.line(
                f"trial {name} goes on from {change['donor']} at iteration {last['iteration']}: "
                f"{short_values(change['values'])}"
            )

    def failed(self, name: str, error: str) -> None:
        self.running.discard(name)
        self.line(f"trial {name} failed ({error}) and starts again from its checkpoint")

    def _refresh(self) -> None:
        if self._bar is not None:
            records = self.journal.trials.values()
            done = sum(self.journal.planned if r.is_over else r.iterations for r in records)
            self._bar.update(self._task, completed=done, text=self.state())

    def callback(self, scheduler: JournaledScheduler, seconds: Callable[[], float]) -> Any:
        """This display as a callback of Tune's."""
        from ray.tune import Callback

        display = self

        class Report(Callback):
            rounds = len(display.journal.rounds)

            def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
                display.started(trial.trial_id)

            def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
                if len(display.journal.rounds) > self.rounds:
                    self.rounds = len(display.journal.rounds)
                    display.changed()
                display.reported(trial.trial_id)

            def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
                display.ended(trial.trial_id, seconds())

            def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
                display.ended(trial.trial_id, seconds())

            def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
                error = scheduler.why(trial.trial_id)
                scheduler.journal.append(
                    {"event": "failure", "trial": trial.trial_id, "error": error, "seconds": seconds()}
                )
                display.failed(trial.trial_id, error)

        return Report()


# ---- What a search leaves: `search.json`, `best.yaml`, a table, two plots.

ALL_TRIALS, BUDGET, INTERRUPTED = "all trials", "budget", "interrupted"  # why a search ended


def write_results(
    spec: SearchSpec, seed: int, folder: SearchFolder, journal: Journal, ended: str, console: Console
) -> None:
    """Write everything that a search leaves, and print its table. search.json comes last: it says that all is there."""
    best = best_trial(journal, spec.options["mode"])
    results = search_results(spec, seed, folder, journal, ended, best)
    best_file = folder.path / BEST
    with storage_errors(best_file):
        if best is None:
            best_file.unlink(missing_ok=True)
        else:
            write_atomically(best_file, best_text(spec, seed, best))
        curves = {name: ResultLog(folder.path / "trials" / name / "result.json").rows for name in journal.trials}
        draw_curves(folder.path, results, curves)
        draw_parallel(folder.path, results, spec.space)
    folder.write_json(RESULTS, results)
    console.print(results_table(results))
    _tell(console, folder, results)


def search_results(
    spec: SearchSpec, seed: int, folder: SearchFolder, journal: Journal, ended: str, best: TrialRecord | None
) -> dict[str, Any]:
    """The content of search.json."""
    trials = [_entry(folder, record) for record in journal.trials.values()]
    results = {
        "name": spec.base.name,
        "run": spec.base.run,
        "env": spec.base.env,
        "metric": spec.options["metric"],
        "mode": spec.options["mode"],
        "seed": seed,
        "ended": ended,
        "trials": trials,
        "best": next((dict(entry) for entry in trials if best is not None and entry["name"] == best.name), None),
        "space": {_short_key(key.key): {key.word: list(key.arguments)} for key in spec.space},
        "tune": spec.options,
        "iterations_of_a_trial": spec.base.iterations,
        "seconds": journal.seconds,
        "completions": journal.completions,
        "versions": versions(),
    }
    return as_json(results)


def _entry(folder: SearchFolder, record: TrialRecord) -> dict[str, Any]:
    path = folder.path / "trials" / record.name
    saved = RunFolder(path).checkpoint_paths()
    return {
        "name": record.name,
        "config": {_short_key(key): value for key, value in record.values.items()},
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


def _short_key(key: str) -> str:
    return key.removeprefix("config.")


def best_text(spec: SearchSpec, seed: int, best: TrialRecord) -> str:
    """A run file with the best trial's values in place of the search space; `train` takes it as it is."""
    values = {key.path: best.values[key.key] for key in spec.space}
    tree = with_values({part: value for part, value in spec.tree.items() if part != "tune"}, values)
    comment = (
        f"# {spec.options['metric']} {short(best.score)} after {best.iterations} iterations in trial {best.name}, "
        f"seed {seed}\n"
    )
    if best.adopted:
        comment += "# pbt changed its values on the way; these are the last ones\n"
    return comment + yaml.safe_dump({f"{spec.base.name}-best": tree}, sort_keys=False, allow_unicode=True, width=120)


def ranked(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Trials from best to worst; longer ones first, as figures of other iterations compare badly."""
    sign = -1 if results["mode"] == "max" else 1
    worst = float("inf")
    return sorted(
        results["trials"],
        key=lambda t: (-t["iterations"], worst if t["metric"] is None else sign * t["metric"], t["name"]),
    )


def results_table(results: Mapping[str, Any]) -> Table:
    """A line for each trial, the best one on top."""
    title = f"{results['name']}: {len(results['trials'])} trials in {clock(results['seconds'])}, seed {results['seed']}"
    table = Table(title=title, title_justify="left")
    table.add_column("trial")
    for key in results["space"]:
        table.add_column(key, justify="right")
    for heading in ("status", "iterations", results["metric"]):
        table.add_column(heading, justify="left" if heading == "status" else "right")
    best = (results["best"] or {}).get("name")
    for trial in ranked(results):
        values = [short(trial["config"][key]) for key in results["space"]]
        figure = "-" if trial["metric"] is None else f"{trial['metric']:.4g}"
        style = "bold" if trial["name"] == best else None
        table.add_row(trial["name"], *values, trial["status"], str(trial["iterations"]), figure, style=style)
    return table


def _tell(console: Console, folder: SearchFolder, results: Mapping[str, Any]) -> None:
    path = folder.path
    lines = [f"everything is in {path}: {RESULTS}, {', '.join(sorted(p.name for p in path.glob('*.png')))}"]
    if results["best"]:
        best = results["best"]
        lines[0] += f", {BEST}. Next:"
        lines.append(f"  sharegrpo-rl train {path / BEST} --seed {results['seed']}")
        if best["checkpoint"]:
            lines.append(f"  sharegrpo-rl evaluate {path / best['checkpoint']} --blind")
    for line in lines:
        say(console, line)
