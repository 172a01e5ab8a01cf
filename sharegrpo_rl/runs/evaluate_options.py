"""The options of `evaluate`, each written once, their checks, and the questions that they choose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from sharegrpo_rl.config.option import Options, option
from sharegrpo_rl.data.benchmarks.layout import find_layout, recognized
from sharegrpo_rl.envs.registry import ENVIRONMENTS
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.exchange import FORMATS
from sharegrpo_rl.evaluation.verdict import EXTRACTORS, FORMAT
from sharegrpo_rl.generation.generator import ENGINES, check_engine
from sharegrpo_rl.runs.run_file import check_environment, check_environment_config

OF_A_DATA_SET = ("columns", "kinds", "benchmark", "hub_config")  # options that were chosen for one data set


class EvaluateOptions(Options):
    """The options of `evaluate`; the command line is made from these fields."""

    model_config = ConfigDict(allow_inf_nan=True)  # `check_options` knows which temperatures are possible

    env: str | None = option(None, "questions of this environment instead of the model's own")
    data: str | None = option(None, "questions of this data set instead of the model's own")
    kinds: str | None = option(None, "kinds of question instead of the model's own: KIND,KIND")
    benchmark: str | None = option(None, "the layout of --data: mathvista, mmmu, pope, ...")
    hub_config: str | None = option(None, "configuration of a hub data set")
    split: str = option("test", "split to evaluate on")
    limit: int | None = option(None, "the first N questions; by default 500, or all of a benchmark", ge=1)
    blind: bool = option(False, "swap the images: what does the text alone earn?")
    samples: int = option(0, "sampled completions besides the greedy one", ge=0, le=4096)
    temperature: float = option(1.0, "temperature of the samples")
    seed: int = option(0, "seed of the samples", ge=0)
    extract: str = option(FORMAT, "where to find the answer: format (the model's own), auto, answer, boxed, free")
    out: Path | None = option(None, "keep predictions in this folder, and resume from them")
    export: str | None = option(None, "write predictions for vlmevalkit or lmms-eval to score")
    export_name: str | None = option(None, "that tool's name of the benchmark")
    engine: str = option("hf", "what generates: hf or vllm")
    batch: int = option(128, "questions at a time, and between two writes to --out", ge=1)
    max_prompt_tokens: int | None = option(None, "longest prompt, instead of the model's own limit", ge=1)
    max_completion_tokens: int | None = option(None, "longest completion, instead of the model's own limit", ge=1)
    min_pixels: int | None = option(None, "smallest image, instead of the model's own limit; smaller ones grow", ge=1)
    max_pixels: int | None = option(None, "largest image, instead of the model's own limit", ge=1)


def check_options(options: EvaluateOptions) -> None:
    """UserError naming the option that is not possible; opens no data and no weights."""
    if options.env is not None:
        check_environment(options.env)
    if options.benchmark is not None:
        find_layout(options.benchmark)
        if options.data is None:
            raise UserError(f"--benchmark {options.benchmark}: name its file, folder or hub data set with --data")
    if options.extract not in EXTRACTORS:
        raise UserError(f"--extract {options.extract!r}: choose one of {', '.join(EXTRACTORS)}")
    if options.engine not in ENGINES:
        raise UserError(f"--engine {options.engine}: no such engine; choose {' or '.join(ENGINES)}")
    check_engine(options.engine, "--engine vllm")
    if options.samples and not 0 < options.temperature < float("inf"):
        raise UserError(f"--temperature {options.temperature:g}: sampling needs a temperature above 0")
    if options.export is not None and options.export not in FORMATS:
        raise UserError(f"--export {options.export}: choose {' or '.join(FORMATS)}")
    if options.export is not None and options.out is None:
        raise UserError(f"--export {options.export}: name a folder for the files with --out")


def check_export(options: EvaluateOptions, env_config: Mapping[str, Any]) -> None:
    """UserError where the export format cannot hold what would be evaluated."""
    name = f"--export {options.export}"
    if not env_config.get("benchmark"):
        raise UserError(f"{name}: only a published benchmark can be scored elsewhere; name it with --benchmark")
    if options.export == "vlmevalkit" and not str(env_config["data"]).endswith(".tsv"):
        raise UserError(f"{name}: needs the benchmark's own TSV file as --data, whose columns it keeps")
    if options.blind:
        raise UserError(f"{name}: answers to swapped images are no benchmark result; leave out --blind")


def choose_questions(settings: Mapping[str, Any], options: EvaluateOptions) -> tuple[str, dict[str, Any]]:
    """Environment and its config: the model's own (from its `settings`), changed only by what the options name.

    A data set that is known as a published benchmark is read as one, whether `benchmark` names it or not.
    """
    data = options.data
    layout = options.benchmark or (recognized(data) if data is not None else None)
    env_id = _choose_environment(settings["env"], options, is_benchmark=layout is not None)
    env_config = dict(settings["env_config"]) if env_id == settings["env"] else {}
    if data is not None and (data != env_config.get("data") or layout is not None):
        env_config = {key: value for key, value in env_config.items() if key not in OF_A_DATA_SET}
    kinds = None if options.kinds is None else [kind.strip() for kind in options.kinds.split(",")]
    chosen = {"data": data, "benchmark": layout, "hub_config": options.hub_config, "kinds": kinds}
    env_config |= {key: value for key, value in chosen.items() if value is not None}
    if isinstance(env_config.get("data"), list):
        # Weights of rewards change no accuracy, and rewards of the user's own may not be imported here.
        env_config["data"] = [{k: v for k, v in part.items() if k != "rewards"} for part in env_config["data"]]
    return env_id, check_environment_config(env_id, env_config)


def _choose_environment(of_model: str | None, options: EvaluateOptions, *, is_benchmark: bool) -> str:
    env_id = options.env or of_model
    if options.data is None:
        if env_id is None:
            raise UserError(
                "this model does not record which questions it was trained on; name some with --env or --data"
            )
        return env_id
    if env_id is not None:
        check_environment(env_id)
        reads_data = "data" in ENVIRONMENTS[env_id].options.fields()
        if options.env is not None and not reads_data:
            raise UserError(f"--data {options.data}: {env_id} makes its own questions; leave out --data, or --env")
        # The answers of a benchmark need not be what the model's own task takes.
        if reads_data and (options.env is not None or not is_benchmark):
            return env_id
    return "MultimodalQA-v0"
