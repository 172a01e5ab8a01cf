"""Supervised fine-tuning on (prompt, target) pairs: the warm start before reinforcement learning."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from hashlib import blake2b
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sharegrpo_rl.config.run import TinyModelOptions, TrainingSettings
from sharegrpo_rl.data.cache import cache_folder
from sharegrpo_rl.data.transforms import TRANSFORMS
from sharegrpo_rl.data.types import Completion, Prompt, PromptPack, QuestionBank, SeedQuestion
from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.envs.bank_view import BankView
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.envs.registry import make_bank, make_env, make_warm_start_bank
from sharegrpo_rl.evaluation.evaluate import evaluate, greedy_generate
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.grader import ANSWER_FORMATS
from sharegrpo_rl.models.loading import ModelSettings, load_policy, save_pretrained
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import PromptSettings, Question
from sharegrpo_rl.ops.schedules import lr_multiplier
from sharegrpo_rl.rollouts.groups import fitting_questions, keep_fitting
from sharegrpo_rl.training.batching import micro_batches
from sharegrpo_rl.training.optimizer import build_optimizer

# ---- Where a run's model comes from: the tiny one built here, or a checkpoint; with the warm start, kept in a cache.

CORPUS_QUESTIONS = 1000  # read for the tiny model's tokenizer
REPORT_FILE = "warm_start.json"


def prompt_settings(config: Any) -> PromptSettings:
    """What the run puts around each question."""
    instruction = (
        ANSWER_FORMATS[config.answer_format].instruction if config.format_prompt is None else config.format_prompt
    )
    return PromptSettings(
        config.system_prompt, instruction, config.max_prompt_tokens, config.min_pixels, config.max_pixels
    )


def module_config(config: Any) -> dict[str, Any]:
    """The RLModule's `model_config`: the model's settings, and under `run` what an exported folder remembers."""
    prompts = asdict(prompt_settings(config))
    settings = ModelSettings(
        path=config.model_folder or config.model,
        dtype=config.dtype,
        freeze_vision_tower=config.freeze_vision_tower,
        freeze_projector=config.freeze_projector,
        lora=config.lora,
        activation_checkpointing=config.activation_checkpointing,
        compile=config.compile,
        temperature=config.temperature,
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


def prepare_model(config: Any) -> tuple[str, dict[str, Any] | None]:
    """The folder (or hub name) that workers load, and the warm start's report.

    A tiny or warm-started model is made once and kept in the user's cache under a key of everything that determines
    it: settings, seed, data, library versions and this package's own sources.
    """
    if config.model != "tiny" and not config.warm_start:
        return config.model, None
    folder = cache_folder("models") / _key(config)
    if not (folder / REPORT_FILE).exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder.with_suffix(".lock")), tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            if not (folder / REPORT_FILE).exists():  # else the one that was waited for has made it
                made = Path(scratch) / "model"
                report = _make(config, made)
                (made / REPORT_FILE).write_text(json.dumps(report))
                os.replace(made, folder)
    return str(folder), json.loads((folder / REPORT_FILE).read_text())


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process works under this lock; one that was killed holds it no longer."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(config: Any, folder: Path) -> dict[str, Any] | None:
    policy = tiny_policy(config) if config.model == "tiny" else _loaded_policy(config)
    report = warm_start(policy, config) if config.warm_start else None
    save_pretrained(policy, folder)
    return report


def _loaded_policy(config: Any) -> Policy:
    return load_policy(ModelSettings(config.model, config.dtype, prompts=prompt_settings(config)))


def tiny_policy(config: Any) -> Policy:
    """A fresh tiny model with a tokenizer of the run's own questions."""
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


