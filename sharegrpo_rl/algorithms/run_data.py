"""A run's data, read and checked once before anything is made of it: rows, pictures, ground truths, prompts.

What the walk found is kept in the user's cache under a key of everything that it depends on, so that later starts on the
same files read no row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from sharegrpo_rl.data.bank_check import BankReport
from sharegrpo_rl.data.images import named_path
from sharegrpo_rl.data.types import QuestionBank
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.envs.registry import make_env
from sharegrpo_rl.errors import UserError, package_version
from sharegrpo_rl.evaluation.prompt_check import PromptCheck
from sharegrpo_rl.files import cache_folder, cached_file
from sharegrpo_rl.grader import ANSWER_FORMATS
from sharegrpo_rl.models.prompts import PromptEncoder, PromptSettings, load_processor
from sharegrpo_rl.rollouts.groups import fitting_questions

SPLITS = ("train", "test")
MOST_FILES = 1_000_000  # beside the data: of more, no walk is remembered
_LIBRARIES = ("transformers", "tokenizers", "pillow", "numpy", "datasets", "pyarrow", "math-verify")
_REPORTS: dict[str, dict[str, list[BankReport]]] = {}  # what this process has checked, by key


def prompt_settings(config: AlgorithmConfig) -> PromptSettings:
    """What the run puts around each question."""
    instruction = config.format_prompt
    if instruction is None:
        instruction = ANSWER_FORMATS[config.answer_format].instruction
    return PromptSettings(
        config.system_prompt,
        instruction,
        config.max_prompt_tokens,
        config.min_pixels,
        config.max_pixels,
        config.escape_special_tokens,
        config.chat_template_kwargs,
    )


def use_absolute_paths(config: AlgorithmConfig) -> None:
    """Data and model by absolute paths: workers that a cluster started run in another folder than the driver."""

    def absolute(name: Any) -> Any:
        path = named_path(name) if isinstance(name, str) else None
        return str(path.absolute()) if path is not None and path.exists() else name

    data = config.env_config.get("data")
    mixed = [{**each, "data": absolute(each["data"])} for each in data] if isinstance(data, list) else None
    if data is not None:
        config.env_config = {**config.env_config, "data": mixed or absolute(data)}
    if config.model != "tiny":
        config.model = absolute(config.model)
    config.model_folder = absolute(config.model_folder)


def make_run_env(config: AlgorithmConfig, split: str) -> MultimodalQAEnv:
    """The run's environment over a whole split, the warm start's questions among them, its rows unread."""
    return make_env(
        config.env,
        config.env_config,
        split=split,
        rewards=config.rewards,
        answer_format=config.answer_format,
        check=False,
    )


def check_run_data(config: AlgorithmConfig) -> dict[str, str]:
    """Read every row of both splits, unless the same files were read before; a digest of each split's rows and pictures.

    UserError names the file, the row, its id and the remedy. Generated questions have no digest. A tiny model's prompts
    are checked when it has been made.
    """
    envs = {split: make_run_env(config, split) for split in SPLITS}
    if not any(env.read_banks() for env in envs.values()):
        return {}
    parts = _parts(config)
    key = blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()
    if key not in _REPORTS:
        file = cache_folder("checked_data") / f"{key}.json"
        lasting = None not in parts.values() and type(envs["train"]).__module__.startswith("sharegrpo_rl.")
        reports = _read(file) if lasting else None
        if reports is None:
            reports = _check(config, envs)
            if lasting:
                _keep(file, reports)
        for report in (report for split in SPLITS for report in reports[split]):
            report.log()
        _REPORTS[key] = reports
    return {split: "+".join(report.digest for report in _REPORTS[key][split]) for split in SPLITS}


def fitting_train_questions(
    config: AlgorithmConfig, bank: QuestionBank, encoder: PromptEncoder, digest: str | None
) -> list[int]:
    """Indices of the training questions that fit into `max_prompt_tokens`; looked for once for the same rows and model.

    digest: of the split's rows and pictures, from `check_run_data`. UserError where no question fits.
    """
    transformed, model = config.transform_probability > 0, encoder.fingerprint
    if not digest or model is None:
        return fitting_questions(bank, encoder, transformed)
    parts = [digest, model, config.env, config.train_env_config(), len(bank), transformed, sources_digest()]
    parts += [package_version(name) for name in _LIBRARIES]
    key = blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()
    file = cache_folder("over_long") / f"{key}.json"
    with suppress(OSError, ValueError, TypeError):
        over_long = {int(i) for i in json.loads(file.read_bytes())}
        return [i for i in range(len(bank)) if i not in over_long]
    indices = fitting_questions(bank, encoder, transformed)
    with suppress(UserError), cached_file(file) as unfinished:  # as in `_keep`
        unfinished.write_text(json.dumps(sorted(set(range(len(bank))) - set(indices))))
    return indices


def _check(config: AlgorithmConfig, envs: Mapping[str, MultimodalQAEnv]) -> dict[str, list[BankReport]]:
    if config.model == "tiny":
        return {split: env.check_rows() for split, env in envs.items()}
    encoder = PromptEncoder(load_processor(config.model), prompt_settings(config))
    return {split: env.check_rows(PromptCheck(env, encoder)) for split, env in envs.items()}


def _read(file: Path) -> dict[str, list[BankReport]] | None:
    """What an earlier process found; None where none did, or its file is damaged."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        kept = json.loads(file.read_bytes())
        return {
            split: [BankReport(r["name"], r["rows"], r["digest"], tuple(r["lines"])) for r in kept[split]]
            for split in SPLITS
        }
    return None


