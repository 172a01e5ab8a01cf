"""What the driver itself spends in an iteration, with many env runners and learners: seconds outside waiting for them.

    uv run python benchmarks/driver_load.py --runners 8 32 --learners 24

A real run through `train`: data, requests, RLlib's env runner actors, graders, groups, packs, the plan for all ranks, their
shares, metrics, journals and checkpoints. Simulated are only a runner's engine with its image processor, which hand back
ready answers and prompts, and the learners behind their mailbox, which fetch their shares and do no step.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console

# isort: off
import sharegrpo_rl  # noqa: F401  (before Ray: under `uv run` Ray would build an environment for every worker)
import ray

# isort: on
from arguments import report
from fresh_process import in_fresh_process
from ray.rllib.core import DEFAULT_MODULE_ID
from timing import progress

from sharegrpo_rl.algorithms.registry import build_config
from sharegrpo_rl.data.types import Completion, PixelInput, Prompt
from sharegrpo_rl.generation.generator import PromptDone, Sampling
from sharegrpo_rl.learners import remote_group
from sharegrpo_rl.learners.mailbox import Command, Group, Member
from sharegrpo_rl.models.prompts import Question
from sharegrpo_rl.rollouts.env_runner import QAEnvRunner
from sharegrpo_rl.runs.run_file import RunSpec, TrainOptions, resolve_run
from sharegrpo_rl.runs.train import train

VOCABULARY = 151_936
VARIANTS = 2
ANSWERS = 10  # the whole numbers below it
WORD = "then "  # a token's share of a completion's text, about as long as in English
UPDATE = {"optimizer_steps": 4.0, "skipped_steps": 0.0, "policy_loss": 0.1, "kl": 0.0, "entropy": 1.0, "grad_norm": 1.0}
# The driver's work by the methods that do it; the name says which part of the algorithm has it.
PARTS = {
    "requests": ("", "_next_requests"),
    "episodes": ("rollouts", "collect_batch"),
    "packs": ("", "build_packs"),
    "update": ("learner_group", "update"),
    "metrics": ("", "_log"),
    "commit": ("learner_group", "commit"),
    "checkpoint": ("", "save_to_path"),
}


class ReadyEncoder:
    """Prompts of a given length with references to pixels, which nobody looks at, in the place of a model's processor."""

    opening = ""

    def __init__(self, length: int) -> None:
        self._ids = np.random.default_rng(0).integers(0, VOCABULARY, length)

    def encode(self, questions: Sequence[Question], check_length: bool = True, shared: Any = None) -> list[Prompt]:
        return [self._prompt(question) for question in questions]

    def _prompt(self, question: Question) -> Prompt:
        images = tuple(PixelInput(key, {"pixel_values": np.zeros((4, 4), np.float32)}) for key in question.keys)
        return Prompt(self._ids.copy(), images, question.text)


