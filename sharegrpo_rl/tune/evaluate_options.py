"""What `evaluate` may be asked, checked before any data or weights are opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sharegrpo_rl.data.benchmarks.layout import find_layout
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.exports import FORMATS
from sharegrpo_rl.evaluation.grading import FORMAT, check_extractor
from sharegrpo_rl.generation.engines import ENGINES, check_engine
from sharegrpo_rl.tune.environment_options import check_environment

DEFAULT_LIMIT = 500  # of questions; a benchmark is asked whole


@dataclass(frozen=True)
class EvaluateOptions:
    """`samples` 0 asks greedily only; `limit` None is 500 questions, or all of a benchmark."""

    env: str | None = None
    data: str | None = None
    kinds: Sequence[str] | None = None
    benchmark: str | None = None
    hub_config: str | None = None
    split: str = "test"
    limit: int | None = None
    blind: bool = False
    extract: str = FORMAT
    samples: int = 0
    temperature: float = 1.0
    seed: int = 0
    batch: int = 128
    engine: str = "hf"
    max_prompt_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_pixels: int | None = None
    out: Path | None = None
    export: str | None = None
    export_name: str | None = None


def check_options(options: EvaluateOptions) -> None:
    """UserError naming the option that cannot be."""
    if options.env is not None:
        check_environment(options.env)
    if options.benchmark is not None:
        find_layout(options.benchmark)
        if options.data is None:
            raise UserError(
                f"--benchmark {options.benchmark}: say with --data where its file or folder lies, or its hub name"
            )
    check_extractor(options.extract)
    if options.engine not in ENGINES:
        raise UserError(f"--engine {options.engine}: no such engine; choose {' or '.join(ENGINES)}")
    check_engine(options.engine, "--engine vllm")
    if options.samples and not 0 < options.temperature < float("inf"):
        raise UserError(f"--temperature {options.temperature:g}: sampling needs a temperature above 0")
    if options.export is not None and options.export not in FORMATS:
        raise UserError(f"--export {options.export}: choose {' or '.join(FORMATS)}")
    if options.export is not None and options.out is None:
        raise UserError(f"--export {options.export}: name a folder for the files with --out")
