"""The EnvRunner: shows the environment's questions to the policy, has its answers graded, returns single-step episodes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils import force_list
from ray.rllib.utils.annotations import override
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import (
    EPISODE_RETURN_MEAN,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    WEIGHTS_SEQ_NO,
)

from sharegrpo_rl.config.run import GRPOOptions
from sharegrpo_rl.data.images import THREADS
from sharegrpo_rl.data.types import Completion, PixelInput, Prompt, SlotRequest
from sharegrpo_rl.envs.bank_view import LockedBank
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.envs.registry import make_env
from sharegrpo_rl.generation.generator import Generator, MadeAhead, Sampling
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.models.loading import keep_freed_memory
from sharegrpo_rl.models.prompts import PromptEncoder, Question, SharedPictures
from sharegrpo_rl.rewards.rubric import Score
from sharegrpo_rl.rewards.stages import penalize_length

Shown = tuple[dict[str, Any], dict[str, Any]]  # observation, info


class RunnerError(RuntimeError):
    """An env runner failed; the message has its own traceback."""


class StaleWeights(RunnerError):
    """An env runner was asked to sample with weights that it does not have."""


class QAEnvRunner(EnvRunner, Checkpointable):
    """Turns slot requests into episodes. Stateless between requests: everything random comes with the request."""

    options: GRPOOptions

    def __init__(self, *, config: AlgorithmConfig, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        torch.set_num_threads(self.config.num_threads)
        keep_freed_memory()
        self.spaces = kwargs.get("spaces")
        self.module: Any = None
        self._weights_seq_no = 0
        self.remote = bool(self.worker_index)
        if self.remote:
            self.config.user_code.load()
        self.options = self.config.to_options()
        self._callbacks = [callbacks() for callbacks in force_list(self.config.callbacks_class)]
        self.make_env()

    @override(EnvRunner)
    def make_env(self) -> None:
        """The training split; the driver has checked its rows, runners only open it."""
        self.env = make_env(
            self.config.env,
            self.config.train_env_config(),
            rewards=self.config.rewards,
            answer_format=self.config.answer_format,
            check=False,
        )
        context = EnvContext(self.config.env_config, worker_index=self.worker_index, remote=self.remote)
        self._call_back("on_environment_created", env=self.env, env_context=context)

    def _call_back(self, hook: str, **arguments: Any) -> None:
        make_callback(
            hook,
            callbacks_objects=self._callbacks,
            callbacks_functions=getattr(self.config, f"callbacks_{hook}"),
            kwargs={"env_runner": self, "metrics_logger": self.metrics, **arguments},
        )

    @override(EnvRunner)
    def make_module(self) -> None:
        """Build this runner's own copy of the policy."""
        spec = self.config.get_rl_module_spec(env=self.env, spaces=self.get_spaces(), inference_only=True)
        self.module = spec.build()

    def share_module(self, module: Any) -> None:
        """Use the Learner's module of the same process: no second copy, no weight sync."""
        self.module = module

    @override(EnvRunner)
    def assert_healthy(self) -> None:
        if self.env is None:
            raise RunnerError("the env runner has no environment")

    @override(EnvRunner)
    def get_spaces(self) -> dict[str, Any]:
        pair = (self.env.observation_space, self.env.action_space)
        return {INPUT_ENV_SPACES: pair, INPUT_ENV_SINGLE_SPACES: pair, DEFAULT_MODULE_ID: pair}

    @override(EnvRunner)
    def sample(
        self, *, requests: Sequence[SlotRequest] = (), weights_seq_no: int | None = None, **kwargs: Any
    ) -> list[SingleAgentEpisode]:
        """One episode for each sample of each request.

        `weights_seq_no` is the version of the weights that must answer, else StaleWeights; None accepts any.
        """
        self._check_weights(weights_seq_no)
        return self._sample(requests)

    def _check_weights(self, version: int | None) -> None:
        if version not in (None, self._weights_seq_no):
            raise StaleWeights(f"weights {version} were requested; the env runner has {self._weights_seq_no}")

    def sample_with_metrics(
        self, requests: Sequence[SlotRequest], weights_seq_no: int | None = None
    ) -> tuple[list[SingleAgentEpisode], Any]:
        """`sample` and `get_metrics` in one remote call."""
        return self.sample(requests=requests, weights_seq_no=weights_seq_no), self.get_metrics()

    def generate(
        self,
        prompts: Sequence[Prompt],
        num_generations: int,
        seeds: Sequence[int],
        sampling: Sampling,
        weights_seq_no: int | None = None,
    ) -> list[tuple[Completion, ...]]:
        """Ungraded completions of prompts, by the weights of a version: for evaluation."""
        self._check_weights(weights_seq_no)
        return self.make_generator().generate(prompts, num_generations, seeds, sampling)

    def _sample(self, requests: Sequence[SlotRequest]) -> list[SingleAgentEpisode]:
        if self.module is None:
            self.make_module()
        started = time.perf_counter()
        with Rendering(self.env, self.module.policy.encoder, requests) as rendering:
            completions, graded, waited = self._generate(rendering, requests)
            prompts = list(rendering.prompts)
        generated = time.perf_counter() - started - waited
        if self.remote:
            prompts = in_object_store(prompts)
        episodes = [
            episode
            for slot in zip(requests, rendering.shown, prompts, completions, graded, strict=True)
            for episode in self._episodes(*slot)
        ]
        self._log(episodes, generated, sum(g.seconds for g in graded), waited)
        for episode in episodes:
            env = {"env": self.env, "env_index": 0, "rl_module": self.module}
            self._call_back("on_episode_end", episode=episode, prev_episode_chunks=[], **env)
        self._call_back("on_sample_end", samples=episodes)
        return episodes

    def _generate(
        self, rendering: Rendering, requests: Sequence[SlotRequest]
    ) -> tuple[list[tuple[Completion, ...]], list[Graded], float]:
        """Completions and scores of each request, and the seconds spent waiting for scores after the last token.

        Requests may ask for different numbers of samples; equal ones are generated together, in their order.
        """
        generator = self.make_generator()
        sampling = Sampling(self.options.max_completion_tokens, self.options.top_p)
        results: dict[int, tuple[Completion, ...]] = {}
        with BackgroundGrader(rendering.env, requests, self.module.policy.encoder.opening) as grader:
            for n in sorted({r.num_generations for r in requests}):
                rows = [i for i, r in enumerate(requests) if r.num_generations == n]
                seeds = [requests[i].sampling_seed for i in rows]

                def submit(position: int, answers: tuple[Completion, ...], rows: list[int] = rows) -> None:
                    grader.submit(rows[position], answers)

                answers = generator.generate(rendering.prompts.select(rows), n, seeds, sampling, submit)
                results.update(zip(rows, answers, strict=True))
            generated = time.perf_counter()
            completions = [results[i] for i in range(len(requests))]
            return completions, grader.results(completions), time.perf_counter() - generated

    def make_generator(self) -> Generator:
        """The engine that answers; tests put a scripted one here."""
        return HFGenerator(self.module.policy)

    def _episodes(
        self,
        request: SlotRequest,
        shown: tuple[str, dict[str, Any]],
        prompt: Prompt,
        completions: tuple[Completion, ...],
        graded: Graded,
    ) -> list[SingleAgentEpisode]:
        question, info = shown
        # Pixels travel once per slot, in the prompt; the episode's observation keeps the text.
        observation = {"question": question, "images": ()}
        episodes = []
        for sample, (completion, score) in enumerate(zip(completions, graded.scores, strict=True)):
            score = penalize_length(score, completion, self.options)
            parts = dict(score.parts)
            episode = SingleAgentEpisode(
                observations=[observation, observation],
                actions=[completion.text],
                rewards=[float(score.total)],
                infos=[info, {"reward_parts": parts, "error": score.error}],
                terminated=True,
                observation_space=self.env.observation_space,
                action_space=self.env.action_space,
                len_lookback_buffer=0,
            )
            episode.custom_data.update(
                request=request,
                question_id=info["question_id"],
                task=info["task"],
                subtask=info["subtask"],
                sample=sample,
                prompt=prompt,
                completion=completion,
                reward_parts=parts,
                error=score.error,
                weights_seq_no=self._weights_seq_no,
            )
            episodes.append(episode)
        return episodes

    def _log(
        self, episodes: Sequence[SingleAgentEpisode], generation_s: float, grading_s: float, waited_s: float
    ) -> None:
        rewards = [e.get_return() for e in episodes]
        log = self.metrics.log_value
        log(EPISODE_RETURN_MEAN, float(np.mean(rewards)), reduce="mean", window=1)
        log(NUM_ENV_STEPS_SAMPLED, len(episodes), reduce="sum")
        log(NUM_ENV_STEPS_SAMPLED_LIFETIME, len(episodes), reduce="lifetime_sum")
        log(NUM_EPISODES, len(episodes), reduce="sum")
        log("generation_seconds", generation_s, reduce="mean", window=1)
        log("grading_seconds", grading_s, reduce="mean", window=1)
        log("grading_wait_seconds", waited_s, reduce="mean", window=1)

    @override(EnvRunner)
    def get_metrics(self) -> Any:
        return self.metrics.reduce()

    @override(Checkpointable)
    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Weights, if requested; there is no other state."""
        if self.module is None or not self._check_component(COMPONENT_RL_MODULE, components, not_components):
            return {WEIGHTS_SEQ_NO: self._weights_seq_no}
        return {COMPONENT_RL_MODULE: self.module.get_state(), WEIGHTS_SEQ_NO: self._weights_seq_no}

    @override(Checkpointable)
    def set_state(self, state: dict[str, Any]) -> None:
        """Take weights, older ones too: an in-place restore must reach every runner."""
        if COMPONENT_RL_MODULE in state and not self.config.one_process():
            weights = state[COMPONENT_RL_MODULE]
            if isinstance(weights, ray.ObjectRef):
                weights = ray.get(weights)
            if self.module is None:
                self.make_module()
            self.module.set_state(weights.get(DEFAULT_MODULE_ID, weights))
        self._weights_seq_no = state.get(WEIGHTS_SEQ_NO, self._weights_seq_no)

    @override(Checkpointable)
    def get_ctor_args_and_kwargs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {"config": self.config}

    @override(EnvRunner)
    def stop(self) -> None:
        if self.env is not None:
            self.env.close()


class Rendering:
    """Requests as they are shown, and their prompts, made by threads ahead of whoever reads them: a context manager.

    A prompt depends on its request alone. Each thread has the environment to itself, but for the rows, which are read one
    at a time; `env` is for whoever reads rows meanwhile.
    """

    def __init__(self, env: MultimodalQAEnv, encoder: PromptEncoder, requests: Sequence[SlotRequest]) -> None:
        self.env = copy(env)
        self.env.bank = LockedBank(env.bank)
        self._encoder = encoder
        self._shared = SharedPictures()
        self._shown: dict[int, tuple[str, dict[str, Any]]] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="rendering")
        self.prompts = MadeAhead([self._threads.submit(self._render, i, r) for i, r in enumerate(requests)])

    def __enter__(self) -> Rendering:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    @property
    def shown(self) -> list[tuple[str, dict[str, Any]]]:
        """Text and info of each request, when all prompts are made."""
        return [self._shown[i] for i in range(len(self.prompts))]

    def _render(self, index: int, request: SlotRequest) -> Prompt:
        ((observation, info),) = show(copy(self.env), [request])
        self._shown[index] = observation["question"], info
        question = Question(observation["question"], observation["images"], info["image_keys"])
        return self._encoder.encode([question], shared=self._shared)[0]


def render(env: MultimodalQAEnv, encoder: PromptEncoder, requests: Sequence[SlotRequest]) -> list[Prompt]:
    """The prompt of each request."""
    with Rendering(env, encoder, requests) as rendering:
        return list(rendering.prompts)


def show(env: MultimodalQAEnv, requests: Sequence[SlotRequest]) -> list[Shown]:
    """Observation and info of each request."""
    return [
        env.reset(
            options={
                "question_index": request.question_index,
                "variant_index": request.slot.variant_index,
                "transform": request.slot.transform,
                "transform_seed": request.slot.transform_seed,
            }
        )
        for request in requests
    ]


def in_object_store(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts with their pixels behind object references, each distinct image put once: the driver handles ids only.

    Pictures that only an engine starts from stay here.
    """
    stored: dict[str, Any] = {}

    def put(image: PixelInput) -> PixelInput:
        if image.key not in stored:
            stored[image.key] = ray.put(image.tensors)
        return PixelInput(image.key, stored[image.key])

    return [replace(p, images=tuple(put(image) for image in p.images), pictures=()) for p in prompts]