def _corpus(bank: QuestionBank, config: Any) -> Iterator[str]:
    """Texts that the tiny tokenizer learns to write briefly: questions, answers in their format, transform sentences."""

    settings = prompt_settings(config)
    step = max(1, len(bank) // CORPUS_QUESTIONS)
    for index in islice(range(0, len(bank), step), CORPUS_QUESTIONS):
        question = bank[index]
        yield from question.wordings
        yield target_text(question, config)
        yield f"{settings.system_prompt} {settings.format_prompt}".strip()
    for transform in TRANSFORMS.values():
        yield from [transform.sentence] * 20


def _key(config: Any) -> str:
    parts = {
        "model": config.model,
        "model_config": config.model_config,
        "warm_start": config.warm_start,
        "seed": config.seed or 0,
        "env": config.env,
        "env_config": config.env_config,
        "data": _data_identity(config.env_config.get("data")),
        "prompts": asdict(prompt_settings(config)),
        "answer_format": config.answer_format,
        "max_completion_tokens": config.max_completion_tokens,
        "dtype": config.dtype,
        "threads": config.num_threads,
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "pillow", "numpy")},
        "sources": _sources_digest(),
    }
    return blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def _data_identity(data: Any) -> Any:
    """Name, size and time of every file of a data set (or of each set of a mixture), so that changed data makes a new model."""
    if isinstance(data, list):
        return [_data_identity(mixed["data"]) for mixed in data]
    if data is None or not Path(str(data)).exists():
        return data
    root = Path(str(data)).resolve()
    files = sorted(root.rglob("*")) if root.is_dir() else [root]
    return [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]


@cache
def _sources_digest() -> str:
    """Digest of this package's Python files: a cached model never outlives the code that made it."""
    root = Path(__file__).resolve().parent.parent
    digest = blake2b(digest_size=16)
    for path in sorted(root.rglob("*.py")):
        if path.relative_to(root).parts[0] not in ("tune", "reports", "statistics", "cli"):
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class SFTSettings:
    """A supervised phase: `steps` optimizer steps of `batch_size` rows, linear warm-up and linear decay to 0."""

    steps: int = 500
    batch_size: int = 32
    lr: float = 2e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    max_tokens_per_microbatch: int = 16384


def target_pack(policy: Policy, row: int, prompt: Prompt, target: str) -> PromptPack:
    """One row as a pack of one completion: the target's tokens and the end token."""
    ids = [*policy.encoder.tokenizer(target, add_special_tokens=False)["input_ids"], policy.end_ids[0]]
    tokens = np.asarray(ids, np.int64)
    completion = Completion(tokens, np.zeros(len(tokens), np.float32), target)
    return PromptPack(row, 0, prompt, (completion,), np.ones(1), np.ones(1, bool))


