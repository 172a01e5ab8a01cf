"""What ranks hold between steps, against what is planned: two processes under DDP and FSDP2. Slow: they load torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from held_states import PROMPTS, held_bytes
from rank_processes import on_ranks
from tiny_models import CORPUS

from sharegrpo_rl.config.run import TinyModelOptions
from sharegrpo_rl.models.loading import save_pretrained
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.sizes import ModelSizes, model_sizes
from sharegrpo_rl.models.tiny import build_tiny
from sharegrpo_rl.planning.memory import ITEMSIZE, Training, resident_parts

pytestmark = pytest.mark.slow

LORA = {"r": 4, "target_modules": ["language"]}
CASES: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "frozen tower in bfloat16": {"dtype": "bfloat16", "freeze_vision_tower": True},
    "lora in bfloat16": {"dtype": "bfloat16", "lora": LORA},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    sizes = TinyModelOptions(hidden_size=64, num_layers=2, num_heads=2, num_kv_heads=1, vision_layers=2, vocab_size=300)
    model, processor = build_tiny(sizes, CORPUS, 0, PROMPTS.min_pixels, PROMPTS.max_pixels)
    path = tmp_path_factory.mktemp("model")
    save_pretrained(Policy(model, processor, PROMPTS), path)
    return str(Path(path))


def planned(sizes: ModelSizes, model: dict[str, Any], sharding: str) -> dict[str, int]:
    lora = model.get("lora")
    trained = dict(sizes.parameters) | ({"vision tower": 0} if model.get("freeze_vision_tower") else {})
    if lora:
        trained = {"language model": lora["r"] * sizes.lora_width["language model"]}
    size = ITEMSIZE[model.get("dtype", "float32")]
    train = Training(size, trained, lora is not None, 2, sharding == "fsdp2", False, False, None)
    found = {part.name: part.bytes for part in resident_parts(sizes, train)}
    whole = sum(found.pop(name, 0) for name in ("weights", "adapters", "master weights"))
    return {"weights": whole, **found}


@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
@pytest.mark.parametrize("case", CASES)
def test_ranks_hold_what_is_planned(folder: str, case: str, sharding: str) -> None:
    expected = planned(model_sizes(folder, TinyModelOptions()), CASES[case], sharding)
    for rank in on_ranks(2, held_bytes, folder, CASES[case], sharding):
        assert rank == pytest.approx(expected, rel=0.01)
