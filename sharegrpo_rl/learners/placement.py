"""The resources that a run needs, and readable errors where the cluster lacks them."""

from __future__ import annotations

import os
from collections import Counter
from math import ceil
from typing import Any

import ray

from sharegrpo_rl.errors import UserError


def learner_bundle(config: Any) -> dict[str, float]:
    """What each remote learner needs on its node."""
    bundle = {"CPU": 1.0}
    return bundle | ({"GPU": float(config.num_gpus_per_learner)} if config.num_gpus_per_learner else {})


def demand(config: Any) -> dict[str, float]:
    """CPUs and GPUs of all remote learners and env runners, and the GPU of a learner or runner in the driver."""
    needed: Counter[str] = Counter()
    for _ in range(config.num_learners):
        needed.update(learner_bundle(config))
    needed.update({"CPU": config.num_env_runners, "GPU": config.num_env_runners * config.num_gpus_per_env_runner})
    in_driver = [
        config.num_gpus_per_learner if config.num_learners == 0 else 0,
        config.num_gpus_per_env_runner if config.num_env_runners == 0 else 0,
    ]
    needed["GPU"] += max(in_driver)  # they share it
    return {name: float(amount) for name, amount in needed.items() if amount}


def start_ray(config: Any) -> None:
    """Start Ray on this machine unless it runs. Where learners and runners outnumber the cores, they share them."""
    if ray.is_initialized():
        return
    cores = ceil(demand(config).get("CPU", 0))
    more = {"num_cpus": cores} if cores > available_cores() and "RAY_ADDRESS" not in os.environ else {}
    # Ray Train's own processes log much that is no news; a learner's failure comes back as an error.
    log_to_driver = config.num_env_runners > 0 and config.num_learners == 0
    ray.init(include_dashboard=False, log_to_driver=log_to_driver, **more)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_demand(config: Any) -> None:
    """UserError where even the idle cluster could not hold the run."""
    cluster = ray.cluster_resources()
    for name, keys in (
        ("GPU", "num_gpus_per_learner, num_gpus_per_env_runner"),
        ("CPU", "num_learners, num_env_runners"),
    ):
        needed, total = demand(config).get(name, 0), cluster.get(name, 0)
        if needed > total:
            raise UserError(
                f"{keys}: the run needs {needed:g} {name}s ({_parts(config)}), and the cluster has {total:g}; lower "
                "them, or start Ray on more nodes"
            )


def shortage_now(config: Any) -> str:
    """What the learners need, and what the cluster has in total and free, in a sentence."""
    bundle = learner_bundle(config)
    total, free = ray.cluster_resources(), ray.available_resources()
    facts = [
        f"{config.num_learners} learners need {amount * config.num_learners:g} {name}s, the cluster has "
        f"{total.get(name, 0):g}, {free.get(name, 0):g} of them free"
        for name, amount in bundle.items()
    ]
    return "; ".join(facts) + " (several trials at once? set tune.max_concurrent, or Tune's max_concurrent_trials)"


def _parts(config: Any) -> str:
    learners, runners = config.num_learners, config.num_env_runners
    return (
        f"{learners or 'the driver as'} learner{'s' * (learners > 1)} with {config.num_gpus_per_learner:g} GPU each, "
        f"{runners or 'the driver as'} env runner{'s' * (runners > 1)} with {config.num_gpus_per_env_runner:g}"
    )
