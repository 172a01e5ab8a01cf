"""The RLlib Learner: a thin wrap of `training/`, so that optimizer and weights live where RLlib looks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.annotations import override

from sharegrpo_rl.data.types import PromptPack
from sharegrpo_rl.learners.vlm_rl_module import VLMRLModule, model_settings
from sharegrpo_rl.models.loading import load_policy
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.training.settings import TrainingSettings
from sharegrpo_rl.training.step import TrainingStep


class VLMLearner(TorchLearner):
    """Trains one VLMRLModule on prompt packs."""

    step: TrainingStep

    @override(TorchLearner)
    def build(self) -> None:
        torch.set_num_threads(self.config.num_threads)
        super().build()

    @override(TorchLearner)
    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Make the training step and register its optimizer."""
        options = {name: getattr(self.config, name) for name in self.config.option_names()}
        settings = replace(TrainingSettings.pick(options), objective=self.config.objective)
        reference = self._reference() if settings.uses_reference else None
        self.step = TrainingStep(self.rl_module.policy, settings, reference)
        parameters = [p for group in self.step.optimizer.param_groups for p in group["params"]]
        self.register_optimizer(module_id=module_id, optimizer=self.step.optimizer, params=parameters)

    @property
    def rl_module(self) -> VLMRLModule:
        """The one module that is trained."""
        return self.module[DEFAULT_MODULE_ID].unwrapped()

    def update_packs(self, packs: Sequence[PromptPack]) -> dict[str, float]:
        """Train on the packs; returns the update's metrics."""
        self._weights_seq_no += 1
        return self.step.update(packs)

    def reference_kl(self, packs: Sequence[PromptPack]) -> tuple[float, list[np.ndarray]]:
        """The KL's weight at the next optimizer step, and each pack's summed KL by completion, [G] nats."""
        return self.step.kl_weight(), self.step.reference_kl(packs)

    def _reference(self) -> Policy:
        """The frozen policy that the KL term looks at: the model as it was before RL."""
        reference = load_policy(replace(model_settings(self.rl_module.model_config), lora=None))
        reference.model.requires_grad_(False).eval()
        return reference

    @override(TorchLearner)
    def compute_loss_for_module(self, **kwargs: Any) -> Any:
        raise NotImplementedError("losses are computed by training/loss.py on packs; call update_packs")

    @override(TorchLearner)
    def set_state(self, state: dict[str, Any]) -> None:
        """Always take the given weights: RLlib would ignore an older checkpoint by its sequence number."""
        self._weights_seq_no = 0
        super().set_state(state)

    @override(TorchLearner)
    def _get_optimizer_state(self) -> dict[str, Any]:
        return {DEFAULT_MODULE_ID: self.step.get_state()}

    @override(TorchLearner)
    def _set_optimizer_state(self, state: dict[str, Any]) -> None:
        self.step.set_state(state[DEFAULT_MODULE_ID])
