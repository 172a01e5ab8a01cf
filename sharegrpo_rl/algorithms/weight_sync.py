"""New weights on their way from the Learner to the env runners: blocking, with a deadline, in parts where engines hold them."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from sharegrpo_rl.env_runners.qa_env_runner import RunnerError
from sharegrpo_rl.env_runners.vllm_env_runner import WeightPart
from sharegrpo_rl.generation.weights import engine_weights, in_buckets, to_array
from sharegrpo_rl.learners.vlm_rl_module import VLMRLModule


def push_state(group: Any, module: VLMRLModule, version: int, timeout_s: float) -> None:
    """The module's state to every remote runner, at once."""
    state = {COMPONENT_RL_MODULE: ray.put({DEFAULT_MODULE_ID: module.get_state()}), WEIGHTS_SEQ_NO: version}
    ask_runners(group, "take_state", {"state": state}, time.monotonic() + timeout_s, f"weights {version}")


def push_parts(group: Any, module: VLMRLModule, version: int, timeout_s: float, everything: bool) -> None:
    """The module's weights to the engine of every remote runner, a bucket at a time: so much lies in the object store."""
    deadline = time.monotonic() + timeout_s
    for number, (bucket, last) in enumerate(in_buckets(engine_weights(module.policy.model, everything))):
        arrays = ray.put({name: to_array(tensor) for name, tensor in bucket})
        part = WeightPart(version, number, last, arrays)
        ask_runners(group, "take_part", {"part": part}, deadline, f"part {number + 1} of weights {version}")


def ask_runners(group: Any, method: str, arguments: dict[str, Any], deadline: float, what: str) -> None:
    """Call every healthy remote runner and wait for all; RunnerError naming those that failed or did not answer.

    A runner that dies on the way is left to RLlib, which starts it again; it then gets its weights anew.
    """
    asked = group.healthy_env_runner_ids()
    if not asked:
        return
    seconds = max(0.1, deadline - time.monotonic())
    answers = group.foreach_env_runner(
        method, kwargs=arguments, remote_worker_ids=asked, local_env_runner=False, timeout_seconds=seconds
    )
    for runner, error in answers:
        if error:
            raise RunnerError(f"env runner {runner} could not take {what}:\n{error}")
    silent = set(asked) - {runner for runner, _ in answers}
    if waiting := sorted(silent & set(group.healthy_env_runner_ids())):
        names = ", ".join(map(str, waiting))
        raise RunnerError(
            f"the driver waited {seconds:.0f} s for env runner {names} to take {what}, in vain; if it is only slow, raise "
            "weight_sync_timeout_s"
        )
