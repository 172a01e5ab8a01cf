"""What every algorithm shares: data, model, evaluation, export, state. A subclass adds `Options` and `training_step`."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import LEARNER_RESULTS, WEIGHTS_SEQ_NO
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from ray.tune import PlacementGroupFactory

from sharegrpo_rl.algorithms.config import RunConfig
from sharegrpo_rl.algorithms.model_source import module_config, prepare_model
from sharegrpo_rl.algorithms.recovery import Recovery
from sharegrpo_rl.algorithms.run_data import (
    check_run_data,
    fitting_train_questions,
    make_run_env,
    prompt_settings,
    use_absolute_paths,
)
from sharegrpo_rl.config import RunOptions
from sharegrpo_rl.config.presets import ALGORITHM_OPTIONS
from sharegrpo_rl.config.user_code import UserCode
from sharegrpo_rl.data.key_steps import rows_without_key_steps
from sharegrpo_rl.data.types import Group, Prompt, PromptPack, QuestionBank, SeedQuestion, SlotRequest
from sharegrpo_rl.data.variants import QuestionCursor
from sharegrpo_rl.envs.registry import make_env
from sharegrpo_rl.evaluation.evaluate import evaluate, greedy_generate
from sharegrpo_rl.evaluation.report import EvaluationReport
from sharegrpo_rl.generation.generator import Generator
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.learners.module import VLMRLModule
from sharegrpo_rl.learners.placement import check_demand, check_nodes, start_ray
from sharegrpo_rl.models.loading import keep_freed_memory
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import PromptEncoder, load_processor
from sharegrpo_rl.rollouts.env_runner import render
from sharegrpo_rl.rollouts.groups import keep_fitting

COUNTED_ROWS = 2000  # first training rows that are checked for key steps

logger = logging.getLogger(__name__)


class MethodConfig(RunConfig):
    """The base of every method's `Config`: RunConfig, whose `build_algo` gives a RunAlgorithm to type checkers too."""

    @override(RunConfig)
    def build_algo(self, *arguments: Any, **named: Any) -> RunAlgorithm:
        """The algorithm of this config. Reads the data, prepares the model, starts what RLlib needs."""
        algorithm: RunAlgorithm = super().build_algo(*arguments, **named)
        return algorithm


