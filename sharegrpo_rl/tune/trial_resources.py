"""What a trial of a search needs of the machine, and how many trials it holds at once.

Tune reserves a trial's own process and its env runners. Learners in other processes are placed by Ray Train, which asks
for them when the trial has begun: so the search never begins more trials than have room with their learners.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from sharegrpo_rl.errors import UserError


def bundles(config: Mapping[str, Any]) -> list[dict[str, float]]:
    """What Tune reserves: the trial's process, then each remote env runner."""
    runners, learners = config["num_env_runners"], config["num_learners"]
    here = max(
        config["num_gpus_per_learner"] if learners == 0 else 0,
        config["num_gpus_per_env_runner"] if runners == 0 else 0,
    )
    each = _with_gpus(config["num_gpus_per_env_runner"])
    return [_with_gpus(here), *(dict(each) for _ in range(runners))]


def _with_gpus(gpus: float) -> dict[str, float]:
    return {"CPU": 1} | ({"GPU": gpus} if gpus else {})


def needs(configs: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Cores and GPUs of the largest of some trials, learners included."""
    from sharegrpo_rl.learners.placement import demand

    asked = [demand(SimpleNamespace(**config)) for config in configs]
    return {
        "CPU": 1 + max(a.get("CPU", 0) for a in asked),
        "GPU": max(a.get("GPU", 0) for a in asked),
    }


def trials_at_once(needed: Mapping[str, float]) -> int:
    """How many trials this machine holds; at least one. UserError where it has not the GPUs of one."""
    from sharegrpo_rl.learners.placement import available_cores

    fitting = available_cores() // needed["CPU"]
    if needed["GPU"]:
        import torch

        there = torch.cuda.device_count()
        if there < needed["GPU"]:
            raise UserError(
                f"num_gpus_per_learner, num_gpus_per_env_runner: a trial asks for {needed['GPU']:g} GPUs, and this machine "
                f"has {there}"
            )
        fitting = min(fitting, there // needed["GPU"])
    return max(1, int(fitting))
