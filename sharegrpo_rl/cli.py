"""The command line. Each command imports what it needs only when it runs, so that `--help` answers at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import click
import typer

from sharegrpo_rl.errors import UserError

app = typer.Typer(
    name="sharegrpo-rl",
    help="Reinforcement learning that teaches vision-language models to reason.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RunFileArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="a run file, or the short name of a tuned example")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a setting over the file's: config.lr=1e-5")
]
ImportOption = Annotated[
    list[Path] | None,
    typer.Option("--import", metavar="FILE.py", help="user code that registers rewards or environments"),
]


@app.command()
def train(
    file: RunFileArgument,
    sets: SetOption = None,
    name: Annotated[str | None, typer.Option(help="the run's folder; by default the name in the file")] = None,
    storage_path: Annotated[Path, typer.Option(help="where run folders lie")] = Path("runs"),
    resume: Annotated[Literal["auto", "never"], typer.Option(help="go on with a run of this name")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="seed of everything random")] = 0,
    imports: ImportOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show the resolved run; open neither data nor weights")
    ] = False,
) -> None:
    """Train one run: checkpoints, curves, evaluation before and after, an exported model."""
    from sharegrpo_rl.tune.examples import find_run_file
    from sharegrpo_rl.tune.run_file import check_folder_name, load_run
    from sharegrpo_rl.user_code import import_user_files

    path = find_run_file(file)
    digests = import_user_files(imports or [])
    spec = load_run(path, sets or [])
    if name is not None:
        check_folder_name(name, "--name")
    if dry_run:
        from sharegrpo_rl.tune.dry_run import describe_run

        sys.stdout.write(describe_run(spec, seed))
        return
    from rich.console import Console

    from sharegrpo_rl.tune.train import TrainOptions
    from sharegrpo_rl.tune.train import train as run_training

    options = TrainOptions(storage_path, name, resume, seed, digests)
    raise typer.Exit(run_training(spec, options, Console()))


@app.command()
def tune(
    file: RunFileArgument,
    sets: SetOption = None,
    name: Annotated[str | None, typer.Option(help="the search's folder; by default the name in the file")] = None,
    storage_path: Annotated[Path, typer.Option(help="where search folders lie")] = Path("runs"),
    resume: Annotated[Literal["auto", "never"], typer.Option(help="go on with a search of this name")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="seed of the drawn values and of every trial")] = 0,
    imports: ImportOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show the resolved search and its trials; open neither data nor weights")
    ] = False,
) -> None:
    """Search over a run file's search space: many trials, a table, plots, and the best run file."""
    from sharegrpo_rl.tune.examples import find_run_file
    from sharegrpo_rl.tune.run_file import check_folder_name
    from sharegrpo_rl.tune.search_file import load_search
    from sharegrpo_rl.user_code import import_user_files

    path = find_run_file(file)
    digests = import_user_files(imports or [])
    spec = load_search(path, sets or [])
    if name is not None:
        check_folder_name(name, "--name")
    if dry_run:
        from sharegrpo_rl.tune.search_dry_run import describe_search

        sys.stdout.write(describe_search(spec))
        return
    from rich.console import Console

    from sharegrpo_rl.tune.search_run import SearchRunOptions, run_search

    options = SearchRunOptions(storage_path, name, resume, seed, digests)
    raise typer.Exit(run_search(spec, options, Console()))


@app.command()
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
        typer.Option("--set", metavar="[NAME:]KEY=VALUE", help="a setting over all files, or over the method NAME"),
    ] = None,
    completions: Annotated[
        int | None, typer.Option(min=1, help="where every run ends; by default the smallest total of the files")
    ] = None,
    control: Annotated[
        bool, typer.Option("--control", help="beside each method the same with rewards permuted inside each group")
    ] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="runs at a time; by default as the cores allow")] = None,
    metric: Annotated[str, typer.Option(help="what methods are compared by, a key of summary.json")] = "accuracy_after",
    confidence: Annotated[float, typer.Option(help="of intervals and tests")] = 0.95,
    report_only: Annotated[bool, typer.Option("--report-only", help="start no run; report what is finished")] = False,
    imports: ImportOption = None,
) -> None:
    """Compare methods over seeds: run them to equal completions, or read finished runs; write a report."""
    from rich.console import Console

    from sharegrpo_rl.reports.compare import CompareOptions
    from sharegrpo_rl.reports.compare import compare as run_comparison
    from sharegrpo_rl.reports.scores import Settings
    from sharegrpo_rl.user_code import import_user_files

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


