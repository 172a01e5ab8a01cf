"""A LoRA adapter in a running engine: collected from buckets, handed over as peft's files, under a new id each time."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from vllm.lora.request import LoRARequest

from sharegrpo_rl.models.weights import Weights

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM has room of


def engine_arguments(lora: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of vLLM's LLM for one adapter at a time, in the model's own precision."""
    rank = lora.get("rank", 16)
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": min(r for r in RANKS if r >= rank)}


class Adapter:
    """The adapter that requests are answered with; `request` is None until there is one.

    A new id each time: what vLLM keeps of an id, in its slots and its prefix cache, is of older weights.
    """

    def __init__(self, engine: Any, lora: Mapping[str, Any]) -> None:
        self._engine, self._lora = engine, lora
        self._incoming: dict[str, Tensor] = {}
        self._number = 0
        self.request: LoRARequest | None = None

    def start(self) -> None:
        """Begin to collect."""
        self._incoming = {}

    def take(self, weights: Weights) -> None:
        """Some tensors, under peft's names."""
        self._incoming |= {name: tensor.detach().clone().contiguous() for name, tensor in weights}

    def finish(self) -> None:
        """Put what was collected in the place of the adapter before."""
        self._number += 1
        folder = Path(tempfile.mkdtemp(prefix="sharegrpo_rl-adapter-"))
        try:
            save_file(self._incoming, folder / "adapter_model.safetensors")
            (folder / "adapter_config.json").write_text(json.dumps(self._settings()))
            request = LoRARequest(f"adapter-{self._number}", self._number, str(folder))
            if self.request is not None:
                self._engine.remove_lora(self.request.lora_int_id)
            if not self._engine.add_lora(request):
                raise RuntimeError(f"vLLM did not take adapter {self._number}")
            self._engine.pin_lora(self._number)  # its files are gone after this: it must not be loaded again
            self.request = request
        finally:
            shutil.rmtree(folder)
            self._incoming = {}

    def _settings(self) -> dict[str, Any]:
        layers = {name.split(".lora_")[0].rsplit(".", 1)[1] for name in self._incoming}
        return {
            "peft_type": "LORA",
            "r": self._lora.get("rank", 16),
            "lora_alpha": self._lora.get("alpha", 32.0),
            "target_modules": sorted(layers),
            "bias": "none",
        }
