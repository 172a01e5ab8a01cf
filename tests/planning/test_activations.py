"""Planned activations against what a real training step saves and holds."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from live_tensors import LiveTensors, saved_by
from packaging.version import Version

from sharegrpo_rl.config import GRPOOptions
from sharegrpo_rl.data.types import Prompt
from sharegrpo_rl.models.branch_attention import attend
from sharegrpo_rl.models.loading import ModelSettings, load_policy, save_pretrained
from sharegrpo_rl.models.policy import Policy, unwrapped
from sharegrpo_rl.models.prompts import PromptSettings, Question
from sharegrpo_rl.models.sizes import measure
from sharegrpo_rl.planning.memory import Training, activations, attention_copies, head_bytes, layer_bytes, patch_bytes
from sharegrpo_rl.planning.workload import MicroBatch, Workload
from sharegrpo_rl.training.step import TrainingStep

LIMITS = PromptSettings(max_prompt_tokens=2048, min_pixels=784, max_pixels=50_176)
ROWS, LENGTH = 8, 40
EARLIER = Version(transformers.__version__) < Version("5.17")
LORA = {"r": 2, "alpha": 4.0, "target_modules": ["language"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: SimpleNamespace) -> str:
    from sharegrpo_rl.config.run import TinyModelOptions
    from sharegrpo_rl.models.tiny import build_tiny

    sizes = TinyModelOptions(hidden_size=96, num_layers=3, vision_layers=2, vocab_size=300)
    model, processor = build_tiny(sizes, tiny.corpus, 0, LIMITS.min_pixels, LIMITS.max_pixels)
    path = tmp_path_factory.mktemp("model")
    save_pretrained(Policy(model, processor, LIMITS), path)
    return str(path)


def large_prompt(policy: Policy, seed: int) -> Prompt:
    """A question about a picture of 256 patches, 64 tokens."""
    picture = np.random.default_rng(seed).integers(0, 255, (112, 112, 3), dtype=np.uint8)
    return policy.encoder.encode([Question("How many red circles are there?", (picture,))])[0]


def ready(folder: str, tiny: SimpleNamespace, **settings: Any) -> tuple[Policy, list[Any], tuple[Any, ...]]:
    """A policy, packs of large images, and the same as sizes, training, workload and micro-batch."""
    torch.set_num_threads(1)
    policy = load_policy(ModelSettings(folder, prompts=LIMITS, **settings))
    policy.model.train()
    packs = [
        replace(tiny.pack(policy, (LENGTH,) * ROWS, group=i, seed=i), prompt=large_prompt(policy, i)) for i in range(4)
    ]
    sizes = measure(unwrapped(policy.model).config)
    frozen = settings.get("freeze_vision_tower", False) or settings.get("lora") is not None
    train = Training(
        itemsize=2 if settings.get("dtype") == "bfloat16" else 4,
        trained={part: 0 if frozen and part != "language model" else count for part, count in sizes.parameters.items()},
        adapters=settings.get("lora") is not None,
        ranks=1,
        sharded=False,
        offload=False,
        reference=False,
        checkpointing=settings.get("activation_checkpointing", "none"),
    )
    prompt = len(packs[0].prompt.input_ids)
    patches = int(packs[0].prompt.images[0].tensors["image_grid_thw"].prod())
    work = Workload(prompt, LENGTH, prompt, LENGTH, patches, 4, 1, ROWS, ROWS, 1, 1, 1, True)
    tokens = sum(len(p.prompt.input_ids) + ROWS * (LENGTH - 1) for p in packs)
    return policy, packs, (sizes, train, work, MicroBatch(tokens, 4 * ROWS, 4, 4))


@pytest.mark.xfail(EARLIER, reason="layers of transformers 5.16 save up to 4 % more than planned", strict=True)
@pytest.mark.parametrize(
    "settings",
    [{}, {"dtype": "bfloat16"}, {"lora": LORA}, {"lora": LORA, "dtype": "bfloat16"}],
    ids=["float32", "bfloat16", "lora", "lora in bfloat16"],
)
def test_a_layer_saves_what_is_planned(folder: str, tiny: SimpleNamespace, settings: dict[str, Any]) -> None:
    policy, packs, (sizes, train, _, micro) = ready(folder, tiny, **settings)
    model = unwrapped(policy.model).model
    first = {
        "first": model.language_model.layers[0],
        "first vision": model.visual.blocks[0],
    }  # rotations, for all layers
    modules = first | {"language": model.language_model.layers[1], "vision": model.visual.blocks[1]}
    saved = saved_by(modules, policy.model.parameters(), lambda: policy.logprobs(packs))
    assert layer_bytes(sizes.text, train.itemsize, train.adapters, micro.tokens) == pytest.approx(
        saved["language"], rel=0.02
    )
    patches = sum(int(p.prompt.images[0].tensors["image_grid_thw"].prod()) for p in packs)
    expected = 0 if train.adapters else patches * patch_bytes(sizes.vision, train.itemsize)
    assert expected == pytest.approx(saved["vision"], rel=0.02)


def test_attention_s_way_on_a_gpu_copies_what_is_planned(
    folder: str, tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The portable attention, which GPUs take in float32, run here on the CPU."""
    monkeypatch.setattr("sharegrpo_rl.models.branch_attention.merged_attention", attend)
    policy, packs, (sizes, train, work, micro) = ready(folder, tiny)
    layers = unwrapped(policy.model).model.language_model.layers
    saved = saved_by(
        {"first": layers[0], "language": layers[1]}, policy.model.parameters(), lambda: policy.logprobs(packs)
    )
    expected = layer_bytes(sizes.text, train.itemsize, False, micro.tokens)
    expected += attention_copies(sizes.text, train.itemsize, work, micro, "gpu")
    assert expected == pytest.approx(saved["language"], rel=0.1)


CASES: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "frozen tower": {"freeze_vision_tower": True, "freeze_projector": True},
    "lora": {"lora": LORA},
    "checkpointing": {"activation_checkpointing": "full"},
    "products kept": {"activation_checkpointing": "selective"},
}


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES.keys())
def test_a_step_holds_what_is_planned(folder: str, tiny: SimpleNamespace, settings: dict[str, Any]) -> None:
    policy, packs, planned = ready(folder, tiny, **settings)
    step = TrainingStep(policy, GRPOOptions(lr=1e-6))
    step.update(packs)  # the optimizer's moments exist from now on
    with LiveTensors() as live:
        step.update(packs)
    assert activations(*planned, "cpu").total == pytest.approx(live.peak, rel=0.12)


def test_no_plan_holds_logits_of_all_tokens(folder: str, tiny: SimpleNamespace) -> None:
    _, _, (sizes, train, _, _) = ready(folder, tiny)
    assert head_bytes(sizes, train, 10**9, "gpu") == head_bytes(sizes, train, 10**8, "gpu")
