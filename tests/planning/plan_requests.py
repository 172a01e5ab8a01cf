"""Requests for plans of Qwen2.5-VL, as a run file would make them."""

from __future__ import annotations

from typing import Any

from sharegrpo_rl.models.sizes import KNOWN
from sharegrpo_rl.planning.estimate import EstimateRequest
from sharegrpo_rl.planning.gpus import GPUS
from sharegrpo_rl.runs.run_file import resolve_run

QWEN = {size: KNOWN[f"Qwen/Qwen2.5-VL-{size}-Instruct"] for size in ("3B", "7B", "32B", "72B")}


def request_for(
    size: str = "7B", gpu: str | None = "h100-80", run: str = "ShareGRPO", **config: Any
) -> EstimateRequest:
    tree = {
        "run": run,
        "env": "MultimodalQA-v0",
        "stop": {"training_iteration": 10},
        "config": {
            "model": f"Qwen/Qwen2.5-VL-{size}-Instruct",
            "dtype": "bfloat16",
            "env_config": {"data": "questions.parquet"},
            "num_gpus_per_learner": 1.0,
            **({} if run == "SFT" else {"num_gpus_per_env_runner": 1.0}),
            **config,
        },
    }
    spec = resolve_run("planned", tree)
    return EstimateRequest(spec.config, spec.iterations, QWEN[size], GPUS[gpu] if gpu else None)
