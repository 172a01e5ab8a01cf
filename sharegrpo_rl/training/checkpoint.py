"""A training step's state on disk, each rank its own shards (torch.distributed.checkpoint): no process ever holds all.

Safetensors files, nothing pickled. Weights, moments and counters stand under the names of the model's parameters, so
that a checkpoint loads on another number of ranks, with another sharding, and in a process alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models.policy import Policy, unwrapped
from sharegrpo_rl.models.weights import engine_weights
from sharegrpo_rl.training.optimizer import whole
from sharegrpo_rl.training.sharding import Ranks
from sharegrpo_rl.training.step import TrainingStep

MARKER = "checkpoint.json"
NO_LENGTH = -1  # of a KL schedule that has none
FROZEN = "frozen."


def save(step: TrainingStep, folder: Path, everything: bool = False) -> None:
    """Write the weights that train, the optimizer's moments and the counters; with `everything` frozen weights too.

    The folder is new or empty. Ranks may each give one of their own, if their files are put together before `load`.
    Collective; the folder is complete when all of them have returned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; files of another checkpoint would be read with this one's")
    state = _state(step)
    if everything:
        state |= _frozen(step)
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    dcp.save(state, storage_writer=writer, no_dist=step.ranks.size == 1)
    own = folder.glob(f"shard-{step.ranks.rank + 1:05d}-*")
    (files,) = step.ranks.sum([len(list(own))])
    if step.ranks.rank == 0:
        (folder / MARKER).write_text(json.dumps({"files": int(files)}) + "\n")


def load(step: TrainingStep, folder: Path) -> None:
    """Continue from `save`, by another sharding and number of ranks too; frozen weights where they were saved.

    Learning rates stay those of the step's settings; a KL schedule keeps the length that it began with. UserError where
    the folder holds no complete checkpoint, or that of a model whose trained parts are others. Collective.
    """
    _check_complete(folder)
    reader = HuggingFaceStorageReader(str(folder))
    names = set(reader.read_metadata().state_dict_metadata)
    state = _state(step)
    if differing := sorted(set(state) ^ {n for n in names if not n.startswith(FROZEN)}):
        raise UserError(
            f"{folder}: {differing[0].split('.', 1)[1]} is trained in the checkpoint or in this run, not in both; resume"
            " with the checkpoint's model, lora and freeze_* keys"
        )
    frozen = {name: tensor for name, tensor in _frozen(step).items() if name in names}
    dcp.load(state | frozen, storage_reader=reader, no_dist=step.ranks.size == 1)
    _take(step, state)


def _check_complete(folder: Path) -> None:
    marker, found = folder / MARKER, len(list(folder.glob("shard-*.safetensors")))
    if not marker.is_file():
        raise UserError(
            f"{folder}: no complete checkpoint of a training step; give the folder of one that was finished"
        )
    if (files := json.loads(marker.read_text())["files"]) != found:
        raise UserError(f"{folder}: {found} of the checkpoint's {files} files are here; bring all of them together")


