"""GRPO on RLlib: sample a group for every question, compare its rewards, push up what did better."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS, TIMERS, WEIGHTS_SEQ_NO

from sharegrpo_rl import user_code
from sharegrpo_rl.algorithms.greedy import greedy_generate
from sharegrpo_rl.algorithms.group_metrics import completion_metrics, group_metrics
from sharegrpo_rl.algorithms.groups import group_episodes, permuted, plan_requests
from sharegrpo_rl.algorithms.grpo.config import GRPOConfig
from sharegrpo_rl.algorithms.model_source import prepare_model
from sharegrpo_rl.algorithms.over_long import fitting_questions, keep_fitting
from sharegrpo_rl.data.cursor import QuestionCursor
from sharegrpo_rl.data.seeding import derive_seed
from sharegrpo_rl.data.types import Group, PromptPack, QuestionBank, SeedQuestion, SlotRequest
from sharegrpo_rl.env_runners.qa_env_runner import RunnerError
from sharegrpo_rl.envs.registry import make_bank, make_env
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.evaluate import evaluate
from sharegrpo_rl.evaluation.report import EvaluationReport
from sharegrpo_rl.learners.vlm_rl_module import VLMRLModule
from sharegrpo_rl.models.loading import parameter_table
from sharegrpo_rl.ops.advantages import local_advantages

LOST_REQUEST_ATTEMPTS = 3


class GRPO(Algorithm):
    """One loop for the whole family: a method overrides `build_packs` (credit) or its options (loss, schedules)."""

    config: GRPOConfig
    bank: QuestionBank
    cursor: QuestionCursor

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> GRPOConfig:
        return GRPOConfig()

    @override(Algorithm)
    def setup(self, config: Any) -> None:
        """Read the data, prepare the model, then let RLlib start runners and learner."""
        torch.set_num_threads(self.config.num_threads)
        own = self.config.copy(copy_frozen=False)
        make_env(own.env, own.env_config, split="test", rewards=own.rewards, answer_format=own.answer_format)
        self.bank = make_bank(own.env, own.train_env_config(), "train", check=own.num_env_runners > 0)
        own.model_folder, self._warm_start_report = prepare_model(own)
        own.user_files = list(user_code.IMPORTED)
        own.freeze()
        self.config = own
        if not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=own.num_env_runners > 0)
        super().setup(own)
        if own.one_process():
            self.env_runner.share_module(self.rl_module)
        encoder = self.rl_module.policy.encoder
        self._trained = fitting_questions(self.bank, encoder, transformed=own.transform_probability > 0)
        self.cursor = QuestionCursor(len(self._trained), own.seed or 0)
        self._groups: list[Group] = []

    @override(Algorithm)
    def _setup_logdir(self) -> None:
        """Outside Tune a scratch folder, instead of one more empty folder under ~/ray_results."""
        if self._storage:
            super()._setup_logdir()
        else:
            self._logdir = tempfile.mkdtemp(prefix="sharegrpo_rl-")

    @override(Algorithm)
    def cleanup(self) -> None:
        super().cleanup()
        if not self._storage:
            shutil.rmtree(self._logdir, ignore_errors=True)

    # ---- one iteration

    @override(Algorithm)
    def training_step(self) -> None:
        """Sample groups, assign credit, update, and hand the new weights to every runner before the next iteration."""
        started = time.perf_counter()
        with self.metrics.log_time((TIMERS, "sampling"), reduce="mean", window=1):
            picked = [(epoch, self._trained[i]) for epoch, i in self.cursor.next(self.config.num_questions)]
            requests = plan_requests(self.bank, picked, self.config, self.iteration)
            episodes = self.collect(requests)
            groups = group_episodes(episodes)
        self._groups = groups
        if self.config.permute_rewards:
            groups = [permuted(g, derive_seed(self.config.seed or 0, self.iteration)) for g in groups]
        with self.metrics.log_time((TIMERS, "learning"), reduce="mean", window=1):
            update = self.learner_group.update(self.build_packs(groups))
        with self.metrics.log_time((TIMERS, "weight_sync"), reduce="mean", window=1):
            self.push_weights()
        self._log(episodes, requests, update, time.perf_counter() - started)

    def build_packs(self, groups: Sequence[Group]) -> list[PromptPack]:
        """Credit of plain GRPO (S1): every slot's completions are compared with each other and trained under its prompt."""
        packs = []
        for group in groups:
            rewards = torch.from_numpy(group.rewards)
            advantages = local_advantages(rewards, self.config.advantage_std, self.config.advantage_eps).numpy()
            for v, slot in enumerate(group.slots):
                native = np.ones(len(group.completions[v]), bool)
                packs.append(
                    PromptPack(group.group, slot.slot, group.prompts[v], group.completions[v], advantages[v], native)
                )
        return packs

    def collect(self, requests: Sequence[SlotRequest]) -> list[Any]:
        """All episodes of the requests, in their order; requests of a lost runner go to the others."""
        if self.env_runner_group.num_remote_env_runners() == 0:
            episodes, metrics = self.env_runner_group.local_env_runner.sample_with_metrics(requests)
            self.metrics.aggregate([metrics], key=ENV_RUNNER_RESULTS)
            return episodes
        done: dict[SlotRequest, list[Any]] = {}
        for _ in range(LOST_REQUEST_ATTEMPTS):
            missing = [r for r in requests if r not in done]
            if not missing:
                break
            for episode in self._ask_runners(missing):
                done.setdefault(episode.custom_data["request"], []).append(episode)
        if lost := [r for r in requests if r not in done]:
            raise RunnerError(
                f"{len(lost)} of {len(requests)} requests got no answer: every env runner that had them died"
            )
        return [e for r in requests for e in done[r]]

    def _ask_runners(self, requests: Sequence[SlotRequest]) -> list[Any]:
        """Whole questions go to runners in turn; returns what came back."""
        group = self.env_runner_group
        ids = group.healthy_env_runner_ids()
        deadline = time.monotonic() + 120
        while not ids and time.monotonic() < deadline:
            time.sleep(1.0)
            group.probe_unhealthy_env_runners()
            ids = group.healthy_env_runner_ids()
        if not ids:
            raise RunnerError("no env runner came back within 120 seconds")
        groups = list(dict.fromkeys(r.group for r in requests))
        owner = {g: ids[i % len(ids)] for i, g in enumerate(groups)}
        shares = {i: [r for r in requests if owner[r.group] == i] for i in ids}
        busy = [i for i in ids if shares[i]]
        results = group.foreach_env_runner(
            "sample_with_metrics",
            kwargs=[{"requests": shares[i]} for i in busy],
            remote_worker_ids=busy,
            local_env_runner=False,
            timeout_seconds=self.config.sample_timeout_s,
        )
        if wrong_input := [r for r, _ in results if isinstance(r, UserError)]:
            raise wrong_input[0]
        if errors := [r for r, _ in results if isinstance(r, str)]:
            raise RunnerError(f"an env runner failed:\n{errors[0]}")
        self.metrics.aggregate([m for _, m in results], key=ENV_RUNNER_RESULTS)
        return [e for r, _ in results for e in r]

    def push_weights(self) -> None:
        """Blocking, to every remote runner; a runner in this process shares the Learner's module."""
        if self.env_runner_group.num_remote_env_runners() == 0:
            return
        seq = self.learner_group.local_learner._weights_seq_no
        state = {COMPONENT_RL_MODULE: ray.put({DEFAULT_MODULE_ID: self.rl_module.get_state()}), WEIGHTS_SEQ_NO: seq}
        self.env_runner_group.foreach_env_runner(
            "set_state", kwargs={"state": state}, local_env_runner=False, timeout_seconds=None
        )

    @override(Algorithm)
    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        """A runner that came back gets the current weights before it is asked anything."""
        restored = env_runner_group.probe_unhealthy_env_runners()
        if restored:
            self.push_weights()
        return restored

    def _log(
        self, episodes: list[Any], requests: Sequence[SlotRequest], update: dict[str, float], seconds: float
    ) -> None:
        expected = self.config.num_questions * self.config.num_variants
        completions = completion_metrics(self._groups, [e.custom_data["error"] for e in episodes])
        groups = group_metrics(self._groups, self.config.num_variants)
        self.metrics.log_dict(completions, key=ENV_RUNNER_RESULTS, reduce="mean", window=1)
        self.metrics.log_dict(
            groups | {"missing_slots": expected - len(requests)}, key="groups", reduce="mean", window=1
        )
        self.metrics.log_dict(update, key=(LEARNER_RESULTS, DEFAULT_MODULE_ID), reduce="mean", window=1)
        self.metrics.log_value("tokens_per_second", completions["sampled_tokens"] / seconds, reduce="mean", window=1)
        self.metrics.log_value("over_long_questions", len(self.bank) - len(self._trained), reduce="mean", window=1)
        self.metrics.log_value("epoch", self.cursor.get_state()["epoch"], reduce="mean", window=1)

    # ---- evaluation, export

    @property
    def rl_module(self) -> VLMRLModule:
        """The module that the Learner trains."""
        return self.learner_group.local_learner.rl_module

    def evaluate_accuracy(self, blind: bool = False) -> EvaluationReport:
        """Greedy accuracy on the first `evaluation_questions` of the test split; `blind` swaps their images."""
        c = self.config
        env = make_env(c.env, c.env_config, split="test", rewards=c.rewards, answer_format=c.answer_format, check=False)
        policy = self.rl_module.policy
        keep_fitting(env, policy.encoder, c.evaluation_questions)
        generate = greedy_generate(policy, c.max_completion_tokens)
        return evaluate(env, generate, limit=c.evaluation_questions, batch=c.evaluation_batch, blind=blind)

    @override(Algorithm)
    def evaluate(self, parallel_train_future: Any = None) -> dict[str, Any]:
        """RLlib's hook for `evaluation_interval`: the report's figures."""
        report = self.evaluate_accuracy()
        self.metrics.log_value("evaluations", 1, reduce="lifetime_sum")
        return {**report.summary(), "confidence_interval": list(report.confidence_interval)}

    @classmethod
    @override(Algorithm)
    def _should_create_evaluation_env_runners(cls, eval_config: Any) -> bool:
        return False  # evaluation is greedy and runs on the Learner's own policy

    def warm_start_report(self) -> dict[str, Any] | None:
        """What the warm start reached, if there was one."""
        return self._warm_start_report

    def parameter_table(self) -> list[tuple[str, int, int]]:
        """(part, parameters, trainable parameters)."""
        return parameter_table(self.rl_module.model)

    def sampled_groups(self) -> list[Group]:
        """The groups of the last iteration, with their true rewards."""
        return self._groups

    def question(self, index: int) -> SeedQuestion:
        """A training question by the index that its group carries."""
        return self.bank[index]

    def export(self, path: str) -> Path:
        """A Hugging Face folder with `sharegrpo_rl.json`."""
        folder = Path(path)
        self.rl_module.save_pretrained(folder)
        return folder

    # ---- state

    @override(Algorithm)
    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**super().get_state(*args, **kwargs), "cursor": self.cursor.get_state()}

    @override(Algorithm)
    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if "cursor" in state:
            self.cursor.set_state(state["cursor"])

    @override(Algorithm)
    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Continue from a checkpoint; every runner has its weights before this returns."""
        super().restore_from_path(path, *args, **kwargs)
        self.push_weights()
