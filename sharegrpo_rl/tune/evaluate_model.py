"""`evaluate`: an exported model or a checkpoint on its own questions, or on others under its own prompts and limits."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sharegrpo_rl.envs.registry import ENVIRONMENTS, make_env
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.evaluate import Generate, evaluate
from sharegrpo_rl.evaluation.report import EvaluationReport
from sharegrpo_rl.tune.environment_options import check_environment, check_environment_config
from sharegrpo_rl.tune.model_folder import find_model_folder, model_settings
from sharegrpo_rl.tune.quiet import quiet_libraries
from sharegrpo_rl.tune.result_log import as_json

FIGURES = ("accuracy", "questions", "confidence_interval", "format_rate", "truncated_rate", "mean_length", "extractor")


def evaluate_model(
    path: Path,
    *,
    env: str | None,
    data: str | None,
    split: str,
    limit: int,
    blind: bool,
    kinds: Sequence[str] | None = None,
) -> EvaluationReport:
    """Greedy accuracy on the first `limit` questions of a split; UserError where model or questions cannot be had.

    `kinds` asks for other kinds of question than the run's own: evaluation across tasks.
    """
    quiet_libraries()
    if env is not None:
        check_environment(env)
    folder = find_model_folder(path)
    settings = model_settings(folder)
    env_id, env_config = choose_questions(settings, env, data, kinds)
    answer_format = settings["answer_format"]
    environment = make_env(env_id, env_config, split=split, answer_format=answer_format)
    generate = _greedy(folder, settings)
    return evaluate(environment, generate, limit=limit, blind=blind)


def _greedy(folder: Path, settings: Mapping[str, Any]) -> Generate:
    import torch

    from sharegrpo_rl.algorithms.greedy import greedy_generate
    from sharegrpo_rl.models.loading import ModelSettings, load_policy
    from sharegrpo_rl.models.prompts import PromptSettings
    from sharegrpo_rl.rewards.formats import ANSWER_FORMATS

    if threads := settings.get("num_threads"):
        torch.set_num_threads(threads)  # sums come out in the run's own order
    prompts = dict(settings["prompts"])
    if prompts["format_prompt"] is None:
        prompts["format_prompt"] = ANSWER_FORMATS[settings["answer_format"]].instruction
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    dtype = "bfloat16" if "bfloat16" in (config.get("dtype"), config.get("torch_dtype")) else "float32"
    policy = load_policy(ModelSettings(str(folder), dtype, prompts=PromptSettings(**prompts)))
    return greedy_generate(policy, settings["max_completion_tokens"])


def choose_questions(
    settings: Mapping[str, Any], env: str | None, data: str | None, kinds: Sequence[str] | None = None
) -> tuple[str, dict[str, Any]]:
    """Environment and its config: the model's own, with only what `--env`, `--data` and `--kinds` name replaced."""
    env_id = env or settings["env"] or ("MultimodalQA-v0" if data is not None else None)
    if env_id is None:
        raise UserError("this model records no questions of its own; name some with --env or --data")
    if data is not None and "data" not in _keys(env_id):
        if env is not None:
            raise UserError(f"--data {data}: {env} makes its own questions; leave out --data, or --env")
        env_id = "MultimodalQA-v0"
    env_config = dict(settings["env_config"]) if env_id == settings["env"] else {}
    if data is not None:
        # Columns and kinds were chosen for the other data set.
        if data != env_config.get("data"):
            env_config = {key: value for key, value in env_config.items() if key not in ("columns", "kinds")}
        env_config["data"] = data
    if kinds is not None:
        env_config["kinds"] = list(kinds)
    if isinstance(env_config.get("data"), list):
        # Weights of rewards change no accuracy, and rewards of the user's own may not be imported here.
        env_config["data"] = [{k: v for k, v in part.items() if k != "rewards"} for part in env_config["data"]]
    return env_id, check_environment_config(env_id, env_config)


def _keys(env_id: str) -> set[str]:
    check_environment(env_id)
    return set(ENVIRONMENTS[env_id].options.__dataclass_fields__)


def print_report(report: EvaluationReport, as_json_line: bool) -> None:
    """One JSON object, or a short table and the accuracy of each kind."""
    figures = report.summary()
    if as_json_line:
        ordered = {name: figures[name] for name in FIGURES} | figures
        sys.stdout.write(json.dumps(as_json(ordered), allow_nan=False) + "\n")
        return
    low, high = report.confidence_interval
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_row("accuracy", f"{report.accuracy:.4f}  (95 % interval {low:.4f} to {high:.4f})")
    for name in ("questions", "format_rate", "truncated_rate", "mean_length", "extractor"):
        value = figures[name]
        table.add_row(name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
    for task, entry in report.by_task.items():
        table.add_row(f"  {task}", f"{entry['accuracy']:.4f}  of {entry['questions']}")
    if len(report.by_kind) > 1:
        for kind, entry in report.by_kind.items():
            table.add_row(f"  {kind or '(unnamed)'}", f"{entry['accuracy']:.4f}  of {entry['questions']}")
    Console().print(table)
