"""`evaluate`: an exported model or a checkpoint on its own questions, or on others under its own prompts and limits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sharegrpo_rl import __version__
from sharegrpo_rl.data.benchmarks.layout import LAYOUTS, find_layout, recognized
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.envs.registry import ENVIRONMENTS, make_env
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.benchmark_metrics import METRICS
from sharegrpo_rl.evaluation.evaluate import FORMAT, ShownQuestion, check_extractor, evaluate, extractor_name
from sharegrpo_rl.evaluation.exchange import FORMATS, export_predictions
from sharegrpo_rl.evaluation.folder import EvaluationFolder, Protocol, data_digest, grader_version, model_digest
from sharegrpo_rl.evaluation.report import EvaluationRecord, EvaluationReport, GeneratedText
from sharegrpo_rl.files import as_json
from sharegrpo_rl.generation.generator import ENGINES, check_engine, engine_version
from sharegrpo_rl.runs.folder import find_model_folder, model_settings, versions
from sharegrpo_rl.runs.run_file import check_environment, check_environment_config
from sharegrpo_rl.runs.train import quiet_libraries

# ---- What `evaluate` may be asked, checked before any data or weights are opened.

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


# ---- `evaluate --export`: the predictions of an evaluation in another tool's format.


def check_export(options: EvaluateOptions, env_config: Mapping[str, Any]) -> None:
    """UserError where the format cannot hold what would be evaluated; asked before any question is."""
    name = f"--export {options.export}"
    if not env_config.get("benchmark"):
        raise UserError(f"{name}: only a published benchmark can be scored elsewhere; name it with --benchmark")
    if options.export == "vlmevalkit" and not str(env_config["data"]).endswith(".tsv"):
        raise UserError(f"{name}: needs the benchmark's own TSV file as --data, whose columns it keeps")
    if options.blind:
        raise UserError(f"{name}: answers to swapped images are no benchmark result; leave out --blind")


def export(
    records: Sequence[EvaluationRecord], env: MultimodalQAEnv, options: EvaluateOptions, model: Path, protocol: Protocol
) -> list[Path]:
    """Files in OUT/export, named after the model and the benchmark."""
    assert options.out is not None
    assert options.export is not None
    layout = LAYOUTS[protocol["benchmark"]]
    own = layout.lmms_task if options.export == "lmms-eval" else Path(str(protocol["env_config"]["data"])).stem
    name = options.export_name or own or layout.name
    model_name = model.resolve().name if model.name != "export" else model.resolve().parent.name
    folder = options.out / "export"
    return export_predictions(records, env.bank, options.export, folder=folder, model=model_name, name=name)


PACKAGES = ("torch", "transformers", "numpy", "pillow", "math-verify")  # whose versions a figure may depend on
FIGURES = ("accuracy", "questions", "confidence_interval", "format_rate", "truncated_rate", "mean_length", "extractor")


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation: what `result.json` holds, and its records."""

    result: dict[str, Any]
    records: tuple[EvaluationRecord, ...]

    @property
    def protocol(self) -> Protocol:
        """How the figures were made."""
        protocol: Protocol = self.result["protocol"]
        return protocol


def evaluate_model(
    path: Path, options: EvaluateOptions, questions: tuple[str, dict[str, Any]] | None = None
) -> Evaluated:
    """Accuracy on the first `limit` questions of a split; UserError where model or questions cannot be had.

    `questions` are those of another evaluation (environment and its config), instead of the options' or the model's own.
    """
    check_options(options)
    quiet_libraries()
    folder = find_model_folder(path)
    settings = _with_limits(model_settings(folder), options)
    env_id, env_config = questions or choose_questions(
        settings, options.env, options.data, options.kinds, options.benchmark, options.hub_config
    )
    if options.export is not None:
        check_export(options, env_config)
    env = make_env(env_id, env_config, split=options.split, answer_format=settings["answer_format"])
    protocol = _protocol(folder, settings, options, env, (env_id, env_config))
    journal = None if options.out is None else EvaluationFolder(options.out, protocol)
    model = _Model(folder, settings, options, env)
    report = evaluate(
        env,
        model.greedy,
        limit=protocol["questions"],
        batch=options.batch,
        blind=options.blind,
        sample=model.sample if options.samples else None,
        seed=options.seed,
        extract=options.extract,
        journal=journal,
    )
    result = {"model": str(path), **result_of(report, protocol)}
    if journal is not None:
        journal.finish(result)
    if options.export is not None:
        export(report.records, env, options, path, protocol)
    return Evaluated(result, report.records)


