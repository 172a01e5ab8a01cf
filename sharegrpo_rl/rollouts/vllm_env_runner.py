"""The EnvRunner that samples from its own vLLM engine, which receives new weights in buckets; and the driver's end of that."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils.annotations import override
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from sharegrpo_rl.config.run import GRPOOptions
from sharegrpo_rl.data.types import PromptPack, QuestionBank
from sharegrpo_rl.learners.learner import VLMLearnerGroup
from sharegrpo_rl.models.weights import GroupBroken, Meeting, Weights, adapter_weights, engine_weights, to_tensor
from sharegrpo_rl.rollouts.env_runner import QAEnvRunner
from sharegrpo_rl.rollouts.runner_pool import PendingCalls, RunnerPool

if TYPE_CHECKING:
    from sharegrpo_rl.generation.vllm.engine import VLLMEngine
    from sharegrpo_rl.generation.vllm.generator import VLLMGenerator


NO_ENGINE = "an env runner has no engine"
WATCH_SECONDS = 0.5
IN_TIME = 0.9  # of weight_sync_timeout_s: by then a runner that waits for others has answered, and is not the lost one

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightPart:
    """One bucket of a weight sync: name -> array, behind an object reference."""

    version: int
    number: int  # 0, 1, ...
    last: bool
    arrays: Any


class VLLMEnvRunner(QAEnvRunner):
    """Weights arrive through `load_weights` (in this process) or `take_part` (from the driver). RLlib's own sync is ignored:
    it knows neither the engine's version nor merged adapters."""

    engine: VLLMEngine | None = None

    def start_engine(self) -> VLLMEngine:
        """The engine, started at the first call. A module that is this runner's own is an outline: the engine has the weights."""
        if self.engine is None:
            from sharegrpo_rl.generation.vllm.engine import VLLMEngine

            if self.module is None:
                self.make_module()
            c = self.config
            self.engine = VLLMEngine(
                c.model_folder or c.model,
                self.module.policy,
                dtype=c.dtype,
                max_completion_tokens=c.max_completion_tokens,
                images_per_prompt=most_images(self.env.bank),
                settings=self.options.vllm,
                adapter=c.lora if c.sends_adapters() else None,
            )
        return self.engine

    def answer_probe(self) -> list[PromptPack]:
        """A new engine's answers to the questions of the check at load, which the learners hold against their own model; []
        of an engine that was asked before."""
        engine = self.start_engine()
        packs = [] if engine.is_checked else self.make_generator().answer_probe()
        engine.is_checked = True
        return packs

    @override(QAEnvRunner)
    def make_generator(self) -> VLLMGenerator:
        from sharegrpo_rl.generation.vllm.generator import VLLMGenerator

        return VLLMGenerator(self.module.policy, self.start_engine(), self.options.rollout_timeout_s)

    def prepare(self) -> None:
        """Start the engine where there is none."""
        self.start_engine()

    def drop_engine(self) -> None:
        """Stop the engine; the next call that needs one starts another."""
        if self.engine is not None:
            self.engine.stop()
            self.engine = None
            gc.collect()  # its parts refer to each other; on a GPU its weights would stay beside the next one's

    def load_weights(self, version: int, everything: bool) -> None:
        """Hand the engine the weights of this process's own module, which the Learner trains."""
        timeout_s = self.options.weight_sync_timeout_s
        model = self.module.policy.model
        weights = adapter_weights(model) if self.config.sends_adapters() else engine_weights(model, everything)
        self.start_engine().load(weights, version, timeout_s)
        self.make_generator().check_once()  # both have the same weights now
        self._weights_seq_no = version

    def take_part(self, part: WeightPart) -> None:
        """Load a part of new weights."""
        engine = self.start_engine()
        if part.number == 0:
            self._weights_seq_no = -1  # no version until the last part has arrived
            engine.start_load()
        engine.load_bucket([(name, to_tensor(array)) for name, array in ray.get(part.arrays).items()])
        if part.last:
            engine.finish_load(part.version)
            self._weights_seq_no = part.version

    def join_weight_group(self, meeting: Meeting, first_rank: int) -> str:
        """Have the engine's workers join, from this rank on; the reason where one could not."""
        return NO_ENGINE if self.engine is None else self.engine.join(meeting, first_rank)

    def receive_weights(self, version: int, plan: list[Weights]) -> str:
        """Load the planned weights from the group; the reason where they did not come: there is no version then."""
        if self.engine is None:
            return NO_ENGINE
        self._weights_seq_no = -1
        fault = self.engine.receive(plan, version)
        if not fault:
            self._weights_seq_no = version
        return fault

    @override(Checkpointable)
    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Only the version of the weights, which are the Learner's."""
        return {WEIGHTS_SEQ_NO: self._weights_seq_no}

    @override(Checkpointable)
    def set_state(self, state: dict[str, Any]) -> None:
        """Does nothing: see the class."""

    @override(EnvRunner)
    def stop(self) -> None:
        super().stop()
        self.drop_engine()