class RunAlgorithm(Algorithm):
    """An RLlib Algorithm over a question bank and one policy.

    `@register_algorithm(NAME)` gives each subclass its own `Config` over its `Options`.
    """

    Options: TypeAlias = RunOptions
    Config: TypeAlias = MethodConfig
    config: RunConfig
    metrics: MetricsLogger
    options: RunOptions
    seed: int
    _iteration: int
    bank: QuestionBank
    cursor: QuestionCursor

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> RunConfig:
        ALGORITHM_OPTIONS.setdefault(cls.Config.name, cls.Options)  # a trial of Tune has not executed the user's file
        return cls.Config()

    @override(Algorithm)
    def setup(self, config: Any) -> None:
        """Read the data, prepare the model, then let RLlib start runners and learner."""
        torch.set_num_threads(self.config.num_threads)
        keep_freed_memory()  # before the warm start
        config = self.config.copy(copy_frozen=False)
        self.options = config.to_options()
        self.seed = config.seed or 0
        start_ray(self.options)
        check_demand(self.options)  # before the warm start
        check_nodes(self.options)
        config.model_folder, self._warm_start_report = prepare_model(config)  # and the data before that
        digest = check_run_data(config).get("train")
        if not config.one_process():
            use_absolute_paths(config)
        self._env = make_env(
            config.env,
            config.train_env_config(),
            rewards=config.rewards,
            answer_format=config.answer_format,
            check=False,
        )
        self.bank = self._env.bank
        config.user_code = UserCode.of_this_process()
        if config.user_callbacks:
            config.add_user_callbacks()
        config.freeze()
        self.config = config
        # Indices into the bank; over-long questions are left out. Before workers hold a GPU.
        self._questions = fitting_train_questions(config, self.bank, self.encoder, digest)
        if over_long := len(self.bank) - len(self._questions):
            logger.warning(
                "%s of %s training questions are longer than max_prompt_tokens and are left out; %s",
                f"{over_long:,}", f"{len(self.bank):,}", self.encoder.make_room,
            )  # fmt: skip
        super().setup(config)
        self.cursor = QuestionCursor(len(self._questions), self.seed)
        rewards_key_steps = {"key_steps", "key_steps_released"} & set(config.rewards)
        self._without_key_steps = rows_without_key_steps(self.bank, COUNTED_ROWS) if rewards_key_steps else None
        self.recovery = Recovery(self)

    @override(Algorithm)
    def _setup_logdir(self) -> None:
        """Outside Tune a scratch folder, instead of an empty folder under ~/ray_results."""
        if self._storage:
            super()._setup_logdir()
        else:
            self._logdir = tempfile.mkdtemp(prefix="sharegrpo_rl-")

    @override(Algorithm)
    def train(self) -> dict[str, Any]:
        """One iteration; returns the tree of metrics that `result.json` holds."""
        result: dict[str, Any] = super().train()
        return result

    @override(Algorithm)
    def stop(self) -> None:
        """End env runners and learners."""
        super().stop()

    @override(Algorithm)
    def cleanup(self) -> None:
        super().cleanup()
        if not self._storage:
            shutil.rmtree(self._logdir, ignore_errors=True)

    def pick_questions(self) -> list[tuple[int, int]]:
        """The next `num_questions` pairs (epoch, index into the bank); over-long questions are skipped."""
        return [(epoch, self._questions[i]) for epoch, i in self.cursor.next(self.options.num_questions)]

    def render(self, requests: Sequence[SlotRequest]) -> list[Prompt]:
        """Prompts of training slots, rendered in the driver."""
        return render(self._env, self.encoder, requests)

    def log_update(self, update: dict[str, float]) -> None:
        """Log the learner's metrics, and the position in the data."""
        self.metrics.log_dict(update, key=(LEARNER_RESULTS, DEFAULT_MODULE_ID), reduce="mean", window=1)
        if self.options.num_learners:
            self.metrics.log_value("learner_restarts", self.learner_group.restarts, reduce="mean", window=1)
        self.metrics.log_value("over_long_questions", len(self.bank) - len(self._questions), reduce="mean", window=1)
        if self._without_key_steps is not None:
            self.metrics.log_value("rows_without_key_steps", self._without_key_steps, reduce="mean", window=1)
        self.metrics.log_value("epoch", self.cursor.get_state()["epoch"], reduce="mean", window=1)

    # ---- evaluation, export

    @property
    def rl_module(self) -> VLMRLModule:
        """The module of this process: the Learner's own, or with remote learners the local env runner's, which receives
        their weights. RuntimeError where both are remote."""
        if self.options.num_learners == 0:
            return self.learner_group.local_learner.rl_module
        if self.options.num_env_runners:
            raise RuntimeError("learners and env runners are remote: the driver holds no model")
        if self.env_runner.module is None:
            self.env_runner.make_module()
        return self.env_runner.module

    @cached_property
    def encoder(self) -> PromptEncoder:
        """Turns questions into prompts; needs no model."""
        settings = module_config(self.config)["settings"]
        return PromptEncoder(load_processor(settings["path"]), prompt_settings(self.config))

    def evaluate_accuracy(self, blind: bool = False) -> EvaluationReport:
        """Greedy accuracy on the first `evaluation_questions` of the test split; `blind` swaps their images."""
        c = self.config
        env = make_run_env(c, "test")
        keep_fitting(env, self.encoder, c.evaluation_questions)
        generate = greedy_generate(self.encoder, self.recovery.run(self.evaluated_generator), c.max_completion_tokens)
        return evaluate(env, generate, limit=c.evaluation_questions, batch=c.evaluation_batch, blind=blind)

    def check_storage(self, folder: Path) -> None:
        """UserError where a remote learner does not see the run's folder."""
        self.recovery.run(lambda: self.learner_group.check_storage(folder))

    def make_generator(self, policy: Policy) -> Generator:
        """The generator over this process's model."""
        return HFGenerator(policy)

    def evaluated_generator(self) -> Generator:
        """The generator that evaluation asks, with the learners' weights."""
        if self.options.num_learners:
            self.push_weights()
        return self.make_generator(self.rl_module.policy)

    def push_weights(self, everything: bool = False) -> None:
        """Give the env runner the remote learners' weights where its own are older; `everything` in any case."""
        version = self.learner_group.weights_version
        if everything or self.env_runner._weights_seq_no != version:
            state = {COMPONENT_RL_MODULE: self.learner_group.module_state(), WEIGHTS_SEQ_NO: version}
            self.env_runner.set_state(state)

    @override(Algorithm)
    def evaluate(self, parallel_train_future: Any = None) -> dict[str, Any]:
        """RLlib's entry point for `evaluation_interval`: the report's figures."""
        self._call_back("on_evaluate_start")
        report = self.evaluate_accuracy()
        self.metrics.log_value("evaluations", 1, reduce="lifetime_sum")
        figures = {**report.summary(), "confidence_interval": list(report.confidence_interval)}
        self._call_back("on_evaluate_end", evaluation_metrics=figures)
        return figures

    def _call_back(self, hook: str, **arguments: Any) -> None:
        """Call a hook of the run's callbacks that RLlib would have called in the method overridden above."""
        make_callback(
            hook,
            callbacks_objects=self.callbacks,
            callbacks_functions=getattr(self.config, f"callbacks_{hook}"),
            kwargs={"algorithm": self, "metrics_logger": self.metrics, **arguments},
        )

    @classmethod
    @override(Algorithm)
    def _should_create_evaluation_env_runners(cls, eval_config: Any) -> bool:
        return False  # evaluation is greedy and runs in the driver

    def warm_start_report(self) -> dict[str, Any] | None:
        """The warm start's report, or None."""
        return self._warm_start_report

    def parameter_table(self) -> list[tuple[str, int, int]]:
        """(part, parameters, trainable parameters)."""
        return self.learner_group.parameter_table()

    def sampled_groups(self) -> list[Group]:
        """The groups of the last iteration with the rewards that selection saw; empty where nothing is sampled."""
        return []

    def sampled_packs(self) -> list[PromptPack]:
        """What the last iteration trained on, without replayed completions; empty where nothing is sampled."""
        return []

    def plain_packs(self) -> list[PromptPack]:
        """The same groups without sharing, which sharing is compared with; empty where nothing is sampled."""
        return []

    def question(self, index: int) -> SeedQuestion:
        """A training question by the index that its group carries."""
        return self.bank[index]

    def export(self, path: str) -> Path:
        """A Hugging Face folder with `sharegrpo_rl.json`."""
        folder = Path(path)
        self.recovery.run(lambda: self.learner_group.export(folder))
        return folder

    # ---- state

    @override(Algorithm)
    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**super().get_state(*args, **kwargs), **self.driver_state()}

    @override(Algorithm)
    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.return_to(state)

    def driver_state(self) -> dict[str, Any]:
        """What this process must remember between iterations, besides the learners' state; no part of it changes later."""
        return {"cursor": self.cursor.get_state()}

    def return_to(self, state: dict[str, Any]) -> None:
        """Return to a `driver_state()`."""
        if "cursor" in state:
            self.cursor.set_state(state["cursor"])

    @contextmanager
    def repeating(self, iteration: int) -> Iterator[None]:
        """Inside, the iteration count is set to `iteration`, and what is logged is not reported."""
        metrics, done = self.metrics, self._iteration
        self.metrics, self._iteration = MetricsLogger(root=True), iteration
        try:
            yield
        finally:
            self.metrics, self._iteration = metrics, done

    @override(Algorithm)
    def save_to_path(self, path: Any = None, **kwargs: Any) -> str:
        """A checkpoint. Learners lost over it are restarted, and their iterations repeated."""
        return self.recovery.run(lambda: super(RunAlgorithm, self).save_to_path(path, **kwargs))

    @override(Algorithm)
    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Continue from a checkpoint of any number of learners."""
        self.recovery.restore(lambda: super(RunAlgorithm, self).restore_from_path(path, *args, **kwargs))

    @classmethod
    @override(Algorithm)
    def default_resource_request(cls, config: Any) -> Any:
        """What Tune reserves for a trial, without remote learners: Ray Train places them itself."""
        request = super().default_resource_request(config)
        learners = cls.get_default_config().update_from_dict(config).num_learners
        bundles = request.bundles[: len(request.bundles) - learners]
        return PlacementGroupFactory(bundles, strategy=request.strategy)
