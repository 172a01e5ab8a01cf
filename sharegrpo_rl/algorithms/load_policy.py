"""A trained model from an exported folder or a checkpoint, ready to answer: no Ray, nothing unpickled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.algorithms.greedy import greedy_generate
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.evaluate import ShownQuestion
from sharegrpo_rl.evaluation.report import GeneratedText
from sharegrpo_rl.models.loading import ModelSettings, save_pretrained
from sharegrpo_rl.models.loading import load_policy as load_model_policy
from sharegrpo_rl.models.prompts import PromptSettings, Question

SETTINGS_FILE = "sharegrpo_rl.json"
CHECKPOINT_MODULE = Path("learner_group/learner/rl_module/default_policy")
DEFAULT_SETTINGS: dict[str, Any] = {
    "env": None,
    "env_config": {},
    "answer_format": "think_answer",
    "rewards": {"accuracy": 0.9, "format": 0.1},
    "prompts": None,
    "max_completion_tokens": 512,
}


class LoadedPolicy:
    """A policy with what its run recorded in `settings`: env, env_config, prompts, answer_format, limits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = {**DEFAULT_SETTINGS, **_recorded(folder)}
        self.policy = load_model_policy(ModelSettings(str(folder), prompts=self._prompts()))
        self.generate_greedy_batch = greedy_generate(self.policy, self.settings["max_completion_tokens"])

    def _prompts(self) -> PromptSettings:
        if self.settings["prompts"]:
            return PromptSettings(**self.settings["prompts"])
        from sharegrpo_rl.rewards.formats import ANSWER_FORMATS

        return PromptSettings(format_prompt=ANSWER_FORMATS[self.settings["answer_format"]].instruction)

    def generate_greedy(self, shown: list[ShownQuestion]) -> list[GeneratedText]:
        """One greedy completion for each shown question; what `evaluation.evaluate` takes."""
        return self.generate_greedy_batch(shown)

    def encode(self, text: str, images: Sequence[NDArray[np.uint8]]) -> tuple[str, int, int]:
        """(prompt text, its tokens, its image tokens) of one question."""
        return encode_for_preview(self.policy.encoder, text, images)

    def save(self, folder: Path) -> None:
        """Export as a Hugging Face folder."""
        save_pretrained(self.policy, folder)
        (folder / SETTINGS_FILE).write_text(json.dumps(_recorded(self.folder), indent=2) + "\n")


def load_policy(path: str | Path) -> LoadedPolicy:
    """The policy of an exported folder, a run folder, a checkpoint, or any Hugging Face folder; UserError if it is none."""
    folder = Path(path)
    for candidate in (folder, folder / CHECKPOINT_MODULE, folder / "export"):
        if (candidate / "config.json").exists():
            return LoadedPolicy(candidate)
    if folder.exists():
        raise UserError(
            f"{path}: no model here; give an exported folder, a run folder or a checkpoint (it has config.json)"
        )
    raise UserError(f"{path}: no such model or checkpoint; train one first, or give an exported folder")


def encode_for_preview(encoder: Any, text: str, images: Sequence[NDArray[np.uint8]]) -> tuple[str, int, int]:
    """(prompt text before placeholders are expanded, tokens, image tokens), also where the prompt is over-long."""
    question = Question(text, tuple(images))
    ids = encoder.token_ids(question)
    token = encoder.tokenizer.convert_tokens_to_ids(encoder.image_token) if encoder.image_token else None
    return encoder.template(question), len(ids), int((ids == token).sum())


def _recorded(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS_FILE
    if not path.exists():
        return {}
    try:
        recorded = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); export the model again") from error
    if not isinstance(recorded, dict):
        raise UserError(f"{path}: expected a table of settings; export the model again")
    return recorded