@app.command()
def evaluate(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL_OR_CHECKPOINT", help="an exported folder, a checkpoint, or an evaluation's --out"
        ),
    ],
    env: Annotated[str | None, typer.Option(help="questions of this environment instead of the model's own")] = None,
    data: Annotated[str | None, typer.Option(help="questions of this data set instead of the model's own")] = None,
    kinds: Annotated[
        str | None, typer.Option(metavar="KIND,KIND", help="kinds of question instead of the model's own")
    ] = None,
    benchmark: Annotated[str | None, typer.Option(help="the layout of --data: mathvista, mmmu, pope, ...")] = None,
    hub_config: Annotated[str | None, typer.Option(help="configuration of a hub data set")] = None,
    split: Annotated[str, typer.Option(help="split to evaluate on")] = "test",
    limit: Annotated[
        int | None, typer.Option(min=1, help="the first N questions; by default 500, or all of a benchmark")
    ] = None,
    blind: Annotated[bool, typer.Option("--blind", help="swap the images: what does the text alone earn?")] = False,
    samples: Annotated[int, typer.Option(min=0, max=4096, help="sampled completions beside the greedy one")] = 0,
    temperature: Annotated[float, typer.Option(help="of the samples")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="seed of the samples")] = 0,
    extract: Annotated[
        str, typer.Option(help="where the answer stands: format (the model's own), auto, answer, boxed, free")
    ] = "format",
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="keep predictions there; go on where stopped")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="B", help="compare with another model or --out folder")
    ] = None,
    export: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="write predictions for vlmevalkit or lmms-eval to score")
    ] = None,
    export_name: Annotated[str | None, typer.Option(help="that tool's name of the benchmark")] = None,
    read_scores: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="read that tool's result file into an --out folder's report"),
    ] = None,
    engine: Annotated[str, typer.Option(help="what generates: hf")] = "hf",
    batch: Annotated[int, typer.Option(min=1, help="questions at a time, and between two writes to --out")] = 128,
    max_prompt_tokens: Annotated[int | None, typer.Option(min=1, help="instead of the model's own limit")] = None,
    max_completion_tokens: Annotated[int | None, typer.Option(min=1, help="instead of the model's own limit")] = None,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="of an image, instead of the model's own")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    imports: ImportOption = None,
) -> None:
    """Accuracy of a trained model, greedy and sampled, with its own prompts, limits and answer format."""
    from sharegrpo_rl.tune.evaluate_command import run_evaluate
    from sharegrpo_rl.tune.evaluate_options import EvaluateOptions
    from sharegrpo_rl.user_code import import_user_files

    import_user_files(imports or [])
    options = EvaluateOptions(
        env=env,
        data=data,
        kinds=None if kinds is None else [kind.strip() for kind in kinds.split(",")],
        benchmark=benchmark,
        hub_config=hub_config,
        split=split,
        limit=limit,
        blind=blind,
        extract=extract,
        samples=samples,
        temperature=temperature,
        seed=seed,
        batch=batch,
        engine=engine,
        max_prompt_tokens=max_prompt_tokens,
        max_completion_tokens=max_completion_tokens,
        max_pixels=max_pixels,
        out=out,
        export=export,
        export_name=export_name,
    )
    run_evaluate(model, options, against=against, scores=read_scores or [], as_json=as_json)


@app.command()
def preview(
    file: RunFileArgument,
    num: Annotated[int, typer.Option(min=1, help="seed questions to show")] = 6,
    out: Annotated[Path, typer.Option(help="the page to write")] = Path("preview.html"),
    seed: Annotated[int, typer.Option(min=0, help="seed of everything random")] = 0,
    sets: SetOption = None,
    imports: ImportOption = None,
) -> None:
    """Show seed questions as training sees them: variants, transformed images, prompts, token counts."""
    from sharegrpo_rl.tune.examples import find_run_file
    from sharegrpo_rl.tune.preview_run import preview_run
    from sharegrpo_rl.tune.run_file import load_run
    from sharegrpo_rl.user_code import import_user_files

    import_user_files(imports or [])
    preview_run(load_run(find_run_file(file), sets or []), num, out, seed)
    typer.echo(f"wrote {out}")


