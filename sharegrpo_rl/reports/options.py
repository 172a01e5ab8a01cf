"""The options of `compare` and `reproduce`, for the command line and for Python."""

from __future__ import annotations

from pathlib import Path

from sharegrpo_rl.config.option import Options, option

ACCURACY = "accuracy_after"  # the metric that is measured question by question


class Settings(Options):
    """How methods are compared."""

    metric: str = option(ACCURACY, "what methods are compared by, a key of summary.json")
    confidence: float = option(0.95, "confidence level of intervals and tests")


class CompareOptions(Settings):
    """The options of `compare`."""

    files: list[str] = option(..., "run files, short names of examples, or folders of finished runs")
    out: Path = option(..., "the folder for report, pictures and runs")
    seeds: int = option(5, "run each method with seeds 0 to N-1", ge=1)
    sets: list[str] = option([], "override a setting of all files, or of the method NAME")
    completions: int | None = option(
        None, "completions at which every run ends; by default the smallest total of the files", ge=1
    )
    control: bool = option(False, "also run each method with rewards shuffled within each group")
    jobs: int | None = option(None, "runs at a time; by default as many as the cores allow", ge=1)
    report_only: bool = option(False, "start no run; report what is finished")


class ReproduceOptions(Options):
    """The options of `reproduce`."""

    table: str | None = option(None, "papers/share_grpo/table2; without it all tables are listed")
    tiny: bool = option(False, "the tiny twins of the rows, on drawn questions")
    list_only: bool = option(False, "only show the rows; run nothing")
    rows: list[int] = option([], "only this row; may be repeated")
    seeds: int = option(1, "run each row with seeds 0 to N-1", ge=1)
    sets: list[str] = option([], "override a setting of every row")
    benchmarks: list[str] = option([], "evaluate the trained models on it: mathvista=FILE")
    base: Path | None = option(None, "the untrained model, to evaluate for comparison")
    out: Path = option(Path("reproduced"), "the folder for runs and tables")
    jobs: int = option(1, "runs at a time", ge=1)
