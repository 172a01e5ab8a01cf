"""What a search leaves: `search.json`, `best.yaml`, a table, two plots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from sharegrpo_rl.tune.progress import clock, say
from sharegrpo_rl.tune.result_log import ResultLog, as_json
from sharegrpo_rl.tune.resume import versions
from sharegrpo_rl.tune.run_folder import RunFolder, storage_errors, write_atomically
from sharegrpo_rl.tune.search_file import SearchSpec
from sharegrpo_rl.tune.search_folder import BEST, RESULTS, SearchFolder
from sharegrpo_rl.tune.search_journal import Journal, TrialRecord
from sharegrpo_rl.tune.search_plots import draw_curves, draw_parallel
from sharegrpo_rl.tune.search_progress import best_trial, short
from sharegrpo_rl.tune.search_space import with_values

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
