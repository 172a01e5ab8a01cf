"""RLlib's Learner and LearnerGroup over prompt packs: thin wraps of `training/`; here one Learner, in the driver."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import torch.distributed as dist
from ray.exceptions import ObjectLostError
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.annotations import override

from sharegrpo_rl.data.types import PixelInput, Prompt, PromptPack
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.learners.failures import PixelsLost
from sharegrpo_rl.learners.module import VLMRLModule, model_settings
from sharegrpo_rl.models.loading import parameter_table
from sharegrpo_rl.models.policy import AdaptersOff, Policy
from sharegrpo_rl.models.probe import check_engine_answers
from sharegrpo_rl.models.weights import adapter_weights, engine_weights, in_buckets, to_array
from sharegrpo_rl.training.batching import UpdateShare
from sharegrpo_rl.training.checkpoint import export_pretrained, full_weights, load, save
from sharegrpo_rl.training.sharding import FSDP2, Ranks, full_tensor, load_on_ranks, shard
from sharegrpo_rl.training.step import TrainingStep

MODEL = Path("learner/rl_module/default_policy")  # RLlib's layout
SHARDS = "shards"
FACTS_FILE = "learner.json"


class VLMLearner(TorchLearner):
    """Trains one VLMRLModule on prompt packs."""

    step: TrainingStep

    @override(TorchLearner)
    def build(self) -> None:
        if self.config.num_learners > 0:
            raise UserError(
                "num_learners: RLlib's own remote LearnerGroup cannot train on prompt packs; build the group with the "
                "config's build_learner_group(), which places the learners in Ray Train workers"
            )
        torch.set_num_threads(self.config.num_threads)
        super().build()

    @override(TorchLearner)
    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Build the training step and register its optimizer; in a worker group the policy is sharded first."""
        options = self.config.to_options()
        policy = self.rl_module.policy
        self._shard(policy)
        reference = self._reference(policy) if options.uses_reference else None
        self.step = TrainingStep(policy, options, reference)
        parameters = [p for group in self.step.optimizer.param_groups for p in group["params"]]
        self.register_optimizer(module_id=module_id, optimizer=self.step.optimizer, params=parameters)

    @property
    def rl_module(self) -> VLMRLModule:
        """The module that is trained."""
        return self.module[DEFAULT_MODULE_ID].unwrapped()

    @property
    def version(self) -> int:
        """Number of updates that the weights have seen."""
        return self._weights_seq_no

    @version.setter
    def version(self, version: int) -> None:
        self._weights_seq_no = version

    def update_packs(self, packs: Sequence[PromptPack]) -> dict[str, float]:
        """Train on the packs; returns the update's metrics."""
        self._weights_seq_no += 1
        return self._without_gradients(self.step.update(packs))

    def update_share(self, share: UpdateShare) -> dict[str, float]:
        """Train on one rank's share of packs; returns the metrics of the whole update."""
        self._weights_seq_no += 1
        return self._without_gradients(self.step.run(share))

    def _without_gradients(self, metrics: dict[str, float]) -> dict[str, float]:
        # Until the next update their memory is a generator's on the same GPU.
        self.step.optimizer.zero_grad(set_to_none=True)
        return metrics

    def reference_kl(self, packs: Sequence[PromptPack]) -> tuple[float, list[np.ndarray]]:
        """The KL's weight at the next optimizer step, and each pack's summed KL by completion, [G] nats."""
        return self.step.kl_weight(), self.step.reference_kl(packs)

    def module_state(self) -> dict[str, np.ndarray]:
        """The module's whole state, as its `set_state` takes it; on rank 0 only. Collective."""
        return {name: to_array(tensor) for name, tensor in full_weights(self.rl_module.policy)}

    def weight_parts(self, everything: bool) -> Iterator[tuple[dict[str, np.ndarray], bool]]:
        """Buckets (name -> array) of what training changes, or of `everything`, and whether each is the last.

        Empty on all ranks but 0. Each step is collective: a bucket is gathered when the iterator reaches it.
        """
        policy, first = self.rl_module.policy, self.step.ranks.rank == 0
        model = policy.model
        weights = adapter_weights(model) if self.config.sends_adapters() else engine_weights(model, everything)
        for bucket, last in in_buckets(weights):
            arrays = {}
            for name, tensor in bucket:
                gathered = full_tensor(tensor.detach().to(policy.loaded_dtypes.get(name, tensor.dtype)))
                if first:
                    arrays[name] = to_array(gathered)
            yield arrays, last

    def _reference(self, policy: Policy) -> Policy | AdaptersOff:
        """The frozen policy of the KL term, the model as it was before RL; with LoRA the same model without adapters."""
        if self.config.lora is not None:
            return policy.adapters_off()
        reference = load_on_ranks(model_settings(self.rl_module.model_config))
        reference.model.requires_grad_(False).eval()
        if not (reference.is_outline or self._uses_fsdp()):
            reference.model.to(self.device)
        self._shard(reference)
        return reference

    def _shard(self, policy: Policy) -> None:
        if _in_a_group():
            shard(policy, self.config.sharding, self.config.cpu_offload, self.config.fsdp_size)

    def _uses_fsdp(self) -> bool:
        return _in_a_group() and self.config.sharding == FSDP2

    @override(TorchLearner)
    def _map_module_to_device(self, module: Any) -> None:
        """Not under FSDP2, which moves each layer to the GPU when it shards it: the full model need not fit there. And not
        one of several learners', an outline, which gets its weights there."""
        if Ranks.current().size == 1 and not self._uses_fsdp():
            super()._map_module_to_device(module)

    @override(TorchLearner)
    def compute_loss_for_module(self, **kwargs: Any) -> Any:
        raise NotImplementedError("losses are computed by training/loss.py on packs; call update_packs")

    @override(TorchLearner)
    def set_state(self, state: dict[str, Any]) -> None:
        """Always load the weights: RLlib would ignore an older checkpoint by its sequence number."""
        self._weights_seq_no = 0
        super().set_state(state)

    @override(TorchLearner)
    def _get_optimizer_state(self) -> dict[str, Any]:
        return {DEFAULT_MODULE_ID: self.step.get_state()}

    @override(TorchLearner)
    def _set_optimizer_state(self, state: dict[str, Any]) -> None:
        self.step.set_state(state[DEFAULT_MODULE_ID])


