"""Commands on data: questions as training sees them, grades, rewordings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sharegrpo_rl.cli.options import ImportOption, RunFileArgument, SetOption


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
