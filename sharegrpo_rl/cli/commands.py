"""Commands that write reports: a comparison of methods, one run, a table of a paper."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from sharegrpo_rl.cli.model_options import options_of
from sharegrpo_rl.runs.evaluate_options import EvaluateOptions

# ---- Arguments and options that several commands share.

RunFileArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="a run file, or the short name of a tuned example")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a setting of the file: config.lr=1e-5")
]
ImportOption = Annotated[
    list[Path] | None,
    typer.Option("--import", metavar="FILE.py", help="user code that registers rewards or environments"),
]


# ---- Commands on data: questions as training sees them, grades, rewordings.


def preview(
    file: RunFileArgument,
    num: Annotated[int, typer.Option(min=1, help="seed questions to show")] = 6,
    out: Annotated[Path, typer.Option(help="the page to write")] = Path("preview.html"),
    seed: Annotated[int, typer.Option(min=0, help="seed of everything random")] = 0,
    sets: SetOption = None,
    imports: ImportOption = None,
) -> None:
    """Show seed questions as training sees them: variants, transformed images, prompts, token counts."""
    from sharegrpo_rl.config.user_code import import_user_files
    from sharegrpo_rl.reports.preview import preview_run
    from sharegrpo_rl.runs.examples import find_run_file
    from sharegrpo_rl.runs.run_file import load_run

    import_user_files(imports or [])
    preview_run(load_run(find_run_file(file), sets or []), num, out, seed)
    typer.echo(f"wrote {out}")


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


def expand(
    data: Annotated[str, typer.Argument(metavar="DATA", help="a folder, a file, or the name of a data set on the hub")],
    out: Annotated[Path, typer.Option(help="the folder to write the new data set to")],
    variants: Annotated[int, typer.Option(min=0, help="rewordings of each question")] = 4,
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="an OpenAI-compatible endpoint")] = None,
    model: Annotated[str | None, typer.Option(help="the endpoint's model to ask")] = None,
    key_env: Annotated[
        str, typer.Option(help="environment variable that holds the key, if one is needed")
    ] = "OPENAI_API_KEY",
    local: Annotated[str | None, typer.Option(metavar="MODEL_FOLDER", help="a model on this machine instead")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="have the model solve original and rewording, and compare its answers")
    ] = False,
    key_steps: Annotated[
        bool, typer.Option("--key-steps", help="extract the key steps of each reference solution, too")
    ] = False,
    split: Annotated[
        Literal["train", "test", "all"], typer.Option(help="what to expand; the rest is copied")
    ] = "train",
    limit: Annotated[int | None, typer.Option(min=1, help="only the first N questions of a split")] = None,
    seed: Annotated[int, typer.Option(min=0, help="seed that is sent with the requests")] = 0,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="temperature of rewordings and key steps")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=16, help="most tokens of a reply")] = 2048,
    attempts: Annotated[int, typer.Option(min=1, help="requests per question, each for what is still missing")] = 2,
    concurrency: Annotated[int, typer.Option(min=1, help="questions in flight at a time")] = 8,
    requests_per_minute: Annotated[
        float | None, typer.Option(min=0.01, help="at most this many, retries included")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds for one attempt of a request")] = 120.0,
    retries: Annotated[int, typer.Option(min=0, help="further attempts after a failed request")] = 4,
    columns: Annotated[
        list[str] | None, typer.Option("--column", metavar="FIELD=NAME", help="a column's name: question=my_column")
    ] = None,
    hub_config: Annotated[str | None, typer.Option(help="configuration of a hub data set")] = None,
) -> None:
    """Reword every question with a language model, check the rewordings, and write a data set that has them."""
    from rich.console import Console

    from sharegrpo_rl.expansion.expand import expand as run_expansion
    from sharegrpo_rl.expansion.options import ExpandOptions
    from sharegrpo_rl.runs.process import quiet_libraries

    quiet_libraries()
    options = ExpandOptions(
        data=data,
        out=out,
        variants=variants,
        endpoint=endpoint,
        model=model,
        key_env=key_env,
        local=local,
        verify=verify,
        key_steps=key_steps,
        split=split,
        limit=limit,
        seed=seed,
        temperature=temperature,
        max_tokens=max_tokens,
        attempts=attempts,
        concurrency=concurrency,
        requests_per_minute=requests_per_minute,
        timeout=timeout,
        retries=retries,
        columns=columns or [],  # type: ignore[arg-type]  # read by the model
        hub_config=hub_config,
    )
    typer.echo(run_expansion(options, Console(stderr=True)))


# ---- Commands that show what is available.


def show_list(
    what: Annotated[
        str | None,
        typer.Argument(help="algorithms, environments, examples, transforms, rewards, losses, selections, options"),
    ] = None,
    of: Annotated[str | None, typer.Argument(help="with `options`: the algorithm or environment")] = None,
    imports: ImportOption = None,
) -> None:
    """List what run files can name: algorithms, environments, tuned examples, transforms, rewards, options."""
    from sharegrpo_rl.cli.listing import print_listing
    from sharegrpo_rl.config.user_code import import_user_files

    import_user_files(imports or [])
    print_listing(what, of)


def doctor() -> None:
    """Show versions, devices, memory, and what is missing."""
    from sharegrpo_rl.cli.doctor import print_diagnosis

    raise typer.Exit(print_diagnosis())


# ---- Commands on trained models.


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
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    imports: ImportOption = None,
) -> None:
    """Accuracy of a trained model, greedy and sampled, with its own prompts, limits and answer format."""
    from sharegrpo_rl.runs.process import quiet_libraries

    quiet_libraries()  # before what follows imports them: progress bars read the environment then
    from sharegrpo_rl.config.user_code import import_user_files
    from sharegrpo_rl.runs.evaluate_command import run_evaluate

    import_user_files(imports or [])
    run_evaluate(model, options, against=against, scores=read_scores or [], as_json=as_json)


def export(
    checkpoint: Annotated[Path, typer.Argument(help="a checkpoint of a run: RUN/checkpoints/000123")],
    out: Annotated[Path, typer.Option(help="the Hugging Face folder to write")],
) -> None:
    """Write a checkpoint as a Hugging Face folder (adapters merged) with sharegrpo_rl.json next to the weights."""
    from sharegrpo_rl.runs.model_folder import export_checkpoint

    export_checkpoint(checkpoint, out)
    typer.echo(f"wrote {out}")


# ---- The command that says what a run needs.


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
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    imports: ImportOption = None,
) -> None:
    """What a run needs: memory of every process and whether it fits, steps, tokens, a rough time. Opens no data, no
    weights. Exit code 0: it fits, or there is no GPU to compare with; 1: it does not fit."""
    from rich.console import Console

    from sharegrpo_rl.config.run import TinyModelOptions
    from sharegrpo_rl.config.user_code import import_user_files
    from sharegrpo_rl.models.sizes import model_sizes
    from sharegrpo_rl.planning.describe import as_json as estimate_as_json
    from sharegrpo_rl.planning.describe import print_estimate
    from sharegrpo_rl.planning.estimate import EstimateRequest, estimate_run
    from sharegrpo_rl.planning.gpus import choose_gpu
    from sharegrpo_rl.planning.remedies import remedies
    from sharegrpo_rl.runs.examples import find_run_file
    from sharegrpo_rl.runs.run_file import load_run

    import_user_files(imports or [])
    spec = load_run(find_run_file(file), sets or [])
    request = EstimateRequest(
        spec.config,
        spec.iterations,
        model_sizes(spec.config["model"], TinyModelOptions(**spec.config["model_config"])),
        choose_gpu(gpu, gpu_memory),
        prompt_tokens,
        completion_tokens,
    )
    found = estimate_run(request)
    fixes = remedies(request, found)
    if as_json:
        sys.stdout.write(json.dumps(estimate_as_json(request, found, fixes)) + "\n")
    else:
        print_estimate(Console(), f"{spec.name}, {spec.run}", request, found, fixes)
    raise typer.Exit(1 if found.fits is False else 0)


# ---- Commands that train: one run, a search.


def train(
    file: RunFileArgument,
    sets: SetOption = None,
    name: Annotated[str | None, typer.Option(help="the run's folder; by default the name in the file")] = None,
    storage_path: Annotated[Path, typer.Option(help="folder of the run folders")] = Path("runs"),
    resume: Annotated[Literal["auto", "never"], typer.Option(help="resume a run of this name")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="seed of everything random")] = 0,
    imports: ImportOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show the resolved run; open neither data nor weights")
    ] = False,
) -> None:
    """Train one run: checkpoints, curves, evaluation before and after, an exported model."""
    from sharegrpo_rl.config.user_code import import_user_files
    from sharegrpo_rl.runs.examples import find_run_file
    from sharegrpo_rl.runs.run_file import check_folder_name, load_run

    path = find_run_file(file)
    digests = import_user_files(imports or [])
    spec = load_run(path, sets or [])
    if name is not None:
        check_folder_name(name, "--name")
    if dry_run:
        from sharegrpo_rl.cli.listing import describe_run

        sys.stdout.write(describe_run(spec, seed))
        return
    from rich.console import Console

    from sharegrpo_rl.runs.train import TrainOptions
    from sharegrpo_rl.runs.train import train as run_training

    options = TrainOptions(storage_path, name, resume, seed, digests)
    raise typer.Exit(run_training(spec, options, Console()))


def tune(
    file: RunFileArgument,
    sets: SetOption = None,
    name: Annotated[str | None, typer.Option(help="the search's folder; by default the name in the file")] = None,
    storage_path: Annotated[Path, typer.Option(help="folder of the search folders")] = Path("runs"),
    resume: Annotated[Literal["auto", "never"], typer.Option(help="resume a search of this name")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="seed of the drawn values and of every trial")] = 0,
    imports: ImportOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show the resolved search and its trials; open neither data nor weights")
    ] = False,
) -> None:
    """Search over a run file's search space: many trials, a table, plots, and the best run file."""
    from sharegrpo_rl.config.user_code import import_user_files
    from sharegrpo_rl.runs.examples import find_run_file
    from sharegrpo_rl.runs.run_file import check_folder_name
    from sharegrpo_rl.search.file import load_search

    path = find_run_file(file)
    digests = import_user_files(imports or [])
    spec = load_search(path, sets or [])
    if name is not None:
        check_folder_name(name, "--name")
    if dry_run:
        from sharegrpo_rl.search.file import describe_search

        sys.stdout.write(describe_search(spec))
        return
    from rich.console import Console

    from sharegrpo_rl.search.run import SearchRunOptions, run_search

    options = SearchRunOptions(storage_path, name, resume, seed, digests)
    raise typer.Exit(run_search(spec, options, Console()))


