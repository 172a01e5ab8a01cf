"""`reproduce`: a paper's table, its rows run here where they fit, and our figures in columns of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.reports.children import PROGRAM, Job, run_jobs, training_job
from sharegrpo_rl.reports.machine_fit import training_bytes
from sharegrpo_rl.reports.paper_rows import FOLDER, PaperTable, Recipe, Row, find_table, read_tables
from sharegrpo_rl.reports.reproduce_text import index_text, plan_text, result_text
from sharegrpo_rl.tune.examples import find_run_file
from sharegrpo_rl.tune.memory import machine_memory
from sharegrpo_rl.tune.progress import say
from sharegrpo_rl.tune.run_file import load_run
from sharegrpo_rl.tune.run_folder import RunFolder, storage_errors, write_atomically

RUNS, EVALUATIONS = "runs", "evaluations"


@dataclass(frozen=True)
class ReproduceOptions:
    """What the command line gives; `benchmarks` are NAME=PATH."""

    table: str | None = None
    tiny: bool = False
    list_only: bool = False
    rows: Sequence[int] = ()
    seeds: int = 1
    sets: Sequence[str] = ()
    benchmarks: Sequence[str] = ()
    base: Path | None = None
    out: Path = Path("reproduced")
    jobs: int = 1
    program: tuple[str, ...] = PROGRAM
    tables: Path = FOLDER
    memory: Callable[[], float] = machine_memory


@dataclass(frozen=True)
class PlannedRow:
    """A row with what becomes of it here. `obstacle` says why it is not run; both None = there is nothing to run."""

    number: int
    row: Row
    recipe: Recipe | None = None
    obstacle: str | None = None

    @property
    def runs(self) -> bool:
        return self.recipe is not None and self.obstacle is None


def reproduce(options: ReproduceOptions, console: Console) -> int:
    """The exit code: 0, 1 where a run failed, 130 or 143 where a signal stopped it."""
    tables = read_tables(options.tables)
    if options.table is None:
        say(console, index_text(tables))
        return 0
    table = find_table(options.table, tables)
    benchmarks = [_benchmark(text, options) for text in options.benchmarks]
    planned = plan_rows(table, options)
    say(console, plan_text(table, planned, options.tiny))
    if options.list_only:
        return 0
    if not any(p.runs for p in planned) and not (options.base and benchmarks):
        twins = any(row.tiny for row in table.rows) and not options.tiny
        hint = f"; `sharegrpo-rl reproduce {table.name} --tiny` trains tiny twins of them" if twins else ""
        say(console, f"No row was run: none fits this machine{hint}.")
        return 0
    return _run(table, planned, benchmarks, options, console)


def plan_rows(table: PaperTable, options: ReproduceOptions) -> list[PlannedRow]:
    """Every row with its recipe, and what stands against running it; wrong settings are UserErrors here."""
    if unknown := [n for n in options.rows if not 1 <= n <= len(table.rows)]:
        raise UserError(f"--row: {table.name} has rows 1 to {len(table.rows)}, not {unknown[0]}")
    planned = []
    for number, row in enumerate(table.rows, start=1):
        recipe = row.tiny if options.tiny else row.full
        if recipe is None:
            planned.append(PlannedRow(number, row))
            continue
        spec = load_run(find_run_file(recipe.file), [*recipe.sets, *options.sets])
        needs, there = training_bytes(spec.config), options.memory()
        obstacle = None
        if options.rows and number not in options.rows:
            obstacle = "not asked for"
        elif needs is not None and needs > there:
            obstacle = f"needs about {needs / 1e9:,.0f} GB, {there / 1e9:,.0f} GB are here"
        planned.append(PlannedRow(number, row, recipe, obstacle))
    return planned


def _run(
    table: PaperTable,
    planned: Sequence[PlannedRow],
    benchmarks: Sequence[tuple[str, str]],
    options: ReproduceOptions,
    console: Console,
) -> int:
    wanted = [(p, seed) for p in planned if p.runs for seed in range(options.seeds)]
    with storage_errors(options.out):
        (options.out / RUNS).mkdir(parents=True, exist_ok=True)
    left = [_training(table, p, s, options) for p, s in wanted if not run_folder(table, p, s, options).is_finished]
    outcome = run_jobs(left, options.jobs, lambda line: say(console, line))
    failures, code = dict(outcome.failures), outcome.code
    if code is None and benchmarks:
        evaluations = _evaluations(table, planned, benchmarks, options)
        outcome = run_jobs(evaluations, options.jobs, lambda line: say(console, line))
        failures, code = failures | outcome.failures, outcome.code
    results = _results(table, planned, benchmarks, options)
    text = result_text(table, planned, results, options, failures)
    target = options.out / f"{table.name.replace('/', '-')}{'-tiny' if options.tiny else ''}"
    with storage_errors(options.out):
        write_atomically(target.with_suffix(".md"), text + "\n")
        write_atomically(target.with_suffix(".json"), json.dumps(results, indent=2) + "\n")
    say(console, f"{text}\n\nwrote {target.with_suffix('.md')} and .json")
    return code or (1 if failures else 0)


# ---- what is run


def run_folder(table: PaperTable, planned: PlannedRow, seed: int, options: ReproduceOptions) -> RunFolder:
    """Where a row's run of a seed lies; tiny twins beside the full rows."""
    kind = "-tiny" if options.tiny else ""
    return RunFolder(options.out / RUNS / f"{table.name.replace('/', '-')}-{planned.row.slug}{kind}-{seed}")


