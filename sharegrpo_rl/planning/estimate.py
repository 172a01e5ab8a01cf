"""What each process of a run holds, whether it fits its GPU, and how much work and time the run takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from sharegrpo_rl.models.sizes import ModelSizes
from sharegrpo_rl.planning.gpus import GIB, GPU
from sharegrpo_rl.planning.memory import (
    ALWAYS,
    GENERATING,
    GPU_RESERVE,
    ITEMSIZE,
    LEARNING,
    Part,
    Training,
    activations,
    engine_parts,
    hf_parts,
    learner_parts,
    resident_parts,
)
from sharegrpo_rl.planning.seconds import Seconds, estimate_seconds
from sharegrpo_rl.planning.workload import Workload, largest_micro_batch

DISK = 5e8  # bytes a second of a disk that several nodes share (assumed)
START = 120.0  # seconds of an engine's start beside reading its weights: compiling, graphs (assumed)


@dataclass(frozen=True)
class EstimateRequest:
    """What to estimate. `config`: every option of the algorithm, resolved; lengths: means in the data, where known."""

    config: Mapping[str, Any]
    iterations: int
    sizes: ModelSizes
    gpu: GPU | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    def with_config(self, **changes: Any) -> EstimateRequest:
        return replace(self, config={**self.config, **changes})

    def on_gpus(self) -> EstimateRequest:
        """With GPUs for its processes, where there is one to compare with and the file asks for none."""
        c = self.config
        if self.gpu is None or c["num_gpus_per_learner"] or c["num_gpus_per_env_runner"]:
            return self
        return self.with_config(num_gpus_per_learner=1.0, num_gpus_per_env_runner=_engine_gpus(c))


@dataclass(frozen=True)
class Process:
    """`count` processes of a kind, with `gpus` GPUs each. Bytes are those of one GPU (of the process, on a CPU)."""

    kind: str
    count: int
    gpus: float
    parts: tuple[Part, ...]
    available: int | None = None  # bytes that the parts may take; None where no GPU is known
    notes: tuple[str, ...] = ()
    learns: bool = False
    engine: str | None = None  # what generates in it: hf or vllm

    def bytes_in(self, phase: str) -> int:
        """Bytes while learning or generating, with what always exists."""
        return sum(part.bytes for part in self.parts if part.phase in (ALWAYS, phase))

    @property
    def peak_phase(self) -> str:
        """The phase that takes most."""
        return max((LEARNING, GENERATING), key=self.bytes_in)

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return self.bytes_in(self.peak_phase)

    @property
    def fits(self) -> bool | None:
        return None if self.available is None else self.total <= self.available


@dataclass(frozen=True)
class Storage:
    """Bytes outside the GPUs. `loading`: of host memory, while all processes of a run on one node load the model: one learner
    reads it for all, and an engine's runner has none of its own; learners on CPUs hold theirs in host memory besides."""

    checkpoint: int
    checkpoints: int  # at most, with the best one and the one that is being written
    commit: int  # of remote learners, each time
    commits: int
    loading: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any], sizes: ModelSizes, train: Training) -> Storage:
        """Of a resolved config; frozen weights are in a checkpoint's Hugging Face folder alone."""
        runners = config["num_env_runners"] if config.get("engine") == "hf" else 0
        models = (
            2 if train.reference and config["num_learners"] < 2 else 1
        ) + runners  # several place one, then the other
        remote = config["num_learners"] > 0
        return cls(
            checkpoint=train.committed_bytes + sizes.total * train.itemsize,
            checkpoints=config["checkpoints_to_keep"] + 2,
            commit=train.committed_bytes if remote else 0,
            commits=2 if remote else 0,  # KEPT_COMMITS of the learners' host, which imports Ray
            loading=models * sizes.total * train.itemsize,
        )


@dataclass(frozen=True)
class RunEstimate:
    """Memory, work and time of a run. `problems`: settings that contradict each other; `deadlines`: those that it comes near;
    `notes`: what was assumed."""

    processes: tuple[Process, ...]
    work: Workload
    trained: int  # parameters
    seconds: Seconds | None
    storage: Storage
    compared: bool  # with a GPU's memory
    problems: tuple[str, ...]
    deadlines: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def gpus(self) -> float:
        return sum(process.count * process.gpus for process in self.processes)

    @property
    def fits(self) -> bool | None:
        """None where no GPU is known to compare with; processes on CPUs are not compared."""
        if self.problems or self.deadlines or any(process.fits is False for process in self.processes):
            return False
        return True if self.compared else None


