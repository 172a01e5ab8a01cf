"""A training step's state and a policy's weights on disk; each rank writes its shards, no process ever holds everything.

Safetensors, nothing pickled. Weights, moments and counters are named after the model's parameters, so a checkpoint loads on
another number of ranks, under another sharding, and in a single process.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter

from sharegrpo_rl.errors import NotFiniteError, UserError
from sharegrpo_rl.models.loading import is_finite
from sharegrpo_rl.models.policy import Policy, unwrapped
from sharegrpo_rl.models.weights import engine_weights
from sharegrpo_rl.training.sharding import Ranks, full_tensor, local_part
from sharegrpo_rl.training.step import TrainingStep

MARKER = "checkpoint.json"
NO_LENGTH = -1  # stands for a KL schedule without one
FROZEN = "frozen."
FILE_BYTES = 4 * 2**30
PART_BYTES = 2**29


def save(step: TrainingStep, folder: Path, everything: bool = False, part_bytes: int = PART_BYTES) -> None:
    """Write trained weights, the optimizer's moments and the counters; with `everything` frozen weights too.

    Each rank writes files of about `part_bytes`, or one larger tensor: while it does, it holds a file twice in host memory.
    The folder is new or empty. Ranks may each have their own, if the files are brought together before `load`.
    NotFiniteError where a value is NaN or infinite. Collective; the folder is complete once all ranks have returned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; files of another checkpoint would be read with this one's")
    state = _state(step)
    _check_finite(state, step.ranks)
    state |= _frozen(step) if everything else {}
    parts = _parts(state, part_bytes)  # rank 0's are those of all
    writer = HuggingFaceStorageWriter(str(folder), parts, save_distributed=True)
    dcp.save(state, storage_writer=writer, no_dist=step.ranks.size == 1)
    (files,) = step.ranks.sum([len(list(folder.glob(f"shard-{step.ranks.rank + 1:05d}-*")))])
    if step.ranks.rank == 0:
        (folder / MARKER).write_text(json.dumps({"files": int(files)}) + "\n")


def load(step: TrainingStep, folder: Path) -> None:
    """Continue from `save`, under any sharding and number of ranks; frozen weights are loaded where they were saved.

    Learning rates stay those of the step's settings; a KL schedule keeps the length it began with. UserError where the
    folder holds no complete checkpoint, or one in which other parameters are trained. Collective.
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
    for weight, steps in zip(_trained(step).values(), state["counter.adam_steps"], strict=True):
        step.optimizer.moments(weight)["step"].copy_(steps)
    step.optimizer.write_back()
    optimizer_steps, skipped_steps, length = (int(n) for n in state["counter.steps"])
    step.go_on_from(optimizer_steps, skipped_steps, None if length == NO_LENGTH else length)


def _parts(state: Mapping[str, Tensor], part_bytes: int) -> dict[str, int]:
    """For each tensor the file of a rank's that it goes into: 1, 2, ..."""
    part, held = 1, 0
    parts = {}
    for name, tensor in state.items():
        size = local_part(tensor).nbytes
        if held and held + size > part_bytes:
            part, held = part + 1, 0
        parts[name], held = part, held + size
    return parts


def _check_finite(state: Mapping[str, Tensor], ranks: Ranks) -> None:
    """NotFiniteError, on every rank, where a rank's part of a tensor has NaN or infinite values. Collective."""
    bad = [i for i, tensor in enumerate(state.values()) if not is_finite(local_part(tensor))]
    (last,) = ranks.max([max(bad, default=-1)])
    if last >= 0:
        what, _, name = list(state)[int(last)].partition(".")
        raise NotFiniteError.of(f"the {what.replace('_', ' ')} of {name} is")


def _check_complete(folder: Path) -> None:
    marker, present = folder / MARKER, len(list(folder.glob("shard-*.safetensors")))
    if not marker.is_file():
        raise UserError(f"{folder}: no complete checkpoint of a training step; name the folder of a finished one")
    if (files := json.loads(marker.read_text())["files"]) != present:
        raise UserError(f"{folder}: {present} of the checkpoint's {files} files are here; bring all of them together")


