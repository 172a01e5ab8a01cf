"""The EnvRunner: shows the environment's questions to the policy, has its answers graded, returns single-step episodes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
import torch
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

from sharegrpo_rl.data.types import Completion, Prompt, SlotRequest
from sharegrpo_rl.envs.registry import make_env
from sharegrpo_rl.generation.generator import Generator, Sampling
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.models.loading import keep_freed_memory
from sharegrpo_rl.rewards.stages import penalize_length
from sharegrpo_rl.rollouts.grading import BackgroundGrader, Graded
from sharegrpo_rl.rollouts.rendering import encode, in_object_store, show


class RunnerError(RuntimeError):
    """An env runner failed; the message has its own traceback."""


class StaleWeights(RunnerError):
    """An env runner was asked to sample with weights that it does not have."""


class QAEnvRunner(EnvRunner, Checkpointable):
    """Turns slot requests into episodes. Stateless between requests: everything random comes with the request."""

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        torch.set_num_threads(self.config.num_threads)
        keep_freed_memory()
        self.spaces = kwargs.get("spaces")
        self.module: Any = None
        self._weights_seq_no = 0
        self.remote = bool(self.worker_index)
        if self.remote:
            self.config.user_code.load()
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
            check=not self.remote,
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
            raise StaleWeights(f"weights {version} were asked for; the env runner has {self._weights_seq_no}")

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
        shown = show(self.env, requests)
        texts = [(observation["question"], info) for observation, info in shown]
        prompts = encode(self.module.policy.encoder, shown)
        del shown  # frees its pixels
        completions, graded, waited = self._generate(prompts, requests)
        generated = time.perf_counter() - started - waited
        if self.remote:
            prompts = in_object_store(prompts)
        episodes = [
            episode
            for slot in zip(requests, texts, prompts, completions, graded, strict=True)
            for episode in self._episodes(*slot)
        ]
        self._log(episodes, generated, sum(g.seconds for g in graded), waited)
        for episode in episodes:
            env = {"env": self.env, "env_index": 0, "rl_module": self.module}
            self._call_back("on_episode_end", episode=episode, prev_episode_chunks=[], **env)
        self._call_back("on_sample_end", samples=episodes)
        return episodes

    def _generate(
        self, prompts: list[Prompt], requests: Sequence[SlotRequest]
    ) -> tuple[list[tuple[Completion, ...]], list[Graded], float]:
        """Completions and scores of each request, and the seconds spent waiting for scores after the last token.

        Requests may ask for different numbers of samples; equal ones are generated together, in their order.
        """
        generator = self.make_generator()
        sampling = Sampling(self.config.max_completion_tokens, self.config.top_p)
        results: dict[int, tuple[Completion, ...]] = {}
        with BackgroundGrader(self.env, requests) as grader:
            for n in sorted({r.num_generations for r in requests}):
                rows = [i for i, r in enumerate(requests) if r.num_generations == n]
                seeds = [requests[i].sampling_seed for i in rows]

                def submit(position: int, answers: tuple[Completion, ...], rows: list[int] = rows) -> None:
                    grader.submit(rows[position], answers)

                answers = generator.generate([prompts[i] for i in rows], n, seeds, sampling, submit)
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
            score = penalize_length(score, completion, self.config)
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
        """Weights, where asked for; there is nothing else to keep."""
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
