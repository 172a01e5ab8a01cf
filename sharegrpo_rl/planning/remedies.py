"""Which keys to change where a process does not fit, and to what: every proposal is estimated again before it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sharegrpo_rl.planning.estimate import EstimateRequest, Process, RunEstimate, estimate_run

Changes = dict[str, Any]  # option -> value; a dotted name is a key of a table
LORA = {"r": 64, "alpha": 128.0, "dropout": 0.0, "target_modules": ["language"]}
LEARNERS = (2, 4, 8, 16, 32, 64)
WAYS = (2, 4, 8)  # of tensor parallelism
LEAST_BUDGET = 1024  # tokens; below it a step is mostly overhead


def remedies(request: EstimateRequest, estimate: RunEstimate) -> dict[str, list[Changes]]:
    """For each kind of process that does not fit, settings with which it would, the mildest first; [] where none does.

    Each remedy is the first of one way's ladder that fits, without the changes it does not need. Where the first way,
    which costs only time, is enough, it is the only proposal.
    """
    request = request.on_gpus()
    proposals: dict[str, list[Changes]] = {}
    for process in estimate.processes:
        if process.fits is not False:
            continue
        kept = proposals[process.kind] = []

        def fits(changes: Changes, process: Process = process) -> bool:
            return _fits(request, process, changes)

        only_generates = process.engine == "vllm" and not process.learns
        ladders = _engine_ladders(request) if only_generates else _learner_ladders(request, process)
        for number, ladder in enumerate(ladders):
            if (first := next(filter(fits, ladder), None)) is None:
                continue
            if (changes := _needed(first, fits)) not in kept:
                kept.append(changes)
            if number == 0:
                break
    return proposals


def changed(request: EstimateRequest, changes: Changes) -> EstimateRequest:
    """The request with the changes applied to its config."""
    config = dict(request.config)
    for key, value in changes.items():
        table, _, inner = key.rpartition(".")
        config[table or key] = {**config[table], inner: value} if table else value
    return request.with_config(**config)


def _fits(request: EstimateRequest, process: Process, changes: Changes) -> bool:
    estimate = estimate_run(changed(request, changes))
    alike = [p for p in estimate.processes if p.kind == process.kind] or estimate.processes
    return not estimate.problems and all(p.fits is not False for p in alike)


def _needed(changes: Changes, fits: Callable[[Changes], bool]) -> Changes:
    for key in list(changes):
        fewer = {k: v for k, v in changes.items() if k != key}
        if fewer and fits(fewer):
            changes = fewer
    return changes


def _learner_ladders(request: EstimateRequest, process: Process) -> Iterator[list[Changes]]:
    """Ways to make a learner smaller, each from mild to harsh. Only LoRA and the dtype change what is learned."""
    config, shared = request.config, process.learns and process.engine is not None
    mild = _mild_changes(request)
    yield mild
    cheap = [m for m in mild if "max_tokens_per_microbatch" not in m][-1:] or [{}]
    small = [*cheap, *mild[-1:]]  # without a smaller token budget, and with the smallest
    if shared:
        apart = {"num_learners": max(1, config["num_learners"]), "num_env_runners": 1, "num_gpus_per_env_runner": 1.0}
        yield [{**s, **apart} for s in [{}, *small]]
    counts = [n for n in LEARNERS if n > config["num_learners"] or config["sharding"] != "fsdp2"]
    yield [
        {**s, **_sharded(n), **apart} for apart in [{}, *(_engines() if shared else [])] for s in small for n in counts
    ]
    if config["lora"] is None:
        yield [{**s, "lora": LORA, **frozen} for frozen in ({}, {"freeze_vision_tower": True}) for s in [{}, *small]]
    yield [{**s, **_sharded(max(1, config["num_learners"])), "cpu_offload": True} for s in [{}, *small]]


def _mild_changes(request: EstimateRequest) -> list[Changes]:
    """Changes that only cost time, or the last bits of the weights' type: each with those before it."""
    config = request.config
    changes: Changes = {}
    ladder: list[Changes] = []
    if config["dtype"] == "float32":
        changes = {**changes, "dtype": "bfloat16"}
        ladder.append(changes)
    if config["activation_checkpointing"] != "full":
        changes = {**changes, "activation_checkpointing": "full"}
        ladder.append(changes)
    budget = config["max_tokens_per_microbatch"] // 2
    while budget >= LEAST_BUDGET:
        ladder.append({**changes, "max_tokens_per_microbatch": budget})
        budget //= 2
    return ladder


def _sharded(learners: int) -> Changes:
    return {"sharding": "fsdp2", "num_learners": learners, "num_gpus_per_learner": 1.0}


def _engines() -> Iterator[Changes]:
    """A separate engine for a generator that leaves the learner's process, over more and more GPUs."""
    for ways in (1, *WAYS):
        yield {
            "engine": "vllm",
            "num_env_runners": 1,
            "num_gpus_per_env_runner": float(ways),
            "vllm.tensor_parallel_size": ways,
            "vllm.gpu_memory_utilization": 0.9,
        }


def _engine_ladders(request: EstimateRequest) -> Iterator[list[Changes]]:
    """Ways to give an engine more room."""
    config, vllm = request.config, request.config["vllm"]
    if config["dtype"] == "float32":
        yield [{"dtype": "bfloat16"}]
    yield [{"vllm.gpu_memory_utilization": s} for s in (0.6, 0.7, 0.8, 0.9) if s > vllm["gpu_memory_utilization"]]
    more = [n for n in WAYS if n > vllm["tensor_parallel_size"]]
    wide = [{"vllm.tensor_parallel_size": n, "num_gpus_per_env_runner": float(n)} for n in more]
    yield [*wide, *({**w, "vllm.gpu_memory_utilization": 0.9} for w in wide)]
