"""A run's model: the tiny one built here, or a checkpoint; warm-started if requested, and cached."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from sharegrpo_rl.algorithms.run_data import (
    SPLITS,
    check_run_data,
    files_identity,
    make_run_env,
    prompt_settings,
    sources_digest,
)
from sharegrpo_rl.algorithms.warm_start import target_text, warm_start
from sharegrpo_rl.config import GRPOOptions
from sharegrpo_rl.data.images import named_path
from sharegrpo_rl.data.transforms import TRANSFORMS
from sharegrpo_rl.data.types import QuestionBank
from sharegrpo_rl.envs.registry import make_bank
from sharegrpo_rl.errors import package_version
from sharegrpo_rl.evaluation.prompt_check import check_prompts
from sharegrpo_rl.files import cache_folder, file_identity, locked, replacing, storage_errors
from sharegrpo_rl.models.loading import ModelSettings, load_policy, save_pretrained
from sharegrpo_rl.models.policy import Policy

CORPUS_QUESTIONS = 1000  # read for the tiny model's tokenizer
REPORT_FILE = "warm_start.json"


def module_config(config: AlgorithmConfig) -> dict[str, Any]:
    """The RLModule's `model_config`: the model's settings, and under `run` what an exported folder remembers."""
    prompts = asdict(prompt_settings(config))
    samples = issubclass(config.options, GRPOOptions)
    settings = ModelSettings(
        path=config.model_folder or config.model,
        dtype=config.dtype,
        freeze_vision_tower=config.freeze_vision_tower,
        freeze_projector=config.freeze_projector,
        lora=config.lora,
        activation_checkpointing=config.activation_checkpointing,
        compile=config.compile,
        temperature=config.temperature if samples else 1.0,
        logprob_temperature=config.logprob_temperature if samples else None,
        seed=config.seed or 0,
    )
    run = {
        "algorithm": config.name,
        "env": config.env,
        "env_config": config.env_config,
        "answer_format": config.answer_format,
        "rewards": config.rewards,
        "prompts": prompts,
        "max_completion_tokens": config.max_completion_tokens,
        "num_threads": config.num_threads,
    }
    return {"settings": {**asdict(settings), "prompts": prompts}, "run": run}


def prepare_model(config: AlgorithmConfig) -> tuple[str, dict[str, Any] | None]:
    """The folder (or hub name) that workers load, and the warm start's report; the data is read and checked first.

    A tiny or warm-started model is made once and kept in the user's cache under a key of everything that determines
    it: settings, seed, data, library versions and this package's own sources.
    """
    digests = check_run_data(config)
    if config.model != "tiny" and not config.warm_start:
        return config.model, None
    folder = cache_folder("models") / cache_key(config, digests)
    if not (folder / REPORT_FILE).exists():
        with storage_errors(folder, "free space, or set XDG_CACHE_HOME to another folder"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = folder.with_suffix(".lock")
            lock.touch()
            with locked(lock):
                if not (folder / REPORT_FILE).exists():  # else the process waited for has made it
                    with replacing(folder) as partial:
                        report = _make(config, partial)
                        (partial / REPORT_FILE).write_text(json.dumps(report))
    return str(folder), json.loads((folder / REPORT_FILE).read_text())


def _make(config: AlgorithmConfig, folder: Path) -> dict[str, Any] | None:
    settings = ModelSettings(config.model, config.dtype, prompts=prompt_settings(config))
    if config.model == "tiny":
        policy = tiny_policy(config)
        for split in SPLITS:
            check_prompts(make_run_env(config, split), policy.encoder)
    else:
        policy = load_policy(settings)
    size = sum(weight.nbytes for weight in policy.model.state_dict().values())
    if shutil.disk_usage(folder.parent).free < size:  # found before the warm start, not after it
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    report = warm_start(policy, config) if config.warm_start else None
    save_pretrained(policy, folder)
    return report


def tiny_policy(config: AlgorithmConfig) -> Policy:
    """A fresh tiny model with a tokenizer of the run's own questions."""
    from sharegrpo_rl.config.run import TinyModelOptions
    from sharegrpo_rl.models.tiny import build_tiny

    bank = make_bank(config.env, config.env_config, "train", check=False)
    model, processor = build_tiny(
        TinyModelOptions(**config.model_config),
        _corpus(bank, config),
        config.seed or 0,
        config.min_pixels,
        config.max_pixels,
    )
    return Policy(model, processor, prompt_settings(config))


def _corpus(bank: QuestionBank, config: AlgorithmConfig) -> Iterator[str]:
    """Texts that the tiny tokenizer learns to encode: questions, answers in their format, transform sentences."""
    settings = prompt_settings(config)
    step = max(1, len(bank) // CORPUS_QUESTIONS)
    for index in islice(range(0, len(bank), step), CORPUS_QUESTIONS):
        question = bank[index]
        yield from question.wordings
        yield target_text(question, config)
        yield f"{settings.system_prompt} {settings.format_prompt}".strip()
    for transform in TRANSFORMS.values():
        yield from [transform.sentence] * 20


def cache_key(config: AlgorithmConfig, digests: Mapping[str, str]) -> str:
    """Digest of everything that determines the prepared model; `digests` are those of the data's splits."""
    parts = {
        "model": config.model,
        "model_config": config.model_config,
        "warm_start": config.warm_start,
        "seed": config.seed or 0,
        "env": config.env,
        "env_config": config.env_config,
        "data": dict(digests),
        "warm_start's data": _own_data_identity((config.warm_start or {}).get("data", "train")),
        "prompts": asdict(prompt_settings(config)),
        "answer_format": config.answer_format,
        "max_completion_tokens": config.max_completion_tokens,
        "dtype": config.dtype,
        "threads": config.num_threads,
        "versions": {
            name: package_version(name) for name in ("torch", "transformers", "tokenizers", "pillow", "numpy")
        },
        "sources": sources_digest(),
    }
    return blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def _own_data_identity(data: str) -> str | None:
    """Of a warm start's own data: a folder's files, or a file alone, since what a run writes may lie beside it."""
    path = named_path(data)
    if data == "train" or not path.exists():
        return None
    return files_identity(data) if path.is_dir() else file_identity(path)
