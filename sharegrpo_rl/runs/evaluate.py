"""`evaluate`: an exported model or a checkpoint on its own questions, or on others under its own prompts and limits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any

from sharegrpo_rl import __version__
from sharegrpo_rl.data.benchmarks.layout import LAYOUTS
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.envs.registry import make_env
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.benchmark_metrics import METRICS
from sharegrpo_rl.evaluation.evaluate import ShownQuestion, evaluate, greedy_generate, sampled_generate
from sharegrpo_rl.evaluation.exchange import export_predictions
from sharegrpo_rl.evaluation.folder import EvaluationFolder, Protocol, data_digest, grader_version, model_digest
from sharegrpo_rl.evaluation.prompt_check import check_prompts
from sharegrpo_rl.evaluation.report import EvaluationRecord, EvaluationReport, GeneratedText
from sharegrpo_rl.evaluation.verdict import extractor_name
from sharegrpo_rl.files import as_json
from sharegrpo_rl.generation.generator import Generator, engine_version
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.grader import ANSWER_FORMATS
from sharegrpo_rl.models.loading import ModelSettings, load_policy
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import PromptEncoder, PromptSettings, load_processor
from sharegrpo_rl.runs.evaluate_options import EvaluateOptions, check_export, check_options, choose_questions
from sharegrpo_rl.runs.folder import versions
from sharegrpo_rl.runs.model_folder import find_model_folder, model_settings
from sharegrpo_rl.runs.process import quiet_libraries

DEFAULT_LIMIT = 500  # questions; of a benchmark all of them
PACKAGES = ("torch", "transformers", "numpy", "pillow", "math-verify")  # whose versions a figure may depend on
FIGURES = ("accuracy", "questions", "confidence_interval", "format_rate", "truncated_rate", "mean_length", "extractor")


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation: the content of `result.json`, and its records."""

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

    `questions` (environment and its config) are those of another evaluation, instead of what the options choose.
    """
    check_options(options)
    quiet_libraries()
    folder = find_model_folder(path)
    settings = _settings(folder, options)
    env_id, env_config = questions or choose_questions(settings, options)
    if options.export is not None:
        check_export(options, env_config)
    env = make_env(env_id, env_config, split=options.split, answer_format=settings["answer_format"])
    protocol = _protocol(folder, settings, options, env, env_id, env_config)
    kept = None if options.out is None else EvaluationFolder(options.out, protocol)
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
        folder=kept,
    )
    result = {"model": str(path), **_result(report, protocol)}
    if kept is not None:
        kept.finish(result)
        if options.export is not None:
            _export(report, env, path, options.export, options.export_name, kept)
    return Evaluated(result, report.records)


def _settings(folder: Path, options: EvaluateOptions) -> dict[str, Any]:
    """The model's settings with the limits of the options and the instruction of its answer format."""
    settings = model_settings(folder)
    prompts = dict(settings["prompts"])
    for limit in ("max_prompt_tokens", "min_pixels", "max_pixels"):
        if (given := getattr(options, limit)) is not None:
            prompts[limit] = given
    fewest, most = prompts["min_pixels"] or 1, prompts["max_pixels"] or inf
    if most < fewest and options.max_pixels is not None:
        raise UserError(f"--max-pixels {most}: below the smallest image, {fewest}; give --min-pixels {most} too")
    if most < fewest:
        raise UserError(f"--min-pixels {fewest}: above the largest image, {most}; give --max-pixels {fewest} too")
    if prompts["format_prompt"] is None:
        prompts["format_prompt"] = ANSWER_FORMATS[settings["answer_format"]].instruction
    tokens = options.max_completion_tokens or settings["max_completion_tokens"]
    return {**settings, "prompts": prompts, "max_completion_tokens": tokens}


