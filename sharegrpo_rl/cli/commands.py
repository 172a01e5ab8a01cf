"""The commands. Each imports what it needs only when it runs; options come from the models of what it calls."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sharegrpo_rl.cli.model_options import options_of
from sharegrpo_rl.config.option import check
from sharegrpo_rl.expansion.options import ExpandOptions
from sharegrpo_rl.files import as_json as to_json
from sharegrpo_rl.reports.options import CompareOptions, ReproduceOptions
from sharegrpo_rl.runs.evaluate_options import EvaluateOptions
from sharegrpo_rl.runs.new_run import InitOptions
from sharegrpo_rl.runs.run_file import TrainOptions


def _run_files(typed: str) -> list[str]:
    """What a shell offers for FILE: the tuned examples; it adds files by itself."""
    from sharegrpo_rl.runs.examples import list_examples

    return [name for name in list_examples() if name.startswith(typed)]


RunFileArgument = Annotated[
    str,
    typer.Argument(metavar="FILE", help="a run file, or the short name of a tuned example", autocompletion=_run_files),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a setting of the file: config.lr=1e-5")
]
ImportOption = Annotated[
    list[Path] | None,
    typer.Option("--import", metavar="FILE.py", help="user code that registers methods, rewards, environments, ..."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object")]
LongJsonOption = Annotated[
    bool, typer.Option("--json", help="print one JSON object at the end; what is said before goes to standard error")
]


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(to_json(value), allow_nan=False) + "\n")


@contextmanager
def _told_on_stderr(asked: bool) -> Iterator[None]:
    """With `asked`, what this process, its libraries and its children print goes to standard error: the document that
    follows is alone on standard output."""
    if not asked:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _import(files: list[Path] | None, as_json: bool = False) -> dict[str, str]:
    """Execute the user's files; returns their digests."""
    from sharegrpo_rl.config.user_code import import_user_files

    with _told_on_stderr(as_json):
        return import_user_files(files or [])


@options_of(InitOptions, name=typer.Argument(metavar="[NAME]"))
def init(options: InitOptions, as_json: JsonOption = False) -> None:
    """Write the folder of a new run: a run file with comments, a reward to start from, the next commands. Asks where no option
    is given."""
    from sharegrpo_rl.runs.new_run import write_run

    if options == InitOptions(name=options.name) and sys.stdin.isatty() and not as_json:
        fields = InitOptions.model_fields
        asked = {
            name: typer.prompt(str(fields[name].description), default=fields[name].default)
            for name in ("method", "data", "model", "gpus")
        }
        options = check(InitOptions, {"name": options.name, **asked})
    written = write_run(options, Path())
    if as_json:
        _print_json({"folder": options.name, "written": [str(path) for path in written]})
        return
    print(f"written: {', '.join(map(str, written))}")
    print(f"next: cd {options.name}, then the commands of its README.md")


@options_of(TrainOptions)
def train(
    options: TrainOptions,
    file: RunFileArgument,
    sets: SetOption = None,
    imports: ImportOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show the resolved run; open neither data nor weights")
    ] = False,
    as_json: LongJsonOption = False,
) -> None:
    """Train one run: checkpoints, curves, evaluation before and after, an exported model."""
    from sharegrpo_rl.runs.examples import find_run_file
    from sharegrpo_rl.runs.run_file import describe_run, load_run, run_as_json

    path = find_run_file(file)
    digests = _import(imports, as_json)
    spec = load_run(path, sets or [])
    if dry_run and as_json:
        _print_json(run_as_json(spec, options.seed))
        return
    if dry_run:
        sys.stdout.write(describe_run(spec, options.seed))
        return
    from rich.console import Console

    from sharegrpo_rl.runs.folder import RunFolder, run_params
    from sharegrpo_rl.runs.train import run_name
    from sharegrpo_rl.runs.train import train as run_training

    if as_json:  # the folder is named before the run, so that it can be read after it
        options = options.model_copy(update={"name": run_name(spec, options, run_params(spec, options.seed, digests))})
    with _told_on_stderr(as_json):
        code = run_training(spec, options, Console(), digests)
    if as_json:
        folder = RunFolder(options.storage_path / str(options.name))
        _print_json({"folder": str(folder.path), "summary": folder.read_json("summary.json")})
    raise typer.Exit(code)