def supervise(
    policy: Policy,
    batch: Callable[[int], Sequence[PromptPack]],
    settings: SFTSettings,
    on_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Minimise the mean negative log-likelihood of the target tokens; `batch(step)` gives a step's rows. Returns losses."""
    options = TrainingSettings(lr=settings.lr, weight_decay=settings.weight_decay)
    optimizer = build_optimizer(policy.model, options)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    policy.model.train()
    losses = []
    for step in range(settings.steps):
        factor = lr_multiplier(step, "linear", min(settings.warmup_steps, settings.steps // 2), settings.steps)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        packs = batch(step)
        tokens = sum(len(c.token_ids) for p in packs for c in p.completions)
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for micro in micro_batches(packs, settings.max_tokens_per_microbatch):
            loss = -policy.target_logprobs(micro).sum() / tokens
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(parameters, settings.grad_clip)
        optimizer.step()
        losses.append(total)
        if on_step:
            on_step(step, total)
    return losses


# ---- The warm start: supervised fine-tuning on the first training questions, so that RL begins where rewards are found.

THOUGHT = "I look at the picture."
REPORT_QUESTIONS = 500
DEFAULTS = {
    "data": "train",
    "rows": 4000,
    "steps": 500,
    "batch_size": 32,
    "wordings": "first",
    "lr": 2e-3,
    "template": None,
    "noise_words": 0,
}


def target_text(question: SeedQuestion, config: Any) -> str:
    """What supervised training teaches: the row's solution where it has one, else a fixed thought and its key steps."""
    thought = getattr(config, "thought", None) or (config.warm_start or {}).get("template") or THOUGHT
    steps = () if question.solution else tuple(phrasings[0] for phrasings in question.key_steps)
    return ANSWER_FORMATS[config.answer_format].render(question.solution or thought, question.answer, steps)


def warm_start(policy: Policy, config: Any) -> dict[str, Any]:
    """Teach the policy on `warm_start.rows` questions; returns what it can do afterwards, on test questions."""
    options = {**DEFAULTS, **config.warm_start}
    if options["data"] == "train":
        bank = make_warm_start_bank(config.env, config.env_config, options["rows"])
    else:
        bank = make_bank(
            config.env, {**config.env_config, "data": options["data"], "max_questions": options["rows"]}, "train"
        )
    bank = BankView(bank, fitting_questions(bank, policy.encoder))
    teacher = _Teacher(policy, bank, config, options)
    started = time.monotonic()
    settings = SFTSettings(steps=options["steps"], batch_size=options["batch_size"], lr=options["lr"])
    losses = supervise(policy, teacher.batch, settings)
    taught = taught_accuracy(policy, config)
    return {
        "rows": len(bank),
        "steps": options["steps"],
        "seconds": time.monotonic() - started,
        "loss": float(np.mean(losses[-20:])),
        "accuracy_taught_wording": taught.accuracy,
        "format_rate_taught_wording": taught.format_rate,
        "questions": taught.questions,
    }


def taught_accuracy(policy: Policy, config: Any) -> Any:
    """Greedy accuracy on test questions in the wording that the warm start taught: each question's own."""
    env = make_env(
        config.env,
        config.env_config,
        split="test",
        rewards=config.rewards,
        answer_format=config.answer_format,
        check=False,
    )
    keep_fitting(env, policy.encoder, REPORT_QUESTIONS)
    generate = greedy_generate(policy.encoder, HFGenerator(policy), config.max_completion_tokens)
    return evaluate(_own_wording(env), generate, limit=REPORT_QUESTIONS, batch=config.evaluation_batch)


def _own_wording(env: MultimodalQAEnv) -> MultimodalQAEnv:
    """The environment with every question in its own wording only."""
    env.bank = BankView(env.bank, range(len(env.bank)), lambda question: replace(question, variants=()))
    return env


class _Teacher:
    """Hands out batches of (prompt, target); each epoch is a seeded shuffle of the rows."""

    def __init__(self, policy: Policy, bank: QuestionBank, config: Any, options: dict[str, Any]) -> None:
        self.policy, self.bank, self.config, self.options = policy, bank, config, options
        self.seed = config.seed or 0

    def batch(self, step: int) -> Sequence[PromptPack]:
        size = self.options["batch_size"]
        rows = [self._row(step * size + i) for i in range(size)]
        questions = [self.bank[i] for i, _ in rows]
        prompts = self.policy.encoder.encode(
            [
                self._shown(q, wording, step * size + i)
                for i, (q, (_, wording)) in enumerate(zip(questions, rows, strict=True))
            ]
        )
        return [
            target_pack(self.policy, row, prompt, target_text(question, self.config))
            for row, (question, prompt) in enumerate(zip(questions, prompts, strict=True))
        ]

    def _row(self, position: int) -> tuple[int, int]:
        """(row, wording) at a position of the endless walk over the rows."""
        epoch, place = divmod(position, len(self.bank))
        order = np.random.default_rng(derive_seed("warm start", self.seed, epoch)).permutation(len(self.bank))
        index = int(order[place])
        count = len(self.bank[index].wordings) if self.options["wordings"] == "all" else 1
        return index, derive_seed("warm start wording", self.seed, position) % count

    def _shown(self, question: SeedQuestion, wording: int, position: int) -> Question:
        pictures = tuple(np.array(source.open(), dtype=np.uint8) for source in question.images)
        text = question.wordings[wording]
        if position % 2:
            text = strew(text, self.options["noise_words"], derive_seed("warm start noise", self.seed, position))
        return Question(text, pictures, tuple(s.fingerprint() for s in question.images))


def strew(text: str, most: int, seed: int) -> str:
    """The text with 0 to `most` made-up words at random places.

    A model that has seen one wording only loses the answer's form over unknown words or other lengths; this keeps it.
    """
    if most == 0:
        return text
    rng = np.random.default_rng(seed)
    words = text.split(" ")
    for _ in range(rng.integers(0, most + 1)):
        letters = rng.integers(ord("a"), ord("z") + 1, size=rng.integers(2, 8))
        words.insert(rng.integers(0, len(words) + 1), "".join(map(chr, letters)))
    return " ".join(words)
