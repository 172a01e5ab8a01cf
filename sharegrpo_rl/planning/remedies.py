"""Which keys to change where a process does not fit, and to what: candidates are planned again until one fits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sharegrpo_rl.planning.plan import Plan, Request, make_plan, on_gpus
from sharegrpo_rl.planning.workload import Process

Changes = dict[str, Any]  # option -> value; a dotted name is a key of a table
LORA = {"r": 64, "alpha": 128.0, "dropout": 0.0, "target_modules": ["language"]}
LEARNERS = (2, 4, 8, 16, 32, 64)
WAYS = (2, 4, 8)
LEAST_BUDGET = 1024  # tokens; below it a step is mostly overhead


def remedies(request: Request, plan: Plan) -> dict[str, list[Changes]]:
    """For each kind of process that does not fit, settings with which it would, the mildest first; [] where none does."""
    request = on_gpus(request)
    found: dict[str, list[Changes]] = {}
    for process in plan.processes:
        if process.fits is False:
            tried = _engine(request) if "vLLM" in process.kind else _learner(request, process)
            found[process.kind] = _fitting(request, process, tried)
    return found


def changed(request: Request, changes: Changes) -> Request:
    """The request with the changes laid over its config."""
    config = dict(request.config)
    for key, value in changes.items():
        table, _, inner = key.rpartition(".")
        config[table or key] = {**config[table], inner: value} if table else value
    return request.with_config(**config)


def _fitting(request: Request, process: Process, ways: Iterator[list[Changes]]) -> list[Changes]:
    """Of each way the first step that fits, without what it does not need; the mild way alone where that is enough."""
    found: list[Changes] = []
    for number, way in enumerate(ways):
        if first := next((step for step in way if _fits(request, process, step)), None):
            small = _needed(request, process, first)
            found += [small] if small not in found else []
            if number == 0:
                break
    return found


def _needed(request: Request, process: Process, changes: Changes) -> Changes:
    for key in list(changes):
        fewer = {k: v for k, v in changes.items() if k != key}
        if fewer and _fits(request, process, fewer):
            changes = fewer
    return changes


def _fits(request: Request, process: Process, changes: Changes) -> bool:
    plan = make_plan(changed(request, changes))
    if plan.problems:
        return False
    same = [p for p in plan.processes if p.kind == process.kind]
    return all(p.fits is not False for p in same or plan.processes)


def _learner(request: Request, process: Process) -> Iterator[list[Changes]]:
    """Ways to make a learner smaller, each from mild to harsh. Only LoRA and the weights' type change what is learned."""
    mild = _mild(request)
    yield mild
    cheap = [m for m in mild if "max_tokens_per_microbatch" not in m][-1:] or [{}]
    small = [*cheap, *mild[-1:]]  # without a smaller token budget, and with the smallest
    if "generator" in process.kind:
        yield [{**s, "num_env_runners": 1, "num_gpus_per_env_runner": 1.0} for s in [{}, *small]]
    spread = [
        _spread(n) for n in LEARNERS if n > request.config["num_learners"] or request.config["sharding"] != "fsdp2"
    ]
    yield [{**s, **more, **apart} for apart in _apart(process) for s in small for more in spread]
    if request.config["lora"] is None:
        yield [{**s, "lora": LORA, **frozen} for frozen in ({}, {"freeze_vision_tower": True}) for s in [{}, *small]]
    yield [{**s, **_spread(max(1, request.config["num_learners"])), "cpu_offload": True} for s in [{}, *small]]


def _spread(learners: int) -> Changes:
    return {"sharding": "fsdp2", "num_learners": learners, "num_gpus_per_learner": 1.0}


def _apart(process: Process) -> Iterator[Changes]:
    """Nothing; and where the generator is to leave the learner's process, an engine of its own over more and more GPUs."""
    yield {}
    if "generator" in process.kind:
        for ways in (1, *WAYS):
            yield {
                "engine": "vllm",
                "num_env_runners": 1,
                "num_gpus_per_env_runner": float(ways),
                "vllm.tensor_parallel_size": ways,
                "vllm.gpu_memory_utilization": 0.9,
            }


def _mild(request: Request) -> list[Changes]:
    """Changes that only cost time, or the last bits of the weights' type: each with those before it."""
    c = request.config
    changes: Changes = {}
    found: list[Changes] = []
    if c["dtype"] == "float32":
        changes = {**changes, "dtype": "bfloat16"}
        found.append(changes)
    if c["activation_checkpointing"] != "full":
        changes = {**changes, "activation_checkpointing": "full"}
        found.append(changes)
    budget = c["max_tokens_per_microbatch"] // 2
    while budget >= LEAST_BUDGET:
        found.append({**changes, "max_tokens_per_microbatch": budget})
        budget //= 2
    return found


def _engine(request: Request) -> Iterator[list[Changes]]:
    """Ways to give an engine more room."""
    share = request.config["vllm"]["gpu_memory_utilization"]
    if request.config["dtype"] == "float32":
        yield [{"dtype": "bfloat16"}]
    yield [{"vllm.gpu_memory_utilization": s} for s in (0.6, 0.7, 0.8, 0.9) if s > share]
    more = [n for n in WAYS if n > request.config["vllm"]["tensor_parallel_size"]]
    wide = [{"vllm.tensor_parallel_size": n, "num_gpus_per_env_runner": float(n)} for n in more]
    yield [*wide, *({**w, "vllm.gpu_memory_utilization": 0.9} for w in wide)]