class ReadyAnswers:
    """A generator whose completions are all of the full length; some are right."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        num_generations: int,
        seeds: Sequence[int],
        sampling: Sampling,
        on_prompt_done: PromptDone | None = None,
    ) -> list[tuple[Completion, ...]]:
        answers = []
        for index, seed in enumerate(seeds):
            answers.append(self._answer(np.random.default_rng(seed), num_generations, sampling.max_tokens))
            if on_prompt_done is not None:
                on_prompt_done(index, answers[-1])
        return answers

    def _answer(self, rng: np.random.Generator, count: int, length: int) -> tuple[Completion, ...]:
        return tuple(
            Completion(
                rng.integers(0, VOCABULARY, length),
                rng.random(length, np.float32) - 1,
                f"<think>{WORD * length}</think><answer>{rng.integers(ANSWERS)}</answer>",
            )
            for _ in range(count)
        )


class SimulatedRunner(QAEnvRunner):
    """Everything that an env runner does but to run a model."""

    def make_module(self) -> None:
        policy = SimpleNamespace(encoder=ReadyEncoder(self.options.max_prompt_tokens))
        self.module = SimpleNamespace(policy=policy, set_state=lambda state: None, get_state=dict)

    def make_generator(self) -> ReadyAnswers:
        return ReadyAnswers()


class SimulatedHost:
    """The driver's side of the learners' mailbox. All ranks fetch their shares here, and answer at once."""

    def __init__(self, ranks: int) -> None:
        facts = {"parameter_table": [("language", 1, 1)], "version": 0, "shares_prefix": True}
        self._group = Group("simulated", tuple(Member(rank, "here", 0, 0, facts) for rank in range(ranks)))
        self._committed = 0

    def ready(self, timeout_s: float) -> Group:
        return self._group

    def call(self, attempt: str, command: Command, timeout_s: float) -> list[Any]:
        return [getattr(self, f"_{command.name}")(**arguments) for arguments in command.arguments]

    def _fetch(self, share: list[ray.ObjectRef]) -> None:
        ray.get(share[0])

    def _update(self) -> tuple[dict[str, float], dict[str, float], dict[int, np.ndarray]]:
        return UPDATE, {"fetch": 0.0, "step": 0.0}, {}

    def _module_state(self) -> list[ray.ObjectRef]:
        return [ray.put({DEFAULT_MODULE_ID: {}})]

    def _sees(self, file: str, token: str) -> bool:
        return True

    def _commit(self, iteration: int) -> None:
        self._committed = iteration

    def _save(self, folder: str) -> None:
        pass

    def _export(self, folder: str) -> None:
        (Path(folder) / "config.json").write_text("{}")  # the model's card looks at it

    def last_commit(self) -> int:
        return self._committed

    def is_there(self) -> bool:
        return True

    def close(self, timeout_s: float) -> bool:
        return True


class DriverClock:
    """Wall and CPU seconds of this process outside `ray.wait`, in which it waits for runners and learners; also by part."""

    def __init__(self) -> None:
        self._wait, self._waited = ray.wait, np.zeros(2)
        ray.wait = self._waiting
        self.parts: Counter[str] = Counter()

    def _waiting(self, *arguments: Any, **keywords: Any) -> Any:
        began = self._now()
        try:
            return self._wait(*arguments, **keywords)
        finally:
            self._waited += self._now() - began

    @staticmethod
    def _now() -> np.ndarray:
        return np.array([time.perf_counter(), time.process_time()])

    def read(self) -> np.ndarray:
        """(wall, CPU) seconds so far."""
        return self._now() - self._waited

    def watch(self, part: str, owner: Any, method: str) -> None:
        """Count the wall seconds of each call of the method from now on."""
        original = getattr(owner, method)

        def watched(*arguments: Any, **keywords: Any) -> Any:
            began = self.read()[0]
            try:
                return original(*arguments, **keywords)
            finally:
                self.parts[part] += self.read()[0] - began

        setattr(owner, method, watched)


class Marked:
    """An algorithm that notes when each iteration begins, and how long its parts took: the rest is the run around it."""

    def __init__(self, algorithm: Any, clock: DriverClock) -> None:
        self._algorithm, self._clock = algorithm, clock
        self.marks: list[tuple[float, np.ndarray, Counter[str]]] = []
        for part, (owner, method) in PARTS.items():
            clock.watch(part, getattr(algorithm, owner) if owner else algorithm, method)

    def train(self) -> dict[str, Any]:
        self.mark()
        return self._algorithm.train()

    def mark(self) -> None:
        """An iteration has ended, or the first one begins."""
        self.marks.append((time.perf_counter(), self._clock.read(), self._clock.parts.copy()))
        progress(f"iteration {len(self.marks) - 1} done after {self.marks[-1][0] - self.marks[0][0]:.1f} s")

    def evaluate_accuracy(self, blind: bool = False) -> Any:
        if self.marks and not blind:  # after the last iteration
            self.mark()
        return self._algorithm.evaluate_accuracy(blind)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._algorithm, name)

    def figures(self) -> dict[str, Any]:
        """Medians over the iterations after the first."""
        turns = [_turn(*pair) for pair in zip(self.marks[1:], self.marks[2:], strict=False)]
        return {name: round(median(turn[name] for turn in turns), 3) for name in turns[0]}


def _turn(
    start: tuple[float, np.ndarray, Counter[str]], end: tuple[float, np.ndarray, Counter[str]]
) -> dict[str, float]:
    wall, cpu = end[1] - start[1]
    parts = {f"{part}_s": end[2][part] - start[2][part] for part in PARTS}
    spent = {"wall_s": float(wall), "cpu_s": float(cpu), "iteration_s": end[0] - start[0]}
    return spent | parts | {"rest_s": float(wall) - sum(parts.values())}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The measurement as its JSON fields; for each number of runners `wall_s` and `cpu_s` of the driver, an iteration."""
    sizes = ("questions", "samples", "tokens", "prompt_tokens", "learners", "iterations")
    return {
        "measurement": "driver_load",
        "parameters": {name: getattr(options, name) for name in sizes},
        "runners": {str(number): in_fresh_process(one_run, number, options) for number in options.runners},
    }