def full_weights(
    source: TrainingStep | Policy, everything: bool = True, merged: bool = False
) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor in host memory) of each weight, gathered one at a time, in the type that it was loaded in.

    Names are those of the model's state dict; `merged` gives checkpoint names, adapters merged (`engine_weights`).
    Without `everything` only what training changes. Collective: every rank runs through to the end, and rank 0 alone is
    given something.
    """
    policy = source.policy if isinstance(source, TrainingStep) else source
    first = Ranks.current().rank == 0
    for name, tensor in engine_weights(policy.model, everything) if merged else _named(policy, everything):
        kept = tensor.detach()
        kept = whole(kept.to(policy.loaded_dtypes.get(name, kept.dtype)))
        if first:
            yield name, kept.cpu()


def _named(policy: Policy, everything: bool) -> Iterator[tuple[str, Tensor]]:
    trained = {n for n, p in policy.model.named_parameters(remove_duplicate=False) if p.requires_grad}
    for name, tensor in policy.model.state_dict().items():
        if everything or name in trained:
            yield name, tensor


def _trained(step: TrainingStep) -> dict[str, Tensor]:
    """What the optimizer holds of each parameter that trains, by name."""
    named = step.policy.model.named_parameters()
    return {name: step.optimizer.weight_of(p) for name, p in named if p.requires_grad}


def _state(step: TrainingStep) -> dict[str, Tensor]:
    """Every tensor that changes, by its name in the checkpoint; those of weights and moments are the step's own."""
    state: dict[str, Tensor] = {}
    taken = []
    for name, weight in _trained(step).items():
        moments = step.optimizer.moments(weight)
        state[f"weight.{name}"] = weight.detach()
        state[f"moment.{name}"] = moments["exp_avg"]
        state[f"second_moment.{name}"] = moments["exp_avg_sq"]
        taken.append(moments["step"].float().cpu())
    length = step.settings.kl_schedule_steps or step.settings.total_steps
    state["counter.adam_steps"] = torch.stack(taken)
    state["counter.steps"] = torch.tensor([step.optimizer_steps, step.skipped_steps, length or NO_LENGTH])
    return state


def _frozen(step: TrainingStep) -> dict[str, Tensor]:
    named = step.policy.model.named_parameters()
    return {FROZEN + name: p.detach() for name, p in named if not p.requires_grad}


def _take(step: TrainingStep, state: dict[str, Tensor]) -> None:
    """Put in place what is not the step's own tensor."""
    for weight, taken in zip(_trained(step).values(), state["counter.adam_steps"], strict=True):
        step.optimizer.moments(weight)["step"].copy_(taken)
    step.optimizer.write_back()
    optimizer_steps, skipped_steps, length = (int(n) for n in state["counter.steps"])
    step.go_on_from(optimizer_steps, skipped_steps, None if length == NO_LENGTH else length)


# ---- A Hugging Face folder from a policy on any number of ranks: weights gathered one at a time and written in files.

FILE_BYTES = 4 * 2**30


def export_pretrained(policy: Policy, folder: Path, file_bytes: int = FILE_BYTES) -> None:
    """Write weights (LoRA merged into copies), configuration and processor; rank 0 writes, no more than a file at a time
    in its memory. Collective."""
    model = unwrapped(policy.model)
    once = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers()}
    twice = {name for name, _ in model.named_parameters(remove_duplicate=False)} - once  # a head tied to its embedding
    files = _Files(folder, file_bytes)
    for name, tensor in full_weights(policy, merged=True):
        if name not in twice:
            files.add(name, tensor)
    if Ranks.current().rank == 0:
        files.close()
        model.config.save_pretrained(folder)
        if model.can_generate():
            model.generation_config.save_pretrained(folder)
        policy.processor.save_pretrained(folder)


class _Files:
    """Safetensors files of bounded size with their index, under the names that transformers looks for."""

    def __init__(self, folder: Path, file_bytes: int) -> None:
        self.folder, self.file_bytes = folder, file_bytes
        self.held: dict[str, Tensor] = {}
        self.written: list[tuple[Path, list[str]]] = []
        self.total = 0

    def add(self, name: str, tensor: Tensor) -> None:
        if self.held and sum(t.nbytes for t in self.held.values()) + tensor.nbytes > self.file_bytes:
            self._write()
        self.held[name] = tensor.contiguous()
        self.total += tensor.nbytes

    def close(self) -> None:
        """Write what is left, and give the files their final names: only now their number is known."""
        self._write()
        count = len(self.written)
        places = {}
        for i, (path, names) in enumerate(self.written, 1):
            final = "model.safetensors" if count == 1 else f"model-{i:05d}-of-{count:05d}.safetensors"
            path.rename(self.folder / final)
            places.update(dict.fromkeys(names, final))
        if count > 1:
            index = {"metadata": {"total_size": self.total}, "weight_map": places}
            (self.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"part-{len(self.written)}.safetensors"
        save_file(self.held, path, metadata={"format": "pt"})
        self.written.append((path, list(self.held)))
        self.held = {}
