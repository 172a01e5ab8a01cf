"""What a run's processes hold, whether each fits its GPU, and how much work the run is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sharegrpo_rl.models.sizes import ModelSizes
from sharegrpo_rl.planning.memory import (
    BYTES,
    CUDA,
    Training,
    activations,
    engine_parts,
    kept,
    learner_parts,
    model_parts,
    training,
)
from sharegrpo_rl.planning.seconds import Seconds, estimate
from sharegrpo_rl.planning.workload import ALWAYS, GIB, GPU, Part, Process, Workload, largest_micro_batch, workload


@dataclass(frozen=True)
class Request:
    """What to plan for. `config`: every option of the algorithm, resolved; lengths: means in the data, where known."""

    config: Mapping[str, Any]
    iterations: int
    sizes: ModelSizes
    gpu: GPU | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    def with_config(self, **changes: Any) -> Request:
        return replace(self, config={**self.config, **changes})


@dataclass(frozen=True)
class Plan:
    """The result. `problems` are settings that contradict each other; notes say what was assumed of the file."""

    processes: tuple[Process, ...]
    work: Workload
    trained: int  # parameters
    seconds: Seconds | None
    compared: bool  # with a GPU's memory
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def gpus(self) -> float:
        return sum(p.count * p.gpus for p in self.processes)

    @property
    def fits(self) -> bool | None:
        """None where no GPU is known to compare with; processes on CPUs are not compared."""
        if self.problems or False in [p.fits for p in self.processes]:
            return False
        return True if self.compared else None


def on_gpus(request: Request) -> Request:
    """The request with GPUs for its processes, where one is to be compared with and the file asks for none."""
    c = request.config
    if request.gpu is None or c["num_gpus_per_learner"] or c["num_gpus_per_env_runner"]:
        return request
    return request.with_config(num_gpus_per_learner=1.0, num_gpus_per_env_runner=_ways(c))


def make_plan(request: Request) -> Plan:
    """Memory, work and time of a run."""
    notes = []
    if on_gpus(request) is not request:
        request = on_gpus(request)
        notes.append(
            "the file asks for no GPU and would run on CPUs; planned as if num_gpus_per_learner and "
            "num_gpus_per_env_runner gave every process its own"
        )
    config, sizes = request.config, request.sizes
    if config["sharding"] == "fsdp2" and not config["num_learners"]:
        notes.append("sharding: fsdp2 spreads a model over remote learners; with num_learners: 0 nothing is spread")
    work = workload(config, sizes, request.iterations, request.prompt_tokens, request.completion_tokens)
    train = training(config, sizes)
    processes = _processes(request, train, work)
    room = next((p.bytes for process in processes for p in process.parts if p.name.endswith("KV cache")), None)
    return Plan(
        processes=tuple(processes),
        work=work,
        trained=train.parameters,
        seconds=estimate(config, sizes, train, work, request.gpu, room) if request.gpu else None,
        compared=request.gpu is not None,
        problems=tuple(_problems(config)),
        notes=tuple(notes),
    )


def _processes(request: Request, train: Training, work: Workload) -> list[Process]:
    """Learners and env runners; those that live in the driver are one process where they share its model."""
    c = request.config
    learner, runner = _learner(request, train, work), _runner(request, train, work)
    if runner is None:
        return [learner]
    if c["num_learners"] or c["num_env_runners"]:
        return [learner, runner]
    own = (
        tuple(part for part in runner.parts if part.name not in ("weights", "reserve"))
        if c["engine"] == "hf"
        else runner.parts
    )
    if c["engine"] == "vllm":
        own = tuple(replace(p, name=f"engine: {p.name}", phase=p.phase if c["vllm"]["sleep"] else ALWAYS) for p in own)
    kind = f"driver: learner and {c['engine']} generator"
    return [Process(kind, 1, max(learner.gpus, runner.gpus), learner.parts + own, learner.available, learner.notes)]


def _learner(request: Request, train: Training, work: Workload) -> Process:
    c, gpu = request.config, request.gpu
    device = "gpu" if c["num_gpus_per_learner"] else "cpu"
    micro = largest_micro_batch(work, c["max_tokens_per_microbatch"], train.ranks)
    at_work = activations(request.sizes, train, work, micro, device)
    parts = learner_parts(request.sizes, train, at_work, device)
    kind = "learner" if c["num_learners"] else "driver: learner"
    pictures = f", {micro.images} image{'s' * (micro.images != 1)}" if micro.images else ""
    notes = [f"a micro-batch: {micro.tokens:,} tokens, {micro.rows} completions{pictures}"]
    if train.offload:
        waiting = sum(p.bytes for p in kept(request.sizes, train))
        notes.append(f"in host memory (cpu_offload): {waiting / GIB:.1f} GiB for each")
    gpus = c["num_gpus_per_learner"]
    return Process(kind, train.ranks, gpus, tuple(parts), _memory(gpu, gpus), tuple(notes))


def _runner(request: Request, train: Training, work: Workload) -> Process | None:
    c, gpu = request.config, request.gpu
    if not work.samples:
        return None
    count, gpus, b = max(1, c["num_env_runners"]), c["num_gpus_per_env_runner"], BYTES[c["dtype"]]
    if not c["num_learners"] and not c["num_env_runners"]:
        gpus = max(gpus, c["num_gpus_per_learner"])  # the driver's, for both
    where = "env runner" if c["num_env_runners"] else "driver: env runner"
    memory = _memory(gpu, gpus)
    if c["engine"] == "vllm":
        share = c["vllm"]["gpu_memory_utilization"]
        budget = None if memory is None else int(share * memory)
        parts = engine_parts(request.sizes, work, c["vllm"], b, budget)
        note = f"vLLM takes {share:.0%} of each GPU (vllm.gpu_memory_utilization)"
        return Process(f"{where} with vLLM", count, gpus, tuple(parts), budget, (note,) if budget else ())
    parts = [Part("weights", request.sizes.total * b, "a copy of the model"), *model_parts(request.sizes, work, b)]
    if gpus:
        parts.append(Part("reserve", CUDA, "CUDA, libraries, fragments (assumed)"))
    return Process(f"{where} with hf", count, gpus, tuple(parts), memory)


def _memory(gpu: GPU | None, gpus: float) -> int | None:
    """Bytes that a process has on one of its GPUs; None on a CPU."""
    return None if gpu is None or not gpus else int(gpu.memory * min(1.0, gpus))


def _ways(config: Mapping[str, Any]) -> float:
    """GPUs of a runner."""
    return float(config["vllm"]["tensor_parallel_size"]) if config.get("engine") == "vllm" else 1.0


def _problems(config: Mapping[str, Any]) -> list[str]:
    """Settings that cannot be run together."""
    found = []
    gpus, ways = config["num_gpus_per_env_runner"], _ways(config)
    if config.get("engine") == "vllm" and 0 < gpus < 1:
        found.append(f"num_gpus_per_env_runner: {gpus:g} is less than one GPU, which an engine takes whole")
    elif 0 < gpus != ways:
        found.append(
            f"num_gpus_per_env_runner: {gpus:g} is not vllm.tensor_parallel_size ({ways:g}), the GPUs of an engine"
        )
    if config["cpu_offload"] and config["sharding"] != "fsdp2":
        found.append("cpu_offload: needs sharding: fsdp2")
    return found
