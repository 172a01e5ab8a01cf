"""`reproduce`: a paper's table, its rows trained here where they fit, and our figures in separate columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console

from sharegrpo_rl.config.names import suggestion
from sharegrpo_rl.config.run import TinyModelOptions
from sharegrpo_rl.config.tree import load_yaml_file
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.files import storage_errors, write_atomically
from sharegrpo_rl.models.sizes import model_sizes
from sharegrpo_rl.planning.estimate import EstimateRequest, estimate_run
from sharegrpo_rl.planning.gpus import GPU
from sharegrpo_rl.reports.jobs import PROGRAM, Job, run_jobs, training_job
from sharegrpo_rl.reports.options import ReproduceOptions
from sharegrpo_rl.reports.pages import render
from sharegrpo_rl.runs.display import say
from sharegrpo_rl.runs.examples import find_run_file
from sharegrpo_rl.runs.folder import RunFolder
from sharegrpo_rl.runs.process import machine_gpus, machine_memory
from sharegrpo_rl.runs.run_file import RunSpec, load_run
from sharegrpo_rl.statistics.formatting import NONE, number, percent

TABLES = Path(__file__).with_name("paper_tables")
RUNS, EVALUATIONS = "runs", "evaluations"  # folders inside --out
OUR_FIGURES = {
    "accuracy_before": "before training",
    "accuracy_after": "after",
    "reward_density": "reward density",
    "valid_advantage_ratio": "valid-advantage ratio",
}  # of summary.json; the rest are benchmarks
ACCURACIES = ("accuracy_before", "accuracy_after")
Results = Mapping[str, Mapping[str, Sequence[float]]]  # row name -> figure -> its values over seeds


@dataclass(frozen=True)
class Recipe:
    """A run file by its short name, and the settings that override it."""

    file: str
    sets: tuple[str, ...] = ()

    def load(self, sets: Sequence[str] = ()) -> RunSpec:
        return load_run(find_run_file(self.file), [*self.sets, *sets])


@dataclass(frozen=True)
class Row:
    """One row. With neither `full` nor `base` it is only quoted; `tiny` makes the same difference on drawn shapes."""

    name: str
    paper: tuple[float | None, ...]
    full: Recipe | None = None
    tiny: Recipe | None = None
    base: str | None = None

    @property
    def slug(self) -> str:
        """The name as part of a folder's name."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.name.lower()).split())


@dataclass(frozen=True)
class PaperTable:
    """A table, or a figure of curves; `figures` names the columns of every row's `paper`, `ours` those of ours."""

    name: str
    paper: str
    title: str
    figures: tuple[str, ...]
    measured_by: str
    rows: tuple[Row, ...]
    ours: tuple[str, ...] = ACCURACIES

    @property
    def slug(self) -> str:
        return self.name.replace("/", "-")


def read_tables(folder: Path = TABLES) -> dict[str, PaperTable]:
    """Every table by its name, such as `papers/share_grpo/table2`."""
    tables = {}
    for path in sorted(folder.glob("*.yaml")):
        content = load_yaml_file(path)
        for key, table in content["tables"].items():
            name = f"papers/{path.stem}/{key}"
            rows = tuple(_read_row(row, len(table["figures"]), name) for row in table["rows"])
            tables[name] = PaperTable(
                name,
                content["paper"],
                table["title"],
                tuple(table["figures"]),
                content["measured_by"],
                rows,
                tuple(table.get("ours", ACCURACIES)),
            )
    return tables


def _read_row(row: Mapping[str, Any], figures: int, table: str) -> Row:
    if len(row["paper"]) != figures:
        raise ValueError(f"{table}, {row['name']}: {len(row['paper'])} figures for {figures} columns")
    full, tiny = (
        Recipe(r["file"], tuple(r.get("set", ()))) if "file" in r else None for r in (row, row.get("tiny", {}))
    )
    return Row(row["name"], tuple(row["paper"]), full, tiny, row.get("base"))


def find_table(text: str, tables: Mapping[str, PaperTable]) -> PaperTable:
    """The table of a name, with or without `papers/`; UserError where there is none."""
    name = text.removesuffix("/")
    for candidate in (name, f"papers/{name}"):
        if candidate in tables:
            return tables[candidate]
    raise UserError(
        f"{text}: no such table{suggestion(name, tables)}; `sharegrpo-rl reproduce` without a name lists them all"
    )