class Graded(NamedTuple):
    """The scores of a request's completions, in order, and the wall seconds they took."""

    scores: list[Score]
    seconds: float


class BackgroundGrader:
    """Grades in a separate thread while the engine decodes, in the order of submission.

    It leaves the question that the environment shows alone. A context manager: it ends when everything is graded, or at
    the first error, raised with its own traceback.
    """

    def __init__(self, env: MultimodalQAEnv, requests: Sequence[SlotRequest], opening: str = "") -> None:
        """`opening`: what prompts have written of the response, which counts as its beginning."""
        if type(env).score is not MultimodalQAEnv.score:
            raise TypeError(f"{type(env).__name__} overrides score(); override grade(), which everything calls")
        self._env, self._requests = env, requests
        self._opening = opening if env.rubric.form.opening else ""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grading")
        self._graded: dict[int, Future[Graded]] = {}
        self._pending: deque[Future[Graded]] = deque()

    def __enter__(self) -> BackgroundGrader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def submit(self, request: int, completions: Sequence[Completion]) -> None:
        """Queue the completions of the request of that index; raises what an earlier one's grading has raised."""
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()
        self._graded[request] = self._thread.submit(self._grade, request, completions)
        self._pending.append(self._graded[request])

    def results(self, completions: Sequence[Sequence[Completion]]) -> list[Graded]:
        """The scores of all requests, in order; what has not been submitted yet is graded now."""
        for request, answers in enumerate(completions):
            if request not in self._graded:
                self.submit(request, answers)
        return [self._graded[request].result() for request in range(len(completions))]

    def _grade(self, request: int, completions: Sequence[Completion]) -> Graded:
        started = time.perf_counter()
        question = self._env.bank[self._requests[request].question_index]
        texts = [self._opening + c.text for c in completions]
        scores = self._env.grade(question, texts, [c.truncated for c in completions])
        return Graded(scores, time.perf_counter() - started)