def compare(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]FILE...", help="run files, short names of examples, or folders of finished runs"
        ),
    ],
    out: Annotated[Path, typer.Option(help="the folder for report, pictures and runs")],
    seeds: Annotated[int, typer.Option(min=1, help="run each method with seeds 0 to N-1")] = 5,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="[NAME:]KEY=VALUE", help="override a setting of all files, or of the method NAME"
        ),
    ] = None,
    completions: Annotated[
        int | None,
        typer.Option(min=1, help="completions at which every run ends; by default the smallest total of the files"),
    ] = None,
    control: Annotated[
        bool, typer.Option("--control", help="also run each method with rewards shuffled within each group")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="runs at a time; by default as many as the cores allow")
    ] = None,
    metric: Annotated[str, typer.Option(help="what methods are compared by, a key of summary.json")] = "accuracy_after",
    confidence: Annotated[float, typer.Option(help="confidence level of intervals and tests")] = 0.95,
    report_only: Annotated[bool, typer.Option("--report-only", help="start no run; report what is finished")] = False,
    imports: ImportOption = None,
) -> None:
    """Compare methods over seeds, at equal completions: run them or read finished runs, and write a report."""
    from rich.console import Console

    from sharegrpo_rl.config.user_code import import_user_files
    from sharegrpo_rl.reports.analysis import Settings
    from sharegrpo_rl.reports.compare import CompareOptions
    from sharegrpo_rl.reports.compare import compare as run_comparison

    import_files = [path.absolute() for path in imports or []]
    digests = import_user_files(import_files)
    options = CompareOptions(
        files,
        out,
        seeds,
        sets or [],
        jobs,
        completions,
        control,
        Settings(metric, confidence),
        digests,
        import_files,
        report_only,
    )
    raise typer.Exit(run_comparison(options, Console()))


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a run, finished or not")],
    out: Annotated[Path | None, typer.Option(help="the page to write; by default RUN/report.html")] = None,
    imports: ImportOption = None,
) -> None:
    """Write one run as a page: figures, alarms, curves, and a browser of what the model said."""
    from sharegrpo_rl.config.user_code import import_user_files
    from sharegrpo_rl.reports.run_report import report_run

    import_user_files(imports or [])
    page, alarms = report_run(run, out)
    for alarm in alarms:
        typer.echo(f"alarm: {alarm.name}: {alarm.seen}. {alarm.remedy}")
    typer.echo(f"wrote {page}")