@options_of(TrainOptions)
def tune(
    options: TrainOptions,
    file: RunFileArgument,
    sets: SetOption = None,
    imports: ImportOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show the resolved search and its trials; open neither data nor weights")
    ] = False,
    as_json: LongJsonOption = False,
) -> None:
    """Search over a run file's search space: many trials, a table, plots, and the best run file."""
    from sharegrpo_rl.runs.examples import find_run_file
    from sharegrpo_rl.search.file import check_packages, describe_search, load_search, search_as_json

    path = find_run_file(file)
    digests = _import(imports, as_json)
    spec = load_search(path, sets or [])
    check_packages(spec)
    if dry_run and as_json:
        _print_json(search_as_json(spec, options.seed))
        return
    if dry_run:
        sys.stdout.write(describe_search(spec))
        return
    from rich.console import Console

    from sharegrpo_rl.search.journal import RESULTS, SearchFolder, search_params
    from sharegrpo_rl.search.run import run_search, search_name

    if as_json:
        params = search_params(spec, options.seed, digests)
        options = options.model_copy(update={"name": search_name(spec, options, params)})
    with _told_on_stderr(as_json):
        code = run_search(spec, options, Console(), digests)
    if as_json:
        folder = SearchFolder(options.storage_path / str(options.name))
        _print_json({"folder": str(folder.path), "search": folder.read_json(RESULTS)})
    raise typer.Exit(code)


def plan(
    file: RunFileArgument,
    sets: SetOption = None,
    gpu: Annotated[
        str | None, typer.Option(metavar="TYPE", help="h100-80, a100-40, rtx4090-24, ...; by default this machine's")
    ] = None,
    gpu_memory: Annotated[
        float | None, typer.Option(min=0.1, metavar="GIB", help="memory of a GPU that is not listed")
    ] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="mean length of a prompt in your data, image included")
    ] = None,
    completion_tokens: Annotated[int | None, typer.Option(min=1, help="mean length of a completion")] = None,
    as_json: JsonOption = False,
    imports: ImportOption = None,
) -> None:
    """What a run needs: memory of every process and whether it fits, steps, tokens, a rough time. Opens no data, no
    weights. Exit code 0: it fits, or there is no GPU to compare with; 1: it does not fit."""
    from rich.console import Console

    from sharegrpo_rl.config.run import TinyModelOptions
    from sharegrpo_rl.models.sizes import tried_sizes
    from sharegrpo_rl.planning.describe import as_json as estimate_as_json
    from sharegrpo_rl.planning.describe import print_estimate
    from sharegrpo_rl.planning.estimate import EstimateRequest, estimate_run
    from sharegrpo_rl.planning.gpus import choose_gpu
    from sharegrpo_rl.planning.remedies import remedies
    from sharegrpo_rl.runs.examples import find_run_file
    from sharegrpo_rl.runs.run_file import load_run

    _import(imports, as_json)
    spec = load_run(find_run_file(file), sets or [])
    request = EstimateRequest(
        spec.config,
        spec.iterations,
        tried_sizes(spec.config["model"], TinyModelOptions(**spec.config["model_config"])),
        choose_gpu(gpu, gpu_memory),
        prompt_tokens,
        completion_tokens,
    )
    found = estimate_run(request)
    fixes = remedies(request, found)
    if as_json:
        _print_json(estimate_as_json(request, found, fixes))
    else:
        print_estimate(Console(), f"{spec.name}, {spec.run}", request, found, fixes)
    raise typer.Exit(1 if found.fits is False else 0)


@options_of(
    CompareOptions,
    files=typer.Argument(metavar="[NAME=]FILE..."),
    sets=typer.Option("--set", metavar="[NAME:]KEY=VALUE"),
)
def compare(options: CompareOptions, as_json: LongJsonOption = False, imports: ImportOption = None) -> None:
    """Compare methods over seeds, at equal completions: run them or read finished runs, and write a report."""
    from rich.console import Console

    from sharegrpo_rl.reports.compare import run_comparison

    with _told_on_stderr(as_json):
        code, report = run_comparison(options, Console(), imports or [])
    if as_json:
        _print_json({"folder": str(options.out), "report": report})
    raise typer.Exit(code)


@options_of(
    ReproduceOptions,
    table=typer.Argument(metavar="[TABLE]"),
    list_only=typer.Option("--list"),
    rows=typer.Option("--row", metavar="N"),
    sets=typer.Option("--set", metavar="KEY=VALUE"),
    benchmarks=typer.Option("--benchmark", metavar="NAME=PATH"),
    base=typer.Option(metavar="FOLDER"),
)
def reproduce(options: ReproduceOptions, as_json: LongJsonOption = False) -> None:
    """Run the rows of a paper's table that fit this machine, and compare our figures with the paper's."""
    from rich.console import Console

    from sharegrpo_rl.reports.reproduce import run_reproduction

    with _told_on_stderr(as_json):
        code, shown = run_reproduction(options, Console())
    if as_json:
        _print_json(shown)
    raise typer.Exit(code)


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a run, finished or not")],
    out: Annotated[Path | None, typer.Option(help="the page to write; by default RUN/report.html")] = None,
    as_json: JsonOption = False,
    imports: ImportOption = None,
) -> None:
    """Write one run as a page: figures, alarms, curves, and a browser of what the model said."""
    from sharegrpo_rl.reports.run_report import report_run

    _import(imports, as_json)
    page, alarms = report_run(run, out)
    if as_json:
        _print_json({"page": str(page), "alarms": [vars(alarm) for alarm in alarms]})
        return
    for alarm in alarms:
        typer.echo(f"alarm: {alarm.name}: {alarm.seen}. {alarm.remedy}")
    typer.echo(f"wrote {page}")


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a run, a search or a comparison")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="port on 127.0.0.1; 0 takes a free one")] = 8642,
    imports: ImportOption = None,
) -> None:
    """Serve the page of a run, a search or a comparison on 127.0.0.1 while it goes on. Writes nothing; Ctrl-C ends it."""
    from sharegrpo_rl.reports.watch import watch as serve
    from sharegrpo_rl.search.results import read_search

    _import(imports)
    raise typer.Exit(serve(run, port, read_search))