def result_of(report: EvaluationReport, protocol: Protocol) -> dict[str, Any]:
    """The report's figures, the benchmark's own metric, and the protocol, as JSON values."""
    figures = report.summary()
    own = METRICS.get(protocol["metric"])
    named = {} if own is None else {"metrics": {protocol["metric"]: own(report.records)}}
    ordered = {name: figures[name] for name in FIGURES} | figures | named
    values: dict[str, Any] = as_json({**ordered, "scoring": "rule-based", "protocol": protocol})
    return values


def _with_limits(settings: Mapping[str, Any], options: EvaluateOptions) -> dict[str, Any]:
    """The model's settings with the limits that the options name."""
    given = {"max_prompt_tokens": options.max_prompt_tokens, "max_pixels": options.max_pixels}
    prompts = {**settings["prompts"], **{key: value for key, value in given.items() if value is not None}}
    tokens = options.max_completion_tokens or settings["max_completion_tokens"]
    if prompts["max_pixels"] < prompts["min_pixels"]:
        raise UserError(f"--max-pixels {prompts['max_pixels']}: below the model's min_pixels = {prompts['min_pixels']}")
    return {**settings, "prompts": prompts, "max_completion_tokens": tokens}


def _protocol(
    folder: Path,
    settings: Mapping[str, Any],
    options: EvaluateOptions,
    env: MultimodalQAEnv,
    questions: tuple[str, dict[str, Any]],
) -> Protocol:
    env_id, env_config = questions
    installed = versions()
    layout = LAYOUTS.get(env_config.get("benchmark") or "")
    limit = options.limit or (None if layout else DEFAULT_LIMIT)
    number = len(env.bank) if limit is None else min(limit, len(env.bank))
    sampled = {"samples": options.samples, "temperature": options.temperature, "top_p": 1.0, "seed": options.seed}
    protocol = {
        "benchmark": layout.name if layout else None,
        "metric": layout.metric if layout else "accuracy",
        "env": env_id,
        "env_config": env_config,
        "split": options.split,
        "limit": limit,
        "questions": number,
        "blind": options.blind,
        "data_digest": data_digest(env.bank, number),
        "prompt": _prompts(settings),
        "answer_format": settings["answer_format"],
        "extract": options.extract,
        "extractor": extractor_name(env.rubric, options.extract),
        "grader": grader_version(),
        "decoding": {
            "max_completion_tokens": settings["max_completion_tokens"],
            "greedy": 1,
            "sampled": sampled if options.samples else None,
        },
        "engine": options.engine,
        "batch": options.batch,
        "model": model_digest(folder),
        "versions": {"sharegrpo_rl": __version__, **{name: installed[name] for name in PACKAGES}, **_vllm(options)},
    }
    values: Protocol = as_json(protocol)
    return values


def _prompts(settings: Mapping[str, Any]) -> dict[str, Any]:
    from sharegrpo_rl.grader import ANSWER_FORMATS

    prompts = dict(settings["prompts"])
    if prompts["format_prompt"] is None:
        prompts["format_prompt"] = ANSWER_FORMATS[settings["answer_format"]].instruction
    return prompts