def reproduce(
    table: Annotated[
        str | None, typer.Argument(metavar="[TABLE]", help="papers/share_grpo/table2; without it all tables are listed")
    ] = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="the tiny twins of the rows, on drawn questions")] = False,
    list_only: Annotated[bool, typer.Option("--list", help="only show the rows; run nothing")] = False,
    rows: Annotated[list[int] | None, typer.Option("--row", metavar="N", help="only this row; may be repeated")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="run each row with seeds 0 to N-1")] = 1,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a setting of every row")
    ] = None,
    benchmarks: Annotated[
        list[str] | None,
        typer.Option("--benchmark", metavar="NAME=PATH", help="evaluate the trained models on it: mathvista=FILE"),
    ] = None,
    base: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="the untrained model, to evaluate for comparison")
    ] = None,
    out: Annotated[Path, typer.Option(help="the folder for runs and tables")] = Path("reproduced"),
    jobs: Annotated[int, typer.Option(min=1, help="runs at a time")] = 1,
) -> None:
    """Run the rows of a paper's table that fit this machine, and compare our figures with the paper's."""
    from rich.console import Console

    from sharegrpo_rl.reports.reproduce import ReproduceOptions
    from sharegrpo_rl.reports.reproduce import reproduce as run_table

    options = ReproduceOptions(table, tiny, list_only, rows or [], seeds, sets or [], benchmarks or [], base, out, jobs)
    raise typer.Exit(run_table(options, Console()))