@app.command()
def grade(
    file: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="rows with `response` and `gold`")],
    extract: Annotated[
        Literal["auto", "answer", "boxed", "steps", "free"], typer.Option(help="where the answer stands in a response")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a row, the summary last")] = False,
) -> None:
    """Grade responses against gold answers with the rewards' own grader."""
    from sharegrpo_rl.tune.grade_report import print_grades

    print_grades(file, extract, as_json)


@app.command()
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
        bool, typer.Option("--verify", help="let the model solve original and rewording, and compare its answers")
    ] = False,
    key_steps: Annotated[
        bool, typer.Option("--key-steps", help="extract the key steps of each reference solution, too")
    ] = False,
    split: Annotated[
        Literal["train", "test", "all"], typer.Option(help="what to expand; the rest is carried over")
    ] = "train",
    limit: Annotated[int | None, typer.Option(min=1, help="only the first N questions of a split")] = None,
    seed: Annotated[int, typer.Option(min=0, help="seed that is sent with the requests")] = 0,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="of rewordings and key steps")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=16, help="most tokens of a reply")] = 2048,
    attempts: Annotated[int, typer.Option(min=1, help="times that a question is asked for what is still missing")] = 2,
    concurrency: Annotated[int, typer.Option(min=1, help="questions under way at a time")] = 8,
    requests_per_minute: Annotated[float | None, typer.Option(min=0.01, help="at most this many, retries too")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds for one try of a request")] = 120.0,
    retries: Annotated[int, typer.Option(min=0, help="further tries of a request that failed")] = 4,
    columns: Annotated[
        list[str] | None, typer.Option("--column", metavar="FIELD=NAME", help="a column's name: question=my_column")
    ] = None,
    hub_config: Annotated[str | None, typer.Option(help="configuration of a hub data set")] = None,
) -> None:
    """Reword every question with a language model, check the rewordings, and write a data set that has them."""
    from rich.console import Console

    from sharegrpo_rl.expansion.expand import expand as run_expansion
    from sharegrpo_rl.expansion.options import ExpandOptions, column_choices
    from sharegrpo_rl.expansion.question import Wanted
    from sharegrpo_rl.tune.quiet import quiet_libraries

    quiet_libraries()
    wanted = Wanted(variants, attempts, temperature, max_tokens, seed, verify, key_steps)
    options = ExpandOptions(
        data,
        out,
        wanted,
        split=split,
        limit=limit,
        columns=column_choices(columns or []),
        hub_config=hub_config,
        endpoint=endpoint,
        model=model,
        key_env=key_env,
        local=local,
        concurrency=concurrency,
        requests_per_minute=requests_per_minute,
        timeout=timeout,
        retries=retries,
    )
    typer.echo(run_expansion(options, Console(stderr=True)))


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="a checkpoint of a run: RUN/checkpoints/000123")],
    out: Annotated[Path, typer.Option(help="the Hugging Face folder to write")],
) -> None:
    """Write a checkpoint as a Hugging Face folder (adapters merged) with sharegrpo_rl.json beside the weights."""
    from sharegrpo_rl.tune.model_folder import export_checkpoint

    export_checkpoint(checkpoint, out)
    typer.echo(f"wrote {out}")


@app.command("list")
def list_(
    what: Annotated[
        str | None, typer.Argument(help="algorithms, environments, examples, transforms, rewards, options")
    ] = None,
    of: Annotated[str | None, typer.Argument(help="with `options`: the algorithm or environment")] = None,
    imports: ImportOption = None,
) -> None:
    """List what run files can name: algorithms, environments, tuned examples, transforms, rewards, options."""
    from sharegrpo_rl.tune.listing import print_listing
    from sharegrpo_rl.user_code import import_user_files

    import_user_files(imports or [])
    print_listing(what, of)


@app.command()
def doctor() -> None:
    """Show versions, devices, memory, and what is missing."""
    from sharegrpo_rl.doctor import print_diagnosis

    raise typer.Exit(print_diagnosis())


def main() -> None:
    """Run the command line: wrong input ends with one line and exit code 2, Ctrl-C with 130."""
    sys.exit(run())


def run(arguments: list[str] | None = None) -> int:
    """The exit code of one command."""
    try:
        code = app(arguments, prog_name="sharegrpo-rl", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except click.ClickException as error:
        print(f"error: {error.format_message()} (see --help)", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader went away (`| head`); without this Python complains once more while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    main()