def _training(table: PaperTable, planned: PlannedRow, seed: int, options: ReproduceOptions) -> Job:
    assert planned.recipe is not None
    file, folder = find_run_file(planned.recipe.file), run_folder(table, planned, seed, options).path
    sets = (*planned.recipe.sets, *options.sets)
    return training_job(file, folder, seed, sets, options.out / "logs", program=options.program)


def _models(table: PaperTable, planned: Sequence[PlannedRow], options: ReproduceOptions) -> list[tuple[int, str, Path]]:
    """(row number, name, folder) of what can be evaluated: exports of finished runs, and the untrained model."""
    found = []
    for p in planned:
        if p.row.base and options.base:
            found.append((p.number, f"{table.name.replace('/', '-')}-{p.row.slug}", options.base))
        for seed in range(options.seeds):
            folder = run_folder(table, p, seed, options)
            if p.recipe and folder.is_finished:
                found.append((p.number, folder.path.name, folder.path / "export"))
    return found


def _evaluations(
    table: PaperTable, planned: Sequence[PlannedRow], benchmarks: Sequence[tuple[str, str]], options: ReproduceOptions
) -> list[Job]:
    jobs = []
    for _, name, model in _models(table, planned, options):
        for benchmark, data in benchmarks:
            out = options.out / EVALUATIONS / f"{name}-{benchmark}"
            command = [*options.program, "evaluate", str(model), "--benchmark", benchmark, "--data", data]
            command += ["--out", str(out), "--json"]
            if not (out / "result.json").exists():
                jobs.append(Job(out.name, tuple(command), options.out / "logs" / f"{out.name}.log"))
    return jobs


def _benchmark(text: str, options: ReproduceOptions) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if options.tiny:
        raise UserError(
            f"--benchmark {text}: a tiny twin answers questions of its own task only; leave out one of the two"
        )
    if not (name and equals and path):
        raise UserError(f"--benchmark {text}: expected NAME=PATH, such as mathvista=data/testmini.parquet")
    return name, path


# ---- what came out


def _results(
    table: PaperTable, planned: Sequence[PlannedRow], benchmarks: Sequence[tuple[str, str]], options: ReproduceOptions
) -> dict[str, dict[str, list[float]]]:
    """By row name: each of our figures over the finished seeds. The paper's figures are not among them."""
    results: dict[str, dict[str, list[float]]] = {}
    for p in planned:
        ours: dict[str, list[float]] = {}
        for seed in range(options.seeds if p.recipe else 0):
            summary = run_folder(table, p, seed, options).read_json("summary.json")
            for key in ("accuracy_before", "accuracy_after") if summary else ():
                ours.setdefault(key, []).append(summary[key])
        results[p.row.name] = ours
    for number, name, _ in _models(table, planned, options) if benchmarks else ():
        for benchmark, _ in benchmarks:
            file = options.out / EVALUATIONS / f"{name}-{benchmark}" / "result.json"
            if file.exists():
                row = results[table.rows[number - 1].name]
                row.setdefault(benchmark, []).append(json.loads(file.read_text(encoding="utf-8"))["accuracy"])
    return results
