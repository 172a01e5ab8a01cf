"""Commands that write reports: a comparison of methods, one run, a table of a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sharegrpo_rl.cli.options import ImportOption


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


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a run, finished or not")],
    out: Annotated[Path | None, typer.Option(help="the page to write; by default RUN/report.html")] = None,
    imports: ImportOption = None,
) -> None:
    """Write one run as a page: figures, alarms, curves, and a browser of what the model said."""
    from sharegrpo_rl.reports.run_report import report_run
    from sharegrpo_rl.user_code import import_user_files

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
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a setting over every row's")
    ] = None,
    benchmarks: Annotated[
        list[str] | None,
        typer.Option("--benchmark", metavar="NAME=PATH", help="evaluate what was trained on it: mathvista=FILE"),
    ] = None,
    base: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="the untrained model, to be evaluated beside them")
    ] = None,
    out: Annotated[Path, typer.Option(help="the folder for runs and tables")] = Path("reproduced"),
    jobs: Annotated[int, typer.Option(min=1, help="runs at a time")] = 1,
) -> None:
    """Run the rows of a paper's table that fit this machine, and show our figures beside the paper's."""
    from rich.console import Console

    from sharegrpo_rl.reports.reproduce import ReproduceOptions
    from sharegrpo_rl.reports.reproduce import reproduce as run_table

    options = ReproduceOptions(table, tiny, list_only, rows or [], seeds, sets or [], benchmarks or [], base, out, jobs)
    raise typer.Exit(run_table(options, Console()))