def _keep(file: Path, reports: Mapping[str, list[BankReport]]) -> None:
    # A cache that cannot be written only makes the next walk as long as this one.
    with suppress(UserError), cached_file(file) as unfinished:
        unfinished.write_text(json.dumps({split: [asdict(r) for r in found] for split, found in reports.items()}))


def _parts(config: AlgorithmConfig) -> dict[str, Any]:
    """Everything that the walk depends on; a part that is None is not known, and the walk then not kept."""
    data = config.env_config.get("data")
    sources = [mixed["data"] for mixed in data] if isinstance(data, list) else [data]
    files = [files_identity(str(source)) for source in sources]
    return {
        "env": config.env,
        "env_config": config.env_config,
        "data": None if None in files else files,
        "rewards": config.rewards,
        "answer_format": config.answer_format,
        "model": "tiny" if config.model == "tiny" else _model_identity(config.model),
        "model's name": config.model,
        "prompts": asdict(prompt_settings(config)),
        "versions": {name: package_version(name) for name in _LIBRARIES},
        "sources": sources_digest(),
    }


def files_identity(data: str) -> str | None:
    """Digest of name, size and time of a data set's files; of a single file also of all beside and below it, where its
    pictures may be. None where it is not on this machine, or where there are too many."""
    path = named_path(data)
    if not path.exists():
        return None
    digest = blake2b(str(path.resolve()).encode("utf-8", "surrogateescape"), digest_size=16)
    for number, entry in enumerate(_files_below(str(path if path.is_dir() else path.parent))):
        if number == MOST_FILES:
            return None
        with suppress(OSError):  # a broken link is an error where it is read
            status = entry.stat()
            digest.update(f"{entry.path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _files_below(folder: str) -> Iterator[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.is_dir(follow_symlinks=False):
                yield from _files_below(entry.path)
            else:
                yield entry


def _model_identity(model: str) -> str | None:
    """Digest of name, size and time of a model folder's files; None for a hub name."""
    return files_identity(model) if Path(model).is_dir() else None


@cache
def sources_digest() -> str:
    """Digest of this package's Python files: what is cached never outlives the code that made it."""
    root = Path(__file__).resolve().parent.parent
    digest = blake2b(digest_size=16)
    for path in sorted(root.rglob("*.py")):
        if path.relative_to(root).parts[0] not in ("runs", "search", "reports", "statistics", "cli"):
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()