def estimate_run(request: EstimateRequest) -> RunEstimate:
    """Memory, work and time of a run."""
    notes = []
    if (moved := request.on_gpus()) is not request:
        request = moved
        notes.append(
            "the file asks for no GPU and would run on CPUs; planned as if num_gpus_per_learner and "
            "num_gpus_per_env_runner gave every process its own"
        )
    config, sizes = request.config, request.sizes
    if config["sharding"] == "fsdp2" and not config["num_learners"]:
        notes.append("sharding: fsdp2 shards a model over remote learners; with num_learners: 0 nothing is sharded")
    work = Workload.from_config(config, sizes, request.iterations, request.prompt_tokens, request.completion_tokens)
    train = Training.from_config(config, sizes)
    processes = tuple(_processes(request, train, work))
    storage = Storage.from_config(config, sizes, train)
    caches = [part.bytes for process in processes for part in process.parts if part.name.endswith("KV cache")]
    seconds = None
    if request.gpu is not None:
        seconds = estimate_seconds(config, sizes, train, work, request.gpu, caches[0] if caches else None)
    return RunEstimate(
        processes=processes,
        work=work,
        trained=train.parameters,
        seconds=seconds,
        storage=storage,
        compared=request.gpu is not None,
        problems=tuple(layout_problems(config)),
        deadlines=tuple(_too_slow(config, sizes, storage, seconds)),
        notes=tuple(notes),
    )


def _processes(request: EstimateRequest, train: Training, work: Workload) -> list[Process]:
    """Learners and env runners; one process where both live in the driver and share its model."""
    c = request.config
    learner = _learner(request, train, work)
    if not work.samples:
        return [learner]
    if c["num_learners"] or c["num_env_runners"]:
        return [learner, _env_runner(request, work)]
    gpus = max(c["num_gpus_per_env_runner"], c["num_gpus_per_learner"])  # the driver's, for both
    parts = _generator_parts(request, work, gpus)
    if c["engine"] == "vllm":
        awake = not c["vllm"]["sleep"]
        parts = [replace(p, name=f"engine: {p.name}", phase=ALWAYS if awake else p.phase) for p in parts]
    kind = f"driver: learner and {c['engine']} generator"
    return [replace(learner, kind=kind, gpus=gpus, parts=(*learner.parts, *parts), engine=c["engine"])]


def _learner(request: EstimateRequest, train: Training, work: Workload) -> Process:
    c = request.config
    gpus = c["num_gpus_per_learner"]
    device = "gpu" if gpus else "cpu"
    micro = largest_micro_batch(work, c["max_tokens_per_microbatch"], train.ranks)
    parts = learner_parts(request.sizes, train, activations(request.sizes, train, work, micro, device), device)
    images = f", {micro.images} image{'s' * (micro.images != 1)}" if micro.images else ""
    notes = [f"a micro-batch: {micro.tokens:,} tokens, {micro.rows} completions{images}"]
    if request.sizes.obstacle:
        notes.append(f"a row for each completion, its prompt repeated: {request.sizes.obstacle}")
    if train.offload:
        offloaded = sum(part.bytes for part in resident_parts(request.sizes, train))
        notes.append(f"in host memory (cpu_offload): {offloaded / GIB:.1f} GiB for each")
    kind = "learner" if c["num_learners"] else "driver: learner"
    return Process(kind, train.ranks, gpus, tuple(parts), _memory(request.gpu, gpus), tuple(notes), learns=True)


def _env_runner(request: EstimateRequest, work: Workload) -> Process:
    c, gpus, engine = request.config, request.config["num_gpus_per_env_runner"], request.config["engine"]
    parts, where = _generator_parts(request, work, gpus), "env runner" if c["num_env_runners"] else "driver: env runner"
    if engine == "vllm":
        memory, share = _engine_budget(request, gpus), c["vllm"]["gpu_memory_utilization"]
        notes = [f"vLLM takes {share:.0%} of each GPU (vllm.gpu_memory_utilization)"] if memory else []
    else:
        memory, notes = _memory(request.gpu, gpus), []
        parts = [Part("weights", request.sizes.total * ITEMSIZE[c["dtype"]], "a copy of the model"), *parts]
        if gpus:
            parts.append(Part("reserve", GPU_RESERVE, "CUDA, libraries, fragments (assumed)"))
    kind = f"{where} with {'vLLM' if engine == 'vllm' else engine}"
    return Process(kind, max(1, c["num_env_runners"]), gpus, tuple(parts), memory, tuple(notes), engine=engine)


