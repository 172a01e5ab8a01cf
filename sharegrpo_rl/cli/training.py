"""Commands that train: one run, a search."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from sharegrpo_rl.cli.options import ImportOption, RunFileArgument, SetOption


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
