"""What `reproduce` prints: the tables there are, a table's plan, and our figures beside the paper's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from rich.console import Console

from sharegrpo_rl.config.names import suggestion
from sharegrpo_rl.config.tree import load_yaml_file
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.files import storage_errors, write_atomically
from sharegrpo_rl.reports.children import PROGRAM, Job, run_jobs, training_job
from sharegrpo_rl.runs.display import machine_memory, say
from sharegrpo_rl.runs.folder import RunFolder
from sharegrpo_rl.runs.run_file import find_run_file, load_run

# ---- Does a run fit into this machine's memory? A rough answer, from the number of weights that a model's name tells.

TRAINED_BYTES = 18  # a weight in bfloat16, its gradient, float32 copy and AdamW's two moments (docs/papers.md)
ADAPTED_BYTES = 3  # with LoRA: the frozen weight, and a share of adapters and activations
READ_BYTES = 2
TINY_BYTES = 2e9
NAMED_SIZE = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)[bB](?![A-Za-z])")


def weights_named(model: str) -> float | None:
    """The number of weights in a name such as `Qwen2.5-VL-7B-Instruct`; None where it tells none."""
    found = NAMED_SIZE.findall(model.rsplit("/", 1)[-1]) or NAMED_SIZE.findall(model)
    return 1e9 * float(found[-1]) if found else None


def training_bytes(config: dict[str, Any]) -> float | None:
    """Memory that a run needs; None where the model's name does not tell its size."""
    if config["model"] == "tiny":
        return TINY_BYTES
    weights = weights_named(config["model"])
    if weights is None:
        return None
    return weights * (ADAPTED_BYTES if (config.get("lora") or {}).get("r") else TRAINED_BYTES)


# ---- The tables of the papers: their figures, and for each row the run file that trains it and its tiny twin.

FOLDER = Path(__file__).with_name("paper_tables")


@dataclass(frozen=True)
class Recipe:
    """A run file by its short name, and what is set over it."""

    file: str
    sets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One row. Neither `full` nor `base` = quoted only; `tiny` trains the same difference on drawn shapes."""

    name: str
    paper: tuple[float | None, ...]
    full: Recipe | None = None
    tiny: Recipe | None = None
    base: str | None = None

    @property
    def slug(self) -> str:
        """The name as part of a folder's name."""
        words = "".join(c if c.isalnum() else " " for c in self.name.lower()).split()
        return "-".join(words)


@dataclass(frozen=True)
class PaperTable:
    """A table; `figures` names the columns of every row's `paper`."""

    name: str
    paper: str
    title: str
    figures: tuple[str, ...]
    measured_by: str
    rows: tuple[Row, ...]


def read_tables(folder: Path = FOLDER) -> dict[str, PaperTable]:
    """Every table by its name, `papers/share_grpo/table2`."""
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        content = load_yaml_file(path)
        for key, table in content["tables"].items():
            name = f"papers/{path.stem}/{key}"
            rows = tuple(_row(row, len(table["figures"]), f"{name}, {row['name']}") for row in table["rows"])
            found[name] = PaperTable(
                name, content["paper"], table["title"], tuple(table["figures"]), content["measured_by"], rows
            )
    return found


def find_table(text: str, tables: Mapping[str, PaperTable]) -> PaperTable:
    """The table that a name means, with or without `papers/`; UserError where there is none."""
    name = text.removesuffix("/")
    for candidate in (name, f"papers/{name}"):
        if candidate in tables:
            return tables[candidate]
    raise UserError(
        f"{text}: no such table{suggestion(name, tables)}; `sharegrpo-rl reproduce` without a name lists them all"
    )


def _row(row: Mapping[str, Any], figures: int, where: str) -> Row:
    if len(row["paper"]) != figures:
        raise ValueError(f"{where}: {len(row['paper'])} figures for {figures} columns")
    full = Recipe(row["file"], tuple(row.get("set", ()))) if "file" in row else None
    twin = row.get("tiny")
    tiny = Recipe(twin["file"], tuple(twin.get("set", ()))) if twin else None
    return Row(row["name"], tuple(row["paper"]), full, tiny, row.get("base"))


