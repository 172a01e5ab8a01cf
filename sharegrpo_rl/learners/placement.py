"""The resources that a run needs, and readable errors where the cluster lacks them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from math import ceil

import ray
import torch
from ray.exceptions import NodeDiedError, TaskUnschedulableError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sharegrpo_rl.config.run import RunOptions
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.learners.ray_start import start_local, start_or_join
from sharegrpo_rl.planning.gpus import driver_version

logger = logging.getLogger(__name__)
NODE_SECONDS = 300.0  # for a worker on another node, which may be busy
SHARED_MEMORY = 1 << 30  # bytes; Docker gives 64 MB
# Python, versions that have to be alike on all nodes (None where missing), bytes of /dev/shm (None where there is none).
Environment = tuple[str, dict[str, str | None], int | None]
# The oldest NVIDIA driver of each CUDA release that torch is built for (CUDA's release notes, minor-version compatibility).
_DRIVERS = {11: 450, 12: 525, 13: 580}


def learner_bundle(options: RunOptions) -> dict[str, float]:
    """What each remote learner needs on its node."""
    bundle = {"CPU": 1.0}
    return bundle | ({"GPU": float(options.num_gpus_per_learner)} if options.num_gpus_per_learner else {})


def demand(options: RunOptions) -> dict[str, float]:
    """CPUs and GPUs of all remote learners and env runners, and the GPU of a learner or runner in the driver."""
    runners, learners = options.num_env_runners, options.num_learners
    bundle = learner_bundle(options)
    in_driver = max(  # they share it
        0.0 if learners else options.num_gpus_per_learner, 0.0 if runners else options.num_gpus_per_env_runner
    )
    needed = {
        "CPU": learners * bundle["CPU"] + runners,
        "GPU": learners * bundle.get("GPU", 0.0) + runners * options.num_gpus_per_env_runner + in_driver,
    }
    return {name: float(amount) for name, amount in needed.items() if amount}


def start_ray(options: RunOptions) -> None:
    """Start Ray on this machine unless it runs. Where learners and runners outnumber the cores, they share them."""
    if ray.is_initialized():
        return
    cores = ceil(demand(options).get("CPU", 0))
    more = {"num_cpus": cores} if cores > available_cores() else {}
    # Ray Train's own processes log a lot of noise; a learner's failure comes back as an error.
    log_to_driver = options.num_env_runners > 0 and options.num_learners == 0
    start = (
        start_or_join if options.num_env_runners or options.num_learners else start_local
    )  # alone, no cluster is needed
    start(include_dashboard=False, log_to_driver=log_to_driver, **more)


def check_nodes(options: RunOptions) -> None:
    """Ask every node for its environment and its shared memory, before anything is held there.

    UserError where a node starts no worker, lacks this package or has another version of it, torch or transformers, or where
    several GPUs have next to no shared memory to talk through.
    """
    if not (options.num_learners or options.num_env_runners):
        return
    read, driver = _environment_reader(), ray.get_runtime_context().get_node_id()
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    python, own, shared = read()
    _check_shared_memory(options, nodes.pop(driver), shared)
    asked = ray.remote(num_cpus=0, max_retries=0)(read)
    answers = {
        asked.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(): address
        for node, address in nodes.items()
    }
    _, silent = ray.wait(list(answers), num_returns=len(answers), timeout=NODE_SECONDS) if answers else ([], [])
    for answer, address in answers.items():
        if answer in silent:
            raise UserError(
                f"Ray: node {address} started no worker within {NODE_SECONDS:g} s; see the logs in /tmp/ray/session_latest/logs "
                "there, or take it out of the cluster"
            )
        try:
            where, versions, shared = ray.get(answer)
        except (NodeDiedError, TaskUnschedulableError, WorkerCrashedError) as error:
            logger.warning("Ray: node %s is leaving the cluster (%s)", address, type(error).__name__)
            continue
        for name, version in versions.items():
            if version != own[name]:
                raise UserError(
                    f"Ray: node {address} has {name} {version or 'not installed'} ({where}), the driver has {own[name]} "
                    f"({python}); run `ray start` there in the same environment, at the same path"
                )
        _check_shared_memory(options, address, shared)


def _check_shared_memory(options: RunOptions, address: str, shared: int | None) -> None:
    if shared is None or shared >= SHARED_MEMORY:
        return
    words = (
        f"/dev/shm on node {address} has {shared / 2**20:,.0f} MB, through which Ray's store, NCCL and vLLM's workers talk; "
        "start its container with --shm-size 16g"
    )
    if demand(options).get("GPU", 0) > 1:
        raise UserError(words)
    logger.warning("%s", words)


def _environment_reader() -> Callable[[], Environment]:
    """What reads a node's environment. It travels whole, for a function of a module needs this package on the other side."""

    def read() -> Environment:
        import os
        import shutil
        import sys
        from importlib.metadata import PackageNotFoundError, version

        versions: dict[str, str | None] = {}
        for name in ("sharegrpo-rl", "torch", "transformers"):
            try:
                versions[name] = version(name)
            except PackageNotFoundError:
                versions[name] = None
        shared = shutil.disk_usage("/dev/shm").total if os.path.isdir("/dev/shm") else None
        return sys.executable, versions, shared

    return read


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_demand(options: RunOptions) -> None:
    """UserError where even the idle cluster could not hold the run."""
    cluster = ray.cluster_resources()
    for name, keys in (
        ("GPU", "num_gpus_per_learner, num_gpus_per_env_runner"),
        ("CPU", "num_learners, num_env_runners"),
    ):
        needed, total = demand(options).get(name, 0), cluster.get(name, 0)
        if needed > total:
            raise UserError(
                f"{keys}: the run needs {needed:g} {name}s ({_parts(options)}), and the cluster has {total:g}; lower "
                "them, or start Ray on more nodes"
            )
    if gpus := cluster.get("GPU", 0):
        _check_gpus(options, gpus)