@dataclass(frozen=True)
class PlannedRow:
    """A row, what trains it (None: nothing does), and what keeps it from being run here."""

    number: int
    row: Row
    recipe: Recipe | None = None
    obstacle: str | None = None

    @property
    def runs(self) -> bool:
        return self.recipe is not None and self.obstacle is None


def reproduce(
    options: ReproduceOptions,
    console: Console,
    *,
    tables_folder: Path = TABLES,
    memory: float | None = None,
    gpus: int | None = None,
    program: Sequence[str] = PROGRAM,
) -> int:
    """The exit code: 0, 1 where a run failed, 130 or 143 where a signal stopped it.

    memory: bytes that a process may take, gpus: how many there are; this machine's by default. program: what runs `train`
    and `evaluate`.
    """
    return run_reproduction(options, console, tables_folder, memory, gpus, program)[0]


def run_reproduction(
    options: ReproduceOptions,
    console: Console,
    tables_folder: Path = TABLES,
    memory: float | None = None,
    gpus: int | None = None,
    program: Sequence[str] = PROGRAM,
) -> tuple[int, dict[str, Any]]:
    """The exit code, and what was shown as plain data: all tables, or one table's rows, our figures and what failed."""
    tables = read_tables(tables_folder)
    if options.table is None:
        say(console, index_text(tables))
        return 0, {"tables": {name: _index_entry(table) for name, table in tables.items()}}
    table = find_table(options.table, tables)
    here = (machine_memory() if memory is None else memory, machine_gpus() if gpus is None else gpus)
    planned = plan_rows(table, options, *here)
    work = _Reproduction(table, options, planned, [_benchmark(t, options) for t in options.benchmarks], program)
    say(console, plan_text(table, planned, options.tiny))
    shown = {
        "table": table.name,
        "paper": table.paper,
        "title": table.title,
        "tiny": options.tiny,
        "rows": [_plan_entry(table, p, options.tiny) for p in planned],
        "results": work.results(),
        "failures": {},
    }
    if options.list_only:
        return 0, shown
    if not any(p.runs for p in planned) and not (options.base and work.benchmarks):
        twins = any(row.tiny for row in table.rows) and not options.tiny
        hint = f"; `sharegrpo-rl reproduce {table.name} --tiny` trains tiny twins of them" if twins else ""
        say(console, f"No row was run: none fits this machine{hint}.")
        return 0, shown
    code, failures = work.run(console)
    return code, {**shown, "results": work.results(), "failures": failures}


def _benchmark(text: str, options: ReproduceOptions) -> tuple[str, str]:
    name, _, path = text.partition("=")
    if options.tiny:
        raise UserError(
            f"--benchmark {text}: a tiny twin answers questions of its own task only; leave out one of the two"
        )
    if not (name and path):
        raise UserError(f"--benchmark {text}: expected NAME=PATH, such as mathvista=data/testmini.parquet")
    return name, path


def plan_rows(table: PaperTable, options: ReproduceOptions, memory: float, gpus: int | None) -> list[PlannedRow]:
    """Every row with its recipe, and why it cannot be run; wrong settings are UserErrors here. gpus: None = unknown."""
    if unknown := [n for n in options.rows if not 1 <= n <= len(table.rows)]:
        raise UserError(f"--row: {table.name} has rows 1 to {len(table.rows)}, not {unknown[0]}")
    planned = []
    for n, row in enumerate(table.rows, start=1):
        recipe = row.tiny if options.tiny else row.full
        obstacle = None
        if recipe is not None:
            spec = recipe.load(options.sets)
            skipped = options.rows and n not in options.rows
            obstacle = "not requested" if skipped else machine_obstacle(spec, memory, gpus)
        planned.append(PlannedRow(n, row, recipe, obstacle))
    return planned


def machine_obstacle(spec: RunSpec, memory: float, gpus: int | None) -> str | None:
    """Why a run has no room on this machine; None where it has, or nothing is known of its model or of the GPUs."""
    model = spec.config["model"]
    if model == "tiny":
        return None
    try:
        sizes = model_sizes(model, TinyModelOptions())
    except UserError:
        is_hub_name = model.count("/") == 1
        return None if is_hub_name else f"its model is not here: {model}"
    gpu = GPU("this machine", int(memory))
    estimate = estimate_run(EstimateRequest(spec.config, spec.iterations, sizes, gpu))
    asks = spec.config["num_gpus_per_learner"] or spec.config["num_gpus_per_env_runner"]
    if asks and gpus is not None and estimate.gpus > gpus:
        return f"asks for {estimate.gpus:g} GPU{'s' * (estimate.gpus > 1)}, {gpus} are here"
    if estimate.fits:
        return None
    needed = max((p.total for p in estimate.processes if p.fits is False), default=0)
    if not needed:
        return [*estimate.problems, *estimate.deadlines][0]
    return f"needs about {number(needed / 1e9)} GB, {number(memory / 1e9)} GB are here"