def _generator_parts(request: EstimateRequest, work: Workload, gpus: float) -> list[Part]:
    c, itemsize = request.config, ITEMSIZE[request.config["dtype"]]
    if c["engine"] == "vllm":
        return engine_parts(request.sizes, work, c["vllm"], itemsize, _engine_budget(request, gpus))
    return hf_parts(request.sizes, work, itemsize)


def _engine_budget(request: EstimateRequest, gpus: float) -> int | None:
    """Bytes that vLLM takes of each of its GPUs."""
    memory = _memory(request.gpu, gpus)
    return None if memory is None else int(request.config["vllm"]["gpu_memory_utilization"] * memory)


def _memory(gpu: GPU | None, gpus: float) -> int | None:
    """Bytes that a process has on one of its GPUs; None on a CPU."""
    return None if gpu is None or not gpus else int(gpu.memory * min(1.0, gpus))


def _engine_gpus(config: Mapping[str, Any]) -> float:
    return float(config["vllm"]["tensor_parallel_size"]) if config.get("engine") == "vllm" else 1.0


def _too_slow(config: Mapping[str, Any], sizes: ModelSizes, storage: Storage, seconds: Seconds | None) -> Iterator[str]:
    """Deadlines that the estimate comes near: each is to be twice what it waits for, at least."""
    if seconds is None:
        return
    model = sizes.total * ITEMSIZE[config["dtype"]]
    waits: list[tuple[str, float, float, str]] = []  # key, its value, seconds that it waits for, for what
    if config["num_env_runners"] and config.get("num_generations"):
        waits.append(
            ("rollout_timeout_s", config["rollout_timeout_s"], seconds.generating, "an iteration's completions")
        )
        waits.append(("weight_sync_timeout_s", config["weight_sync_timeout_s"], seconds.syncing, "new weights"))
        if config["engine"] == "vllm":
            start = model / DISK + START
            waits.append(("vllm.start_timeout_s", config["vllm"]["start_timeout_s"], start, "an engine's start"))
    if ranks := config["num_learners"]:
        written = (storage.checkpoint if config["sharding"] == "ddp" else storage.checkpoint / ranks) / DISK
        slowest, what = max((model / DISK, "loading the model"), (written, "a rank's part of a checkpoint"))
        waits.append(("learner_timeout_s", config["learner_timeout_s"], slowest, what))
    for key, limit, expected, what in waits:
        if 2 * expected > limit:
            yield (
                f"{key}: {limit:g} s is not much more than {what} may take, by this estimate {expected:,.0f} s; set it to "
                f"{ceil(3 * expected)}"
            )


def layout_problems(config: Mapping[str, Any]) -> list[str]:
    """Settings of GPUs and workers that contradict each other: each key, what is wrong, and what to set."""
    problems = []
    learner, gpus, ways = config["num_gpus_per_learner"], config["num_gpus_per_env_runner"], _engine_gpus(config)
    has_engine, remote = config.get("engine") == "vllm", config["num_env_runners"] > 0
    if has_engine and 0 < gpus < 1:
        problems.append(
            f"num_gpus_per_env_runner: {gpus:g} is less than one GPU, but an engine needs a whole one; set it to {ways:g}"
        )
    elif not has_engine and gpus > 1:
        problems.append(f"num_gpus_per_env_runner: {gpus:g}, but engine: hf generates on one GPU; set it to 1")
    elif has_engine and 0 < gpus != ways:
        problems.append(
            f"num_gpus_per_env_runner: {gpus:g} is not vllm.tensor_parallel_size ({ways:g}), the GPUs of an engine; set it to "
            f"{ways:g}"
        )
    if has_engine and remote and learner and not gpus:
        problems.append(
            f"num_gpus_per_env_runner: 0 would put every engine on the first GPU, beside a learner; set it to {ways:g}"
        )
    if remote and gpus and learner and not config["num_learners"]:
        problems.append(
            "num_learners: 0 keeps the learner in the driver, on the first GPU, which Ray gives to an env runner too; set it "
            "to 1"
        )
    for key in ("cpu_offload", "fsdp_size"):
        if config[key] and config["sharding"] != "fsdp2":
            problems.append(f"{key}: needs sharding: fsdp2, not {config['sharding']}")
    if (size := config["fsdp_size"]) and config["num_learners"] % size:
        problems.append(
            f"fsdp_size: {config['num_learners']} learners cannot be divided into copies over {size}; set it to a divisor"
        )
    return problems
