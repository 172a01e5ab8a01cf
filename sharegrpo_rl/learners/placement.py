"""What a run asks of the cluster, and a readable complaint where the cluster does not have it."""

from __future__ import annotations

import os
from collections import Counter
from math import ceil
from typing import Any

import ray

from sharegrpo_rl.errors import UserError


def learner_bundle(config: Any) -> dict[str, float]:
    """What each remote learner asks of its node."""
    bundle = {"CPU": 1.0}
    return bundle | ({"GPU": float(config.num_gpus_per_learner)} if config.num_gpus_per_learner else {})


def demand(config: Any) -> dict[str, float]:
    """CPU and GPU of all remote learners and env runners, and the GPU that learner or runner in the driver uses."""
    asked: Counter[str] = Counter()
    for _ in range(config.num_learners):
        asked.update(learner_bundle(config))
    asked.update({"CPU": config.num_env_runners, "GPU": config.num_env_runners * config.num_gpus_per_env_runner})
    here = [
        config.num_gpus_per_learner if config.num_learners == 0 else 0,
        config.num_gpus_per_env_runner if config.num_env_runners == 0 else 0,
    ]
    asked["GPU"] += max(here)  # they share it
    return {name: float(amount) for name, amount in asked.items() if amount}


def start_ray(config: Any) -> None:
    """Ray on this machine, unless it runs. A core is a count here: asked for more learners and runners than the machine
    has cores, they share them."""
    if ray.is_initialized():
        return
    asked = ceil(demand(config).get("CPU", 0))
    more = {"num_cpus": asked} if asked > available_cores() and "RAY_ADDRESS" not in os.environ else {}
    # Ray Train's own processes write much that is no news; what goes wrong in a learner comes back as an error.
    told = config.num_env_runners > 0 and config.num_learners == 0
    ray.init(include_dashboard=False, log_to_driver=told, **more)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_demand(config: Any) -> None:
    """UserError where the whole cluster, were it idle, could not hold the run."""
    there = ray.cluster_resources()
    for name, keys in (
        ("GPU", "num_gpus_per_learner, num_gpus_per_env_runner"),
        ("CPU", "num_learners, num_env_runners"),
    ):
        asked, total = demand(config).get(name, 0), there.get(name, 0)
        if asked > total:
            raise UserError(
                f"{keys}: the run asks for {asked:g} {name}s ({_parts(config)}), and the cluster has {total:g}; lower "
                "them, or start Ray on more nodes"
            )


def shortage_now(config: Any) -> str:
    """What learners ask, and what the cluster has in all and free, in a sentence."""
    bundle = learner_bundle(config)
    total, free = ray.cluster_resources(), ray.available_resources()
    facts = [
        f"{config.num_learners} learners ask for {amount * config.num_learners:g} {name}s, the cluster has "
        f"{total.get(name, 0):g}, of which {free.get(name, 0):g} are free"
        for name, amount in bundle.items()
    ]
    return "; ".join(facts) + " (several trials at once? set tune.max_concurrent, or Tune's max_concurrent_trials)"


def _parts(config: Any) -> str:
    learners, runners = config.num_learners, config.num_env_runners
    return (
        f"{learners or 'the driver as'} learner{'s' * (learners > 1)} with {config.num_gpus_per_learner:g} GPU each, "
        f"{runners or 'the driver as'} env runner{'s' * (runners > 1)} with {config.num_gpus_per_env_runner:g}"
    )