@dataclass(frozen=True)
class _Reproduction:
    """The work on one table: its runs and evaluations, their folders and their results."""

    table: PaperTable
    options: ReproduceOptions
    planned: Sequence[PlannedRow]
    benchmarks: Sequence[tuple[str, str]]  # name, path
    program: Sequence[str]

    def run(self, console: Console) -> tuple[int, dict[str, str]]:
        """The exit code, and why what failed did; writes the table."""
        options = self.options
        with storage_errors(options.out):
            (options.out / RUNS).mkdir(parents=True, exist_ok=True)
        outcome = run_jobs(self.training_jobs(), options.jobs, lambda line: say(console, line))
        failures, code = dict(outcome.failures), outcome.code
        if code is None and self.benchmarks:
            outcome = run_jobs(self.evaluation_jobs(), options.jobs, lambda line: say(console, line))
            failures, code = failures | outcome.failures, outcome.code
        results = self.results()
        text = result_text(self.table, self.planned, results, options.tiny, failures)
        target = options.out / f"{self.table.slug}{'-tiny' if options.tiny else ''}"
        with storage_errors(options.out):
            write_atomically(target.with_suffix(".md"), text)
            write_atomically(target.with_suffix(".json"), json.dumps(results, indent=2) + "\n")
        say(console, f"{text}\nwrote {target.with_suffix('.md')} and .json")
        return code or (1 if failures else 0), failures

    def run_folder(self, planned: PlannedRow, seed: int) -> RunFolder:
        """The folder of a row's run with a seed; tiny twins next to the full rows."""
        kind = "-tiny" if self.options.tiny else ""
        return RunFolder(self.options.out / RUNS / f"{self.table.slug}-{planned.row.slug}{kind}-{seed}")

    def training_jobs(self) -> list[Job]:
        """The runs that are not finished."""
        options, jobs = self.options, []
        for planned in self.planned:
            for seed in range(options.seeds):
                folder = self.run_folder(planned, seed)
                if planned.recipe and planned.runs and not folder.is_finished:
                    sets = (*planned.recipe.sets, *options.sets)
                    file = find_run_file(planned.recipe.file)
                    logs = options.out / "logs"
                    jobs.append(training_job(file, folder.path, seed, sets, logs, program=self.program))
        return jobs

    def models(self) -> list[tuple[str, str, Path]]:
        """(row name, model name, folder) of what can be evaluated: exports of finished runs, and the untrained model."""
        models = []
        for planned in self.planned:
            row = planned.row
            if row.base and self.options.base:
                models.append((row.name, f"{self.table.slug}-{row.slug}", self.options.base))
            for seed in range(self.options.seeds if planned.recipe else 0):
                folder = self.run_folder(planned, seed)
                if folder.is_finished:
                    models.append((row.name, folder.path.name, folder.path / "export"))
        return models

    def evaluation_folder(self, model: str, benchmark: str) -> Path:
        return self.options.out / EVALUATIONS / f"{model}-{benchmark}"

    def evaluation_jobs(self) -> list[Job]:
        """The evaluations that have no result."""
        jobs = []
        for _, name, model in self.models():
            for benchmark, data in self.benchmarks:
                out = self.evaluation_folder(name, benchmark)
                command = (*self.program, "evaluate", str(model), "--benchmark", benchmark, "--data", data)
                if not (out / "result.json").exists():
                    log = self.options.out / "logs" / f"{out.name}.log"
                    jobs.append(Job(out.name, (*command, "--out", str(out), "--json"), log))
        return jobs

    def results(self) -> dict[str, dict[str, list[float]]]:
        """By row name: each of our figures over the finished seeds. The paper's figures are not among them."""
        results: dict[str, dict[str, list[float]]] = {p.row.name: {} for p in self.planned}
        for planned in self.planned:
            for seed in range(self.options.seeds if planned.recipe else 0):
                if summary := self.run_folder(planned, seed).read_json("summary.json"):
                    for key in self.table.ours:
                        results[planned.row.name].setdefault(key, []).append(summary[key])
        for row, name, _ in self.models() if self.benchmarks else ():
            for benchmark, _ in self.benchmarks:
                file = self.evaluation_folder(name, benchmark) / "result.json"
                if file.exists():
                    accuracy = json.loads(file.read_text(encoding="utf-8"))["accuracy"]
                    results[row].setdefault(benchmark, []).append(accuracy)
        return results


