"""What a run writes, and loads, against the plan: the bytes of a real checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from plan_requests import QWEN, request_for

from sharegrpo_rl.config import GRPOOptions
from sharegrpo_rl.models.loading import save_pretrained
from sharegrpo_rl.models.sizes import measure
from sharegrpo_rl.planning.estimate import estimate_run
from sharegrpo_rl.training.checkpoint import save
from sharegrpo_rl.training.step import TrainingStep


def written(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_is_as_large_as_planned(
    dtype: str, make_policy: Callable[..., Any], tiny: SimpleNamespace, tmp_path: Path
) -> None:
    policy = make_policy(dtype=dtype)
    step = TrainingStep(policy, GRPOOptions(lr=1e-6))
    step.update([tiny.pack(policy, (5, 7))])
    save(step, tmp_path / "shards")
    save_pretrained(policy, tmp_path / "model")
    request = replace(request_for(dtype=dtype), sizes=measure(policy.model.config))
    storage = estimate_run(request).storage
    assert written(tmp_path / "shards") + written(tmp_path / "model") == pytest.approx(storage.checkpoint, rel=0.05)
    assert (storage.commit, storage.commits) == (0, 0)


def test_one_learner_and_each_runner_without_an_engine_load_the_model() -> None:
    apart = {"engine": "vllm", "num_env_runners": 2, "num_learners": 6, "sharding": "fsdp2"}
    model = 2 * QWEN["7B"].total
    plain, with_kl = (estimate_run(request_for(**apart, **more)).storage for more in ({}, {"kl_coeff": 0.1}))
    assert (plain.loading, with_kl.loading) == (model, model)
    assert estimate_run(request_for(**apart | {"engine": "hf"})).storage.loading == 3 * model
    assert plain.checkpoint == 7 * model
    assert (plain.commit, plain.commits) == (6 * model, 2)
    assert plain.checkpoints == 4