def _state(step: TrainingStep) -> dict[str, Tensor]:
    """Every tensor that changes, by its name in the checkpoint; weights and moments are the step's own tensors."""
    state: dict[str, Tensor] = {}
    adam_steps = []
    for name, weight in _trained(step).items():
        moments = step.optimizer.moments(weight)
        state[f"weight.{name}"] = weight.detach()
        state[f"moment.{name}"] = moments["exp_avg"]
        state[f"second_moment.{name}"] = moments["exp_avg_sq"]
        adam_steps.append(moments["step"].float().cpu())
    length = step.options.kl_schedule_length
    state["counter.adam_steps"] = torch.stack(adam_steps)
    state["counter.steps"] = torch.tensor([step.optimizer_steps, step.skipped_steps, length or NO_LENGTH])
    return state


def _trained(step: TrainingStep) -> dict[str, Tensor]:
    """The optimizer's tensor for each trained parameter, by name."""
    named = step.policy.model.named_parameters()
    return {name: step.optimizer.weight_of(p) for name, p in named if p.requires_grad}


def _frozen(step: TrainingStep) -> dict[str, Tensor]:
    named = step.policy.model.named_parameters()
    return {FROZEN + name: p.detach() for name, p in named if not p.requires_grad}


def full_weights(policy: Policy, everything: bool = True, merged: bool = False) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor in host memory) of each weight, gathered one at a time, in the type it was loaded in.

    Names are those of the model's state dict; `merged` gives checkpoint names, with adapters merged (`engine_weights`).
    Without `everything` only what training changes. Collective: every rank iterates to the end, only rank 0 gets items.
    """
    first = Ranks.current().rank == 0
    for name, tensor in engine_weights(policy.model, everything) if merged else _named(policy, everything):
        weight = tensor.detach()
        weight = full_tensor(weight.to(policy.loaded_dtypes.get(name, weight.dtype)))
        if first:
            yield name, weight.cpu()


def _named(policy: Policy, everything: bool) -> Iterator[tuple[str, Tensor]]:
    trained = {n for n, p in policy.model.named_parameters(remove_duplicate=False) if p.requires_grad}
    for name, tensor in policy.model.state_dict().items():
        if everything or name in trained:
            yield name, tensor


def export_pretrained(policy: Policy, folder: Path, file_bytes: int = FILE_BYTES) -> None:
    """Write a Hugging Face folder: weights (LoRA merged into copies), configuration and processor.

    Rank 0 writes, with at most one file's weights in its memory. Collective.
    """
    model = unwrapped(policy.model)
    distinct = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers()}
    tied = {
        name for name, _ in model.named_parameters(remove_duplicate=False)
    } - distinct  # a head tied to its embedding
    files = _SafetensorsFiles(folder, file_bytes)
    for name, tensor in full_weights(policy, merged=True):
        if name not in tied:
            files.add(name, tensor)
    if Ranks.current().rank == 0:
        files.close()
        model.config.save_pretrained(folder)
        if model.can_generate():
            model.generation_config.save_pretrained(folder)
        policy.processor.save_pretrained(folder)


class _SafetensorsFiles:
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
        """Write the rest, and give the files their final names, which include their number."""
        self._write()
        count = len(self.written)
        file_of = {}
        for i, (path, names) in enumerate(self.written, 1):
            final = "model.safetensors" if count == 1 else f"model-{i:05d}-of-{count:05d}.safetensors"
            path.rename(self.folder / final)
            file_of.update(dict.fromkeys(names, final))
        if count > 1:
            index = {"metadata": {"total_size": self.total}, "weight_map": file_of}
            (self.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"part-{len(self.written)}.safetensors"
        save_file(self.held, path, metadata={"format": "pt"})
        self.written.append((path, list(self.held)))
        self.held = {}
