"""The command that says what a run needs."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from sharegrpo_rl.cli.options import ImportOption, RunFileArgument, SetOption


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
        int | None, typer.Option(min=1, help="mean length of a prompt in your data, its image counted")
    ] = None,
    completion_tokens: Annotated[int | None, typer.Option(min=1, help="mean length of a completion")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    imports: ImportOption = None,
) -> None:
    """What a run needs: memory of every process and whether it fits, steps, tokens, a rough time. Opens no data, no
    weights. Exit code 0: it fits, or there is no GPU to compare with; 1: it does not fit."""
    from rich.console import Console

    from sharegrpo_rl.models.measured_sizes import model_sizes
    from sharegrpo_rl.planning.describe import as_json as plan_as_json
    from sharegrpo_rl.planning.describe import print_plan
    from sharegrpo_rl.planning.gpus import choose_gpu
    from sharegrpo_rl.planning.plan import Request, make_plan
    from sharegrpo_rl.planning.remedies import remedies
    from sharegrpo_rl.tune.examples import find_run_file
    from sharegrpo_rl.tune.run_file import load_run
    from sharegrpo_rl.user_code import import_user_files

    import_user_files(imports or [])
    spec = load_run(find_run_file(file), sets or [])
    request = Request(
        spec.config,
        spec.iterations,
        model_sizes(spec.config["model"], spec.config["model_config"]),
        choose_gpu(gpu, gpu_memory),
        prompt_tokens,
        completion_tokens,
    )
    found = make_plan(request)
    fixes = remedies(request, found)
    if as_json:
        sys.stdout.write(json.dumps(plan_as_json(request, found, fixes)) + "\n")
    else:
        print_plan(Console(), f"{spec.name}, {spec.run}", request, found, fixes)
    raise typer.Exit(1 if found.fits is False else 0)