def _protocol(
    folder: Path,
    settings: Mapping[str, Any],
    options: EvaluateOptions,
    env: MultimodalQAEnv,
    env_id: str,
    env_config: Mapping[str, Any],
) -> Protocol:
    layout = LAYOUTS.get(env_config.get("benchmark") or "")
    limit = options.limit or (None if layout else DEFAULT_LIMIT)
    number = len(env.bank) if limit is None else min(limit, len(env.bank))
    sampled = {"samples": options.samples, "temperature": options.temperature, "top_p": 1.0, "seed": options.seed}
    installed = versions()
    packages: dict[str, str | None] = {"sharegrpo_rl": __version__, **{name: installed[name] for name in PACKAGES}}
    if options.engine == "vllm":
        packages["vllm"] = engine_version()
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
        "prompt": settings["prompts"],
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
        "versions": packages,
    }
    values: Protocol = as_json(protocol)
    return values


def _result(report: EvaluationReport, protocol: Protocol) -> dict[str, Any]:
    """The report's figures, the benchmark's own metric, and the protocol, as JSON values."""
    summary = report.summary()
    result = {name: summary[name] for name in FIGURES} | summary
    if metric := METRICS.get(protocol["metric"]):
        result["metrics"] = {protocol["metric"]: metric(report.records)}
    values: dict[str, Any] = as_json({**result, "scoring": "rule-based", "protocol": protocol})
    return values


def _export(
    report: EvaluationReport, env: MultimodalQAEnv, path: Path, form: str, name: str | None, kept: EvaluationFolder
) -> None:
    """Write the predictions for another tool into OUT/export, named after the model and the benchmark."""
    layout = LAYOUTS[kept.protocol["benchmark"]]
    of_tool = layout.lmms_task if form == "lmms-eval" else Path(str(kept.protocol["env_config"]["data"])).stem
    model = path.resolve().name if path.name != "export" else path.resolve().parent.name
    folder = kept.path / "export"
    export_predictions(report.records, env.bank, form, folder=folder, model=model, name=name or of_tool or layout.name)


class _Model:
    """The model's answers. It is loaded with the first question, so that a finished evaluation loads none."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        options: EvaluateOptions,
        env: MultimodalQAEnv,
    ) -> None:
        self.folder, self.settings, self.options, self.env = folder, settings, options, env
        self.max_tokens: int = settings["max_completion_tokens"]

    def greedy(self, shown: list[ShownQuestion]) -> list[GeneratedText]:
        """One greedy completion of each question."""
        return greedy_generate(self.policy.encoder, self._generator(self.policy), self.max_tokens)(shown)

    def sample(self, shown: list[ShownQuestion], seeds: list[int]) -> list[list[GeneratedText]]:
        """Sampled completions of each question."""
        samples, temperature = self.options.samples, self.options.temperature
        return sampled_generate(self.policy, self.max_tokens, samples, temperature, self._generator)(shown, seeds)

    @cached_property
    def policy(self) -> Policy:
        """The model, computing as in its run: with its dtype, and its number of threads so that sums are equal."""
        import torch

        if threads := self.settings.get("num_threads"):
            torch.set_num_threads(threads)
        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        dtype = "bfloat16" if "bfloat16" in (config.get("dtype"), config.get("torch_dtype")) else "float32"
        prompts = PromptSettings(**self.settings["prompts"])
        check_prompts(self.env, PromptEncoder(load_processor(str(self.folder)), prompts))
        return load_policy(ModelSettings(str(self.folder), dtype, prompts=prompts))

    def _generator(self, policy: Policy) -> Generator:
        if self.options.engine != "vllm":
            return HFGenerator(policy)
        from sharegrpo_rl.generation.vllm.generator import VLLMGenerator

        generator = VLLMGenerator(policy, self._engine)
        generator.check_once()
        return generator

    @cached_property
    def _engine(self) -> Any:
        from sharegrpo_rl.config.run import VLLMOptions
        from sharegrpo_rl.generation.vllm.engine import VLLMEngine
        from sharegrpo_rl.rollouts.vllm_env_runner import most_images

        return VLLMEngine(
            str(self.folder),
            self.policy,
            dtype=str(self.policy.model.dtype).removeprefix("torch."),
            max_completion_tokens=self.max_tokens,
            images_per_prompt=most_images(self.env.bank),
            settings=VLLMOptions(),
        )