def most_images(bank: QuestionBank) -> int:
    """The largest number of images in one question."""
    return max((len(bank[i].images) for i in range(len(bank))), default=0)


class GroupSync:
    """The driver's part in syncs by a process group of learner rank 0 and the workers of all remote engines.

    The group is kept for as long as its members are there. Any failure ends it, on all members: GroupBroken, and whoever
    has no weights of that version then must get them otherwise.
    """

    def __init__(self, pool: RunnerPool, learners: VLMLearnerGroup, options: GRPOOptions) -> None:
        self._pool, self._learners, self._options = pool, learners, options
        on_gpus = options.num_gpus_per_learner and options.num_gpus_per_env_runner
        self._backend = "nccl" if on_gpus else "gloo"
        # On one node the object store is memory that all processes share: no copy for each, as gloo makes.
        self.is_slower = self._backend == "gloo" and sum(node["Alive"] for node in ray.nodes()) == 1
        self._meeting: Meeting | None = None
        self._joined: Any = None  # the members of the group
        self._refused: Any = None  # members that could not make one

    @property
    def _members(self) -> tuple[Any, ...]:
        """Runners, none of them lost since."""
        return (tuple(self._pool.healthy), self._pool.losses)

    @property
    def is_joined(self) -> bool:
        """Is there a group of all runners?"""
        return self._joined is not None and self._joined == self._members

    def is_worth_trying(self, anew: bool) -> bool:
        """Is a group faster, and are there runners, others than those that could not make one? `anew`: try all the same."""
        return not self.is_slower and bool(self._pool.healthy) and (anew or self._members != self._refused)

    def push(self, version: int, everything: bool) -> None:
        """Every runner gets the weights, all or those that training changes. With `everything` a new group is made: an
        engine may be new."""
        if everything or not self.is_joined:
            self._make()
        plan = ray.put(self._learners.weight_plan(everything))
        arguments = {runner: {"version": version, "plan": plan} for runner in self._pool.healthy}
        self._joined, members = None, self._joined
        self._together("receive_weights", arguments, lambda: self._learners.send_weights(everything))
        self._joined = members

    def _make(self) -> None:
        runners, workers = self._pool.healthy, self._options.vllm.tensor_parallel_size
        self._joined, self._refused = None, self._members
        in_time = IN_TIME * self._options.weight_sync_timeout_s
        meeting = self._learners.open_weight_group(1 + workers * len(runners), self._backend, in_time)
        self._meeting = meeting
        arguments = {r: {"meeting": meeting, "first_rank": 1 + workers * i} for i, r in enumerate(runners)}
        self._together("join_weight_group", arguments, lambda: self._learners.join_weight_group(meeting))
        self._joined, self._refused = self._members, None

    def _together(self, method: str, arguments: Mapping[int, dict[str, Any]], learners_part: Callable[[], str]) -> None:
        """Runners and learners at once; GroupBroken for the first reason."""
        calls = self._pool.call(method, arguments, method.replace("_", " "))
        with ThreadPoolExecutor(1) as thread:
            part = thread.submit(learners_part)
            fault = self._watch(calls, part)
            answers = self._pool.answers(calls, self._options.weight_sync_timeout_s, "weight_sync_timeout_s")
            of_learners = part.result()  # or LearnersRestarted: their weights are older ones now
        if fault := fault or of_learners or next(filter(None, answers.values()), ""):
            raise GroupBroken(fault)

    def _watch(self, calls: PendingCalls, part: Future[str]) -> str:
        """The first reason of a runner, if any; all others are told, for some of them might not notice."""
        waiting, until = list(calls.runners), calls.since + self._options.weight_sync_timeout_s
        while waiting and time.monotonic() < until:
            done, waiting = ray.wait(waiting, num_returns=1, timeout=WATCH_SECONDS)
            for ref in done:
                if fault := _fault(ref, calls.runners[ref]):
                    assert self._meeting is not None
                    self._meeting.call_off(fault)
                    return fault
            if not done and part.done() and (part.exception() or part.result()):
                break
        return ""


def _fault(answer: ray.ObjectRef, runner: int) -> str:
    try:
        return ray.get(answer) or ""
    except RayError:
        return f"env runner {runner} was lost"
