"""RLlib's Learner and LearnerGroup over prompt packs: thin wraps of `training/`; here one Learner, in the driver."""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from torch import Tensor

from sharegrpo_rl.data.types import PixelInput, Prompt, PromptPack
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.learners.failures import PixelsLost
from sharegrpo_rl.learners.module import VLMRLModule, model_settings
from sharegrpo_rl.models.loading import parameter_table
from sharegrpo_rl.models.policy import AdaptersOff, Policy
from sharegrpo_rl.models.probe import check_engine_answers
from sharegrpo_rl.models.weights import (
    GROUP_BUCKET_BYTES,
    GroupBroken,
    Meeting,
    WeightGroup,
    Weights,
    adapter_weights,
    engine_weights,
    in_buckets,
    planned_weights,
    to_array,
)
from sharegrpo_rl.training.batching import UpdateShare
from sharegrpo_rl.training.checkpoint import export_pretrained, full_weights, load, save
from sharegrpo_rl.training.sharding import FSDP2, Ranks, full_tensor, load_on_ranks, shard
from sharegrpo_rl.training.step import TrainingStep

MODEL = Path("learner/rl_module/default_policy")  # RLlib's layout
SHARDS = "shards"
FACTS_FILE = "learner.json"


class WeightSource:
    """A learner's weights on their way to engines: in buckets of arrays, or by a group that rank 0 sends to.

    adapters: only those are sent. tell: called with where it is.
    """

    def __init__(self, policy: Policy, ranks: Ranks, adapters: bool, tell: Callable[[str], None]) -> None:
        self._policy, self._ranks, self._adapters, self._tell = policy, ranks, adapters, tell
        self._store: Any = None  # of the group's meeting
        self._group: WeightGroup | None = None

    def parts(self, everything: bool) -> Iterator[tuple[dict[str, np.ndarray], bool]]:
        """Buckets (name -> array) of what training changes, or of `everything`, and whether each is the last.

        Empty on all ranks but 0. Each step is collective: a bucket is gathered when the iterator reaches it.
        """
        model, first = self._policy.model, self._ranks.rank == 0
        weights = adapter_weights(model) if self._adapters else engine_weights(model, everything)
        for bucket, last in in_buckets(weights, dtypes=self._policy.loaded_dtypes):
            arrays = {}
            for name, tensor in self._gathered(bucket):
                if first:
                    arrays[name] = to_array(tensor)
            yield arrays, last

    def open_group(self, address: str, size: int, backend: str, timeout_s: float) -> Meeting | None:
        """Where engines meet this learner, on the machine of this address; on rank 0 only."""
        self.leave_group()
        if self._ranks.rank:
            return None
        meeting, self._store = WeightGroup.open(address, size, backend, timeout_s)
        return meeting

    def join_group(self, meeting: Meeting) -> str:
        """Rank 0 becomes the group's sender; the reason where not all members came."""
        if self._ranks.rank == 0:
            try:
                self._group = WeightGroup(meeting, 0, next(self._policy.model.parameters()).device, self._store)
            except GroupBroken as error:
                return str(error)
        return ""

    def plan(self, everything: bool) -> list[Weights]:
        """The buckets that `send` sends."""
        return planned_weights(self._policy.model, everything, self._policy.loaded_dtypes)

    def send(self, everything: bool) -> str:
        """Send what training changes, or `everything`, to the group; the reason where that failed. Collective."""
        try:
            fault = self._send(everything)
        except BaseException:
            self.leave_group("the learner failed")
            raise
        if fault:
            self.leave_group(fault)
        return fault

    def _send(self, everything: bool) -> str:
        """Other ranks expect each bucket to be gathered, whatever becomes of the sender."""
        group, fault = self._group, ""
        if group is not None:
            group.start_sync()
        elif self._ranks.rank == 0:
            fault = "the learner is not in the group"
        weights = engine_weights(self._policy.model, everything)
        buckets = in_buckets(weights, GROUP_BUCKET_BYTES, self._policy.loaded_dtypes)
        for planned, (bucket, last) in zip(self.plan(everything), buckets, strict=True):
            self._tell("sending weights")
            gathered = self._gathered(bucket)
            try:
                if group is not None and not fault:
                    group.send(planned, gathered)
                    if last:
                        group.flush()
            except GroupBroken as error:
                fault = str(error)
            deque(gathered, 0)
        return fault

    def _gathered(self, bucket: Weights) -> Iterator[tuple[str, Tensor]]:
        """Whole tensors, in the types that engines hold them in. Collective."""
        for name, tensor in bucket:
            yield name, full_tensor(tensor.detach().to(self._policy.loaded_dtypes.get(name, tensor.dtype)))

    def leave_group(self, reason: str = "") -> None:
        """Close the group where there is one, for `reason` if it failed."""
        if self._group is not None:
            self._group.close(reason)
        self._group = self._store = None


class VLMLearner(TorchLearner):
    """Trains one VLMRLModule on prompt packs."""

    step: TrainingStep
    weights: WeightSource

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
        self.weights = WeightSource(policy, self.step.ranks, self.config.sends_adapters(), self._tell)
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

    def _tell(self, said: str) -> None:
        if self.step.on_progress is not None:
            self.step.on_progress(said)

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

    @override(LearnerGroup)
    def shutdown(self) -> None:
        """Leave the weight group too."""
        if self._learner is not None:
            self.local_learner.weights.leave_group()
        super().shutdown()

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
        for arrays, last in self.local_learner.weights.parts(everything):
            yield ray.put(arrays), last

    def open_weight_group(self, size: int, backend: str, timeout_s: float) -> Meeting:
        """Where `size` - 1 workers of engines meet the learner that will send them weights."""
        address = ray.util.get_node_ip_address()
        meeting = self.local_learner.weights.open_group(address, size, backend, timeout_s)
        assert meeting is not None, "a single learner is rank 0"
        return meeting

    def join_weight_group(self, meeting: Meeting) -> str:
        """Wait for the others; the reason where not all of them came."""
        return self.local_learner.weights.join_group(meeting)

    def weight_plan(self, everything: bool) -> list[Weights]:
        """The buckets that `send_weights` sends."""
        return self.local_learner.weights.plan(everything)

    def send_weights(self, everything: bool) -> str:
        """Send what training changes, or `everything`, to the group; the reason where that failed."""
        return self.local_learner.weights.send(everything)


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