def one_run(runners: int, options: argparse.Namespace) -> dict[str, Any]:
    """The driver's seconds in an iteration of a whole run."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a script
    remote_group.start_host = lambda spec: ray.remote(num_cpus=0)(SimulatedHost).remote(spec.workers)
    ray.init(
        "local", num_cpus=runners + options.learners, include_dashboard=False, log_to_driver=False,
        object_store_memory=int(options.store_gb * 2**30),
    )  # fmt: skip
    clock = DriverClock()
    with tempfile.TemporaryDirectory() as folder:
        _write_data(Path(folder) / "data", options.questions * (options.iterations + 2))
        algorithms: list[Marked] = []

        def build(spec: RunSpec, seed: int) -> Marked:
            algorithms.append(Marked(_algorithm(spec, seed), clock))
            return algorithms[0]

        spec = resolve_run("load", _run_file(Path(folder) / "data", runners, options))
        console = Console(file=sys.stderr)
        code = train(spec, TrainOptions(storage_path=Path(folder) / "runs"), console, build=build)
    ray.shutdown()
    answers = [c for group in algorithms[0].sampled_groups() for slot in group.completions for c in slot]
    if code or len(answers) != options.questions * options.samples:
        raise SystemExit(f"the run ended with {code}, its last iteration had {len(answers)} completions")
    return algorithms[0].figures()


def _algorithm(spec: RunSpec, seed: int) -> Any:
    """As `train` builds it, with simulated runners."""
    config = build_config(spec.run, spec.env, spec.config, seed).env_runners(env_runner_cls=SimulatedRunner)
    config.log_level = "ERROR"
    return config.build_algo()


def _run_file(data: Path, runners: int, options: argparse.Namespace) -> dict[str, Any]:
    config = {
        "env_config": {"data": str(data)},
        "num_questions": options.questions,
        "minibatch_size": max(1, options.questions // 4),
        "num_variants": VARIANTS,
        "num_generations": options.samples // VARIANTS,
        "max_completion_tokens": options.tokens,
        "max_prompt_tokens": options.prompt_tokens,
        "max_tokens_per_microbatch": 16384,
        "transform_probability": 0.0,
        "num_env_runners": runners,
        "num_learners": options.learners,
        "evaluation_questions": 1,
        "checkpoint_interval": 1,
    }
    stop = {"training_iteration": options.iterations + 1}  # the first warms up
    return {"run": "ShareGRPO", "env": "MultimodalQA-v0", "stop": stop, "config": config}


def _write_data(folder: Path, rows: int) -> None:
    """A parquet set with a picture and a second wording in each row."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, count, first in (("train", rows, 0), ("test", 4, rows)):
        numbers = range(first, first + count)
        table = {
            "id": [f"q{i}" for i in numbers],
            "question": [f"How many dots of kind {i} does the picture show?" for i in numbers],
            "variants": [[f"Count the picture's dots of kind {i}."] for i in numbers],
            "answer": [str(rng.integers(ANSWERS)) for _ in numbers],
            "image": [{"bytes": _picture(rng)} for _ in numbers],
        }
        pq.write_table(pa.table(table), folder / f"{split}.parquet", row_group_size=1000)


def _picture(rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (28, 28, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def main(words: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add: Callable[..., Any] = options.add_argument
    add("--runners", type=int, nargs="+", default=[8, 32], metavar="K")
    add("--learners", type=int, default=24, metavar="N", help="ranks that the driver plans for")
    add("--questions", type=int, default=512, metavar="Q", help="of an iteration")
    add("--samples", type=int, default=12, metavar="N", help="completions of a question, over its two wordings")
    add("--tokens", type=int, default=1024, metavar="T", help="of each completion")
    add("--prompt-tokens", type=int, default=1593, metavar="P", help="of each prompt")
    add("--iterations", type=int, default=3, metavar="I", help="after one to warm up")
    add("--store-gb", type=float, default=2.0, metavar="GB", help="limit of Ray's object store")
    report(measure, options.parse_args(words))


if __name__ == "__main__":
    main()