def _in_a_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def write_checkpoint(learner: VLMLearner, folder: Path, model: bool = True) -> None:
    """Every rank writes its shards, rank 0 also the version and the `model`. The folder has no shards yet. Collective."""
    folder.mkdir(parents=True, exist_ok=True)
    save(learner.step, folder / SHARDS)
    if model:
        export(learner, folder / MODEL)
    if Ranks.current().rank == 0:
        (folder / FACTS_FILE).write_text(json.dumps({"version": learner.version}))


def read_checkpoint(learner: VLMLearner, folder: Path) -> None:
    """Continue from what any number of ranks have written. Collective."""
    load(learner.step, folder / SHARDS)
    learner.version = json.loads((folder / FACTS_FILE).read_text())["version"]


def has_checkpoint(folder: Path) -> bool:
    """Has `write_checkpoint` written this folder?"""
    return (folder / FACTS_FILE).exists()


def export(learner: VLMLearner, folder: Path) -> None:
    """The model as a Hugging Face folder with `sharegrpo_rl.json`, written by rank 0. Collective."""
    module = learner.rl_module
    if module.policy.sharded:
        export_pretrained(module.policy, folder)
        if Ranks.current().rank == 0:
            module.write_settings(folder)
    elif Ranks.current().rank == 0:
        module.save_pretrained(folder)