def _check_gpus(options: RunOptions, gpus: float) -> None:
    """Of a cluster with GPUs: does the run use them, each engine its own, and does torch see those of this machine?"""
    if not demand(options).get("GPU"):
        logger.warning(
            "there are %g GPUs and the run uses none of them: set num_gpus_per_learner: 1, and num_gpus_per_env_runner where "
            "num_env_runners is above 0 (`sharegrpo-rl plan` says what fits)",
            gpus,
        )
        return
    if getattr(options, "engine", "hf") == "vllm" and options.num_env_runners and not options.num_gpus_per_env_runner:
        raise UserError(
            "num_gpus_per_env_runner: 0 would put every engine on the first GPU; set it to vllm.tensor_parallel_size"
        )
    here = ray.get_runtime_context().get_node_id()
    own = next((node["Resources"].get("GPU", 0) for node in ray.nodes() if node["NodeID"] == here), 0)
    if own and not torch.cuda.is_available():
        raise UserError(
            f"num_gpus_per_learner: Ray has {own:g} GPUs on this machine, and torch sees none: {why_torch_sees_no_gpu()}"
        )


def why_torch_sees_no_gpu() -> str:
    """Why torch has no GPU on a machine that has one, and what to do about it, in one line."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA; install a build with it"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "unset").strip() in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides them; unset it"
    needed, driver = _DRIVERS.get(int(torch.version.cuda.split(".")[0]), 0), driver_version()
    if driver is not None and int(driver.split(".")[0]) < needed:
        return (
            f"the NVIDIA driver is {driver}, and torch {torch.__version__} (CUDA {torch.version.cuda}) needs {needed} or newer; "
            "update the driver, or install a torch that is built for an older CUDA"
        )
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return " ".join(str(error).split())[:200]
    return "the NVIDIA driver answers nothing; run nvidia-smi"


def shortage_now(options: RunOptions) -> str:
    """What the learners need, and what the cluster has in total and free, in a sentence."""
    bundle = learner_bundle(options)
    total, free = ray.cluster_resources(), ray.available_resources()
    facts = [
        f"{options.num_learners} learners need {amount * options.num_learners:g} {name}s, the cluster has "
        f"{total.get(name, 0):g}, {free.get(name, 0):g} of them free"
        for name, amount in bundle.items()
    ]
    return "; ".join(facts) + " (several trials at once? set tune.max_concurrent, or Tune's max_concurrent_trials)"


def _parts(options: RunOptions) -> str:
    learners, runners = options.num_learners, options.num_env_runners
    return (
        f"{learners or 'the driver as'} learner{'s' * (learners > 1)} with {options.num_gpus_per_learner:g} GPU each, "
        f"{runners or 'the driver as'} env runner{'s' * (runners > 1)} with {options.num_gpus_per_env_runner:g}"
    )