if TYPE_CHECKING:
    pass

OWN = {"accuracy_before": "before training", "accuracy_after": "after"}


def index_text(tables: Mapping[str, PaperTable]) -> str:
    """All tables, a line each."""
    lines = [["table", "paper", "what it shows", "rows", "trained", "tiny twins"]]
    for name, table in tables.items():
        full, tiny = sum(r.full is not None for r in table.rows), sum(r.tiny is not None for r in table.rows)
        lines.append([name, table.paper, table.title, str(len(table.rows)), str(full), str(tiny)])
    return markdown(lines)


def plan_text(table: PaperTable, planned: Sequence[PlannedRow], tiny: bool) -> str:
    """The rows with the paper's figures, their run files, and what happens to each here."""
    figures = [f"paper: {name}" for name in table.figures]
    lines = [["", "row", *figures, "tiny twin" if tiny else "run file", "here"]]
    for p in planned:
        file = " ".join([p.recipe.file, *(f"--set {s}" for s in p.recipe.sets)]) if p.recipe else "-"
        lines.append([str(p.number), p.row.name, *_paper(p.row.paper), file, _fate(p, tiny)])
    measured = f"The paper's figures are percent by {table.measured_by}."
    return f"{table.paper}: {table.title} ({table.name})\n\n{markdown(lines)}\n\n{measured}"


def _fate(planned: PlannedRow, tiny: bool) -> str:
    if planned.obstacle:
        return planned.obstacle
    if planned.recipe:
        return "fits"
    if planned.row.base and not tiny:
        return "untrained: evaluated with --base and --benchmark"
    return "no tiny twin" if tiny and (planned.row.full or planned.row.base) else "quoted"


def result_text(
    table: PaperTable,
    planned: Sequence[PlannedRow],
    results: Mapping[str, Mapping[str, Sequence[float]]],
    options: ReproduceOptions,
    failures: Mapping[str, str],
) -> str:
    """A Markdown table: the paper's columns, then ours, each saying what it measures; then what must be known."""
    keys = list(dict.fromkeys(key for ours in results.values() for key in ours))
    keys.sort(key=lambda key: list(OWN).index(key) if key in OWN else len(OWN))
    kind = "tiny twin" if options.tiny else "our run"
    header = ["row", *(f"paper: {name}" for name in table.figures)]
    header += [f"{kind}: {OWN[key]}" if key in OWN else f"{kind}: {key}, by rules" for key in keys]
    lines = [[*header, "seeds"]]
    for p in planned:
        ours = results[p.row.name]
        seeds = max((len(values) for values in ours.values()), default=0)
        cells = [_range(ours.get(key, [])) for key in keys]
        lines.append([p.row.name, *_paper(p.row.paper), *cells, str(seeds or "-")])
    notes = [f"Paper: percent, by {table.measured_by}; copied, not measured here."]
    if options.tiny:
        notes.append(
            "Tiny twins: greedy accuracy, percent (mean, and range over seeds), of a tiny model on drawn questions. Another "
            "model, task and measure: their level says nothing about the paper's, only their order can be looked at."
        )
    else:
        notes.append(
            "Ours: greedy accuracy, percent, graded by rules: on a held-out share of the training data, and on benchmarks "
            "where given. A judge model's score is another measure."
        )
    notes += [f"{name} {why}" for name, why in failures.items()]
    return f"# {table.paper}: {table.title}\n\n{markdown(lines)}\n\n" + "\n".join(f"- {note}" for note in notes)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table that is readable as text, too."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([rows[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *rows[1:]])


def _paper(values: Sequence[float | None]) -> list[str]:
    return ["-" if value is None else f"{value:.2f}".rstrip("0").rstrip(".") for value in values]


def _range(values: Sequence[float]) -> str:
    if not values:
        return "-"
    percent = [100 * value for value in values]
    spread = f" ({min(percent):.1f} to {max(percent):.1f})" if len(percent) > 1 else ""
    return f"{mean(percent):.1f}{spread}"


# ---- `reproduce`: a paper's table, its rows run here where they fit, and our figures in columns of their own.

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