@options_of(EvaluateOptions)
def evaluate(
    options: EvaluateOptions,
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL_OR_CHECKPOINT", help="an exported folder, a checkpoint, or an evaluation's --out"
        ),
    ],
    against: Annotated[
        Path | None, typer.Option(metavar="B", help="compare with another model or --out folder")
    ] = None,
    read_scores: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="read another tool's result file into an --out folder's report"),
    ] = None,
    as_json: JsonOption = False,
    imports: ImportOption = None,
) -> None:
    """Accuracy of a trained model, greedy and sampled, with its own prompts, limits and answer format."""
    from sharegrpo_rl.runs.process import quiet_libraries

    quiet_libraries()  # before what follows imports them: progress bars read the environment then
    from sharegrpo_rl.runs.evaluate_command import print_comparison, print_result, run_evaluate

    _import(imports, as_json)
    with _told_on_stderr(as_json):
        result = run_evaluate(model, options, against=against, scores=read_scores or [])
    if as_json:
        _print_json(result)
    elif against is not None:
        print_comparison(result)
    else:
        print_result(result)


def export(
    checkpoint: Annotated[Path, typer.Argument(help="a checkpoint of a run: RUN/checkpoints/000123")],
    out: Annotated[Path, typer.Option(help="the Hugging Face folder to write")],
) -> None:
    """Write a checkpoint as a Hugging Face folder (adapters merged) with sharegrpo_rl.json next to the weights."""
    from sharegrpo_rl.runs.model_folder import export_checkpoint

    export_checkpoint(checkpoint, out)
    typer.echo(f"wrote {out}")


def preview(
    file: RunFileArgument,
    num: Annotated[int, typer.Option(min=1, help="seed questions to show")] = 6,
    out: Annotated[Path, typer.Option(help="the page to write")] = Path("preview.html"),
    seed: Annotated[int, typer.Option(min=0, help="seed of everything random")] = 0,
    sets: SetOption = None,
    imports: ImportOption = None,
) -> None:
    """Show seed questions as training sees them: variants, transformed images, prompts, token counts."""
    from sharegrpo_rl.reports.preview import preview_run
    from sharegrpo_rl.runs.examples import find_run_file
    from sharegrpo_rl.runs.run_file import load_run

    _import(imports)
    preview_run(load_run(find_run_file(file), sets or []), num, out, seed)
    typer.echo(f"wrote {out}")


@options_of(
    ExpandOptions,
    data=typer.Argument(metavar="DATA"),
    endpoint=typer.Option(metavar="URL"),
    local=typer.Option(metavar="MODEL_FOLDER"),
    columns=typer.Option("--column", metavar="FIELD=NAME"),
)
def expand(options: ExpandOptions) -> None:
    """Reword every question with a language model, check the rewordings, and write a data set that has them."""
    from rich.console import Console

    from sharegrpo_rl.expansion.expand import expand as run_expansion
    from sharegrpo_rl.runs.process import quiet_libraries

    quiet_libraries()
    typer.echo(run_expansion(options, Console(stderr=True)))


def grade(
    file: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="rows with `response` and `gold`")],
    extract: Annotated[
        Literal["auto", "answer", "boxed", "steps", "free"],
        typer.Option(help="where to look for the answer in a response"),
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a row, the summary last")] = False,
) -> None:
    """Grade responses against gold answers with the rewards' own grader."""
    from sharegrpo_rl.grader import print_grades

    print_grades(file, extract, as_json)


def show_list(
    what: Annotated[
        str | None,
        typer.Argument(help="algorithms, environments, examples, transforms, rewards, losses, selections, options"),
    ] = None,
    of: Annotated[str | None, typer.Argument(help="with `options`: the algorithm or environment")] = None,
    as_json: JsonOption = False,
    imports: ImportOption = None,
) -> None:
    """List what run files can name: algorithms, environments, tuned examples, transforms, rewards, options."""
    from sharegrpo_rl.cli.listing import listing, print_listing

    _import(imports, as_json)
    if as_json:
        _print_json(listing(what, of))
    else:
        print_listing(what, of)


def doctor(as_json: JsonOption = False) -> None:
    """Show versions, devices, memory, and what is missing."""
    from sharegrpo_rl.cli.doctor import diagnosis, print_diagnosis

    found = diagnosis()
    if as_json:
        _print_json(found)
    else:
        print_diagnosis(found)
    raise typer.Exit(0 if found["ready"] else 1)
