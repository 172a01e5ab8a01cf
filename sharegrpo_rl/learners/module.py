"""The RLModule around a Policy: what RLlib moves, saves and restores; its state survives bfloat16, as safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.utils.annotations import override
from safetensors.numpy import load_file, save_file

from sharegrpo_rl.models.loading import ModelSettings, outline_policy, save_pretrained
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import PromptSettings
from sharegrpo_rl.models.weights import to_array, to_tensor
from sharegrpo_rl.training.sharding import load_on_ranks

State = dict[str, np.ndarray]
SETTINGS_FILE = "sharegrpo_rl.json"


class VLMRLModule(TorchRLModule):
    """Holds a Policy. Generation and training use the policy itself; RLlib moves, saves and restores its weights."""

    policy: Policy

    @override(TorchRLModule)
    def setup(self) -> None:
        """Load the model that `model_config["settings"]` describes; `model_config["run"]` is what an export records.

        A Learner moves its module to its device itself, and one of several has an outline until it has sharded it; an env
        runner's copy goes to `model_config["generates_on"]`, or stays an outline where the runner has an engine.
        """
        outline = self.inference_only and self.model_config.get("outline")
        try:
            self.policy = (outline_policy if outline else load_on_ranks)(model_settings(self.model_config))
        except AttributeError as error:  # RLlib would take it for an old-style constructor and hide it
            raise RuntimeError(f"building the model failed: {error}") from error
        self.model = self.policy.model
        if self.inference_only and (device := self.model_config.get("generates_on")):
            self.model.to(device)

    @override(TorchRLModule)
    def get_state(self, *args: Any, **kwargs: Any) -> State:
        """Trainable and frozen weights as numpy arrays; bfloat16, which numpy lacks, as uint16."""
        return {name: to_array(tensor).copy() for name, tensor in self.model.state_dict().items()}

    @override(TorchRLModule)
    def set_state(self, state: State) -> None:
        """Copy weights in place."""
        with torch.no_grad():
            for name, tensor in self.model.state_dict().items():
                tensor.copy_(to_tensor(state[name]))

    @override(TorchRLModule)
    def save_to_path(self, path: Any = None, *, state: State | None = None, **kwargs: Any) -> str:
        """A Hugging Face folder that `evaluate` and transformers load, and the exact state next to it."""
        folder = Path(path)
        self.save_pretrained(folder)
        save_file(state or self.get_state(), folder / "module_state.safetensors")
        return str(folder)

    @override(TorchRLModule)
    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Load the exact state; nothing is unpickled."""
        self.set_state(load_file(Path(path) / "module_state.safetensors"))

    def save_pretrained(self, folder: Path) -> None:
        """The model, its processor and `sharegrpo_rl.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_pretrained(self.policy, folder)
        self.write_settings(folder)

    def write_settings(self, folder: Path) -> None:
        """`sharegrpo_rl.json`: how the run asked and graded."""
        (folder / SETTINGS_FILE).write_text(json.dumps(self.model_config.get("run", {}), indent=2) + "\n")

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        raise NotImplementedError("token policies are run by generation/ and training/, not by RLlib's forward methods")


def model_settings(model_config: dict[str, Any]) -> ModelSettings:
    """ModelSettings from the plain dict that RLlib carries."""
    settings = dict(model_config["settings"])
    return ModelSettings(**settings | {"prompts": PromptSettings(**settings["prompts"])})