def index_text(tables: Mapping[str, PaperTable]) -> str:
    """All tables, a line each."""
    rows = [["table", "paper", "what it shows", "rows", "trained", "tiny twins"]]
    rows += [[name, *(str(value) for value in _index_entry(table).values())] for name, table in tables.items()]
    return _aligned(rows)


def _index_entry(table: PaperTable) -> dict[str, Any]:
    full, tiny = sum(r.full is not None for r in table.rows), sum(r.tiny is not None for r in table.rows)
    return {"paper": table.paper, "title": table.title, "rows": len(table.rows), "trained": full, "tiny": tiny}


def _plan_entry(table: PaperTable, planned: PlannedRow, tiny: bool) -> dict[str, Any]:
    return {
        "row": planned.number,
        "name": planned.row.name,
        "paper": dict(zip(table.figures, planned.row.paper, strict=True)),
        "file": planned.recipe.file if planned.recipe else None,
        "sets": list(planned.recipe.sets) if planned.recipe else [],
        "runs": planned.runs,
        "here": _plan_of(planned, tiny),
    }


def plan_text(table: PaperTable, planned: Sequence[PlannedRow], tiny: bool) -> str:
    """The rows with the paper's figures, their run files, and what happens to each here."""
    rows = [["", "row", *_paper_columns(table), "tiny twin" if tiny else "run file", "here"]]
    for p in planned:
        file = " ".join([p.recipe.file, *(f"--set {s}" for s in p.recipe.sets)]) if p.recipe else NONE
        rows.append([str(p.number), p.row.name, *_paper_figures(p.row), file, _plan_of(p, tiny)])
    measured = "The paper draws curves; it gives no figures."
    if table.figures:
        measured = f"The paper's figures are percent by {table.measured_by}."
    return f"{table.paper}: {table.title} ({table.name})\n\n{_aligned(rows)}\n\n{measured}"


def _plan_of(planned: PlannedRow, tiny: bool) -> str:
    if planned.obstacle:
        return planned.obstacle
    if planned.recipe:
        return "fits"
    if planned.row.base and not tiny:
        return "untrained: evaluated with --base and --benchmark"
    return "no tiny twin" if tiny and (planned.row.full or planned.row.base) else "quoted"


def result_text(
    table: PaperTable, planned: Sequence[PlannedRow], results: Results, tiny: bool, failures: Mapping[str, str]
) -> str:
    """Markdown: the paper's columns, then ours, each saying what it measures; then what must be known."""
    measured = dict.fromkeys(key for figures in results.values() for key in figures)
    keys = [key for key in OUR_FIGURES if key in measured] + [key for key in measured if key not in OUR_FIGURES]
    kind = "tiny twin" if tiny else "our run"
    ours = [f"{kind}: {OUR_FIGURES.get(key, f'{key}, by rules')}" for key in keys]
    rows = [["row", *_paper_columns(table), *ours, "seeds"]]
    for p in planned:
        figures = results[p.row.name]
        seeds = max(map(len, figures.values()), default=0)
        cells = [_mean_and_range(figures.get(key, [])) for key in keys]
        rows.append([p.row.name, *_paper_figures(p.row), *cells, str(seeds or NONE)])
    return render("reproduce.md", table=table, aligned=_aligned(rows), tiny=tiny, failures=failures)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that can be read as text, too."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def _paper_columns(table: PaperTable) -> list[str]:
    return [f"paper: {name}" for name in table.figures]


def _paper_figures(row: Row) -> list[str]:
    return [number(value, "g") for value in row.paper]


def _mean_and_range(values: Sequence[float]) -> str:
    if not values:
        return NONE
    average = number(mean([100 * value for value in values]), ".1f")
    return f"{average} ({percent(min(values))} to {percent(max(values))})" if len(values) > 1 else average