class _Model:
    """The model's answers; its weights are loaded with the first question, so a finished evaluation needs none."""

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], options: EvaluateOptions, env: MultimodalQAEnv
    ) -> None:
        self.options = options
        self.tokens: int = settings["max_completion_tokens"]
        self.policy = cache(lambda: _load(folder, settings))
        self.engine = cache(lambda: _engine(folder, self.policy(), self.tokens, env))

    def greedy(self, shown: list[ShownQuestion]) -> list[GeneratedText]:
        """One greedy completion each."""
        from sharegrpo_rl.evaluation.evaluate import greedy_generate

        policy = self.policy()
        return greedy_generate(policy.encoder, self._generator(policy), self.tokens)(shown)

    def sample(self, shown: list[ShownQuestion], seeds: list[int]) -> list[list[GeneratedText]]:
        """Sampled completions."""
        from sharegrpo_rl.evaluation.evaluate import sampled_generate

        options = self.options
        make = self._generator
        return sampled_generate(self.policy(), self.tokens, options.samples, options.temperature, make)(shown, seeds)

    def _generator(self, policy: Any) -> Any:
        if self.options.engine == "vllm":
            from sharegrpo_rl.generation.vllm.generator import VLLMGenerator

            return VLLMGenerator(policy, self.engine())
        from sharegrpo_rl.generation.hf import HFGenerator

        return HFGenerator(policy)


def _engine(folder: Path, policy: Any, max_completion_tokens: int, env: MultimodalQAEnv) -> Any:
    from sharegrpo_rl.config.run import VLLMOptions
    from sharegrpo_rl.generation.vllm.engine import VLLMEngine
    from sharegrpo_rl.rollouts.vllm_env_runner import most_images

    return VLLMEngine(
        str(folder),
        policy,
        dtype=str(policy.model.dtype).removeprefix("torch."),
        max_completion_tokens=max_completion_tokens,
        images_per_prompt=most_images(env.bank),
        settings=VLLMOptions(),
    )


def _vllm(options: EvaluateOptions) -> dict[str, str]:
    """vLLM's version, where it answers."""
    return {"vllm": engine_version()} if options.engine == "vllm" else {}


def _load(folder: Path, settings: Mapping[str, Any]) -> Any:
    import torch

    from sharegrpo_rl.models.loading import ModelSettings, load_policy
    from sharegrpo_rl.models.prompts import PromptSettings

    if threads := settings.get("num_threads"):
        torch.set_num_threads(threads)  # sums come out in the run's own order
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    dtype = "bfloat16" if "bfloat16" in (config.get("dtype"), config.get("torch_dtype")) else "float32"
    return load_policy(ModelSettings(str(folder), dtype, prompts=PromptSettings(**_prompts(settings))))


def choose_questions(
    settings: Mapping[str, Any],
    env: str | None,
    data: str | None,
    kinds: Sequence[str] | None = None,
    benchmark: str | None = None,
    hub_config: str | None = None,
) -> tuple[str, dict[str, Any]]:
    """Environment and its config: the model's own, with only what `--env`, `--data` and `--kinds` name replaced.

    A data set that is known as a published benchmark is read as one, whether `benchmark` names it or not.
    """
    env_id = env or settings["env"] or ("MultimodalQA-v0" if data is not None else None)
    if env_id is None:
        raise UserError("this model records no questions of its own; name some with --env or --data")
    layout = benchmark or (recognized(data) if data is not None else None)
    if data is not None and ("data" not in _keys(env_id) or (layout is not None and env is None)):
        if env is not None:
            raise UserError(f"--data {data}: {env} makes its own questions; leave out --data, or --env")
        env_id = "MultimodalQA-v0"  # a benchmark's answers need not be what the model's own task takes
    env_config = dict(settings["env_config"]) if env_id == settings["env"] else {}
    if data is not None:
        # Columns and kinds were chosen for the other data set.
        if data != env_config.get("data") or layout is not None:
            left = ("columns", "kinds", "benchmark", "hub_config")
            env_config = {key: value for key, value in env_config.items() if key not in left}
        env_config["data"] = data
    if layout is not None:
        env_config["benchmark"] = layout
    if hub_config is not None:
        env_config["hub_config"] = hub_config
    if kinds is not None:
        env_config["kinds"] = list(kinds)
    if isinstance(env_config.get("data"), list):
        # Weights of rewards change no accuracy, and rewards of the user's own may not be imported here.
        env_config["data"] = [{k: v for k, v in part.items() if k != "rewards"} for part in env_config["data"]]
    return env_id, check_environment_config(env_id, env_config)


def _keys(env_id: str) -> set[str]:
    check_environment(env_id)
    return set(ENVIRONMENTS[env_id].options.__dataclass_fields__)
