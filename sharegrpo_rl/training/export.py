"""A Hugging Face folder from a policy on any number of ranks: weights gathered one at a time and written in files."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from sharegrpo_rl.models.policy import Policy, unwrapped
from sharegrpo_rl.training.ranks import Ranks
from sharegrpo_rl.training.sharded_checkpoint import full_weights

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