class VLMLearnerGroup(LearnerGroup):
    """RLlib's group with `update(packs)`; state, weights and checkpoints are RLlib's."""

    def __init__(self, *, config: AlgorithmConfig, **kwargs: Any) -> None:
        if config.num_learners:
            raise UserError(
                "num_learners: remote learners live in a TrainLearnerGroup; config.build_learner_group() makes it"
            )
        super().__init__(config=config, **kwargs)

    @property
    def local_learner(self) -> VLMLearner:
        """The Learner of this process."""
        return self._learner

    @override(LearnerGroup)
    def update(self, packs: Sequence[PromptPack], **kwargs: Any) -> dict[str, float]:
        """Train on the packs; pixels that env runners left in the object store are fetched here."""
        return self.local_learner.update_packs(fetch_pixels(packs))

    def sampled_logprobs(self) -> Mapping[int, np.ndarray]:
        """With replay: log-probs [T] of the last update's sampled pairs, by the policy before it. Pairs number the packs'
        completions in order; those that needed no pass are missing."""
        return self.local_learner.step.sampled_logprobs

    def reference_kl(self, packs: Sequence[PromptPack]) -> tuple[float, list[np.ndarray]]:
        """The KL's weight at the next optimizer step, and each pack's summed KL by completion, [G] nats."""
        return self.local_learner.reference_kl(fetch_pixels(packs))

    def check_engine(self, packs: Sequence[PromptPack]) -> None:
        """UserError where an engine that has the learners' weights sampled the packs with other probabilities than theirs."""
        check_engine_answers(self.local_learner.rl_module.policy, packs)

    def parameter_table(self) -> list[tuple[str, int, int]]:
        """(part, parameters, trainable parameters) of the model."""
        return parameter_table(self.local_learner.rl_module.model)

    def export(self, folder: Path) -> None:
        """The model as a Hugging Face folder with `sharegrpo_rl.json`."""
        export(self.local_learner, folder)

    @override(LearnerGroup)
    def save_to_path(self, path: Any = None, **kwargs: Any) -> str:
        """Shards that any number of learners can continue from, and a Hugging Face folder."""
        shutil.rmtree(Path(path) / SHARDS, ignore_errors=True)  # of an earlier attempt
        self._write(Path(path).absolute())
        return str(path)

    @override(LearnerGroup)
    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Continue from the checkpoint of any number of learners, or from one in RLlib's own form."""
        if has_checkpoint(Path(path)):
            self._read(Path(path).absolute())
        else:
            super().restore_from_path(path, *args, **kwargs)

    def check_storage(self, folder: Path) -> None:
        """UserError where a learner does not see a folder of the driver's, in which checkpoints are to be."""

    def _write(self, folder: Path) -> None:
        write_checkpoint(self.local_learner, folder)

    def _read(self, folder: Path) -> None:
        read_checkpoint(self.local_learner, folder)

    @property
    def weights_version(self) -> int:
        """How many updates the weights have seen."""
        return self.local_learner._weights_seq_no

    def module_state(self) -> ray.ObjectRef:
        """The module's whole state, as an env runner's `set_state` takes it."""
        return ray.put({DEFAULT_MODULE_ID: self.local_learner.rl_module.get_state()})

    def weight_parts(self, everything: bool) -> Iterator[tuple[ray.ObjectRef, bool]]:
        """Buckets (name -> array) of what training changes, or of `everything`, and whether each is the last; the
        object store holds one at a time."""
        for arrays, last in self.local_learner.weight_parts(everything):
            yield ray.put(arrays), last


def in_object_store(prompt: Prompt) -> bool:
    """Are pixels of the prompt behind object references?"""
    return any(isinstance(image.tensors, ray.ObjectRef) for image in prompt.images)


def fetch_pixels(packs: Sequence[PromptPack]) -> list[PromptPack]:
    """The packs with every object reference replaced by its pixels, each distinct picture fetched once; PixelsLost where
    one is gone."""
    refs = {i.key: i.tensors for p in packs for i in p.prompt.images if isinstance(i.tensors, ray.ObjectRef)}
    if not refs:
        return list(packs)
    try:
        tensors = dict(zip(refs, ray.get(list(refs.values())), strict=True))
    except ObjectLostError as error:
        raise PixelsLost(" ".join(str(error).split())[:200]) from error

    def with_pixels(prompt: Prompt) -> Prompt:
        return replace(prompt, images=tuple(PixelInput(i.key, tensors.get(i.key, i.tensors)) for i in prompt.images))

    return [replace(p, prompt=with_pixels(p.prompt)) for p in packs]
