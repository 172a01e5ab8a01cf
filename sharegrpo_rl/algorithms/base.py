"""What every algorithm of the package shares: data, model, evaluation, export, state. A subclass adds `training_step`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import LEARNER_RESULTS, WEIGHTS_SEQ_NO
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from sharegrpo_rl.algorithms.config import RunConfig
from sharegrpo_rl.algorithms.warm_start import module_config, prepare_model, prompt_settings
from sharegrpo_rl.config import user_code
from sharegrpo_rl.data.key_steps import rows_without_key_steps
from sharegrpo_rl.data.types import Group, Prompt, PromptPack, QuestionBank, SeedQuestion, SlotRequest
from sharegrpo_rl.data.variants import QuestionCursor
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.envs.registry import make_bank, make_env
from sharegrpo_rl.evaluation.evaluate import evaluate, greedy_generate
from sharegrpo_rl.evaluation.report import EvaluationReport
from sharegrpo_rl.generation.generator import Generator
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.learners.failures import LearnerError, LearnersRestarted
from sharegrpo_rl.learners.module import VLMRLModule
from sharegrpo_rl.learners.placement import check_demand, start_ray
from sharegrpo_rl.models.loading import keep_freed_memory
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import PromptEncoder, load_processor
from sharegrpo_rl.rollouts.groups import fitting_questions, keep_fitting
from sharegrpo_rl.rollouts.rendering import render

# ---- Going on after remote learners were lost: back to the iteration that they committed, and the same way again.
#
# A restarted worker group holds the learners' state after some earlier iteration. The driver goes back to what it knew
# then, hands the weights out, and replays the iterations since: requests are seeded by their iteration, so the replay
# samples and trains the very same. Replayed iterations report nothing.

if TYPE_CHECKING:
    pass

T = TypeVar("T")


def recovering(training_step: Callable[[Any], None]) -> Callable[[Any], None]:
    """For an algorithm's `training_step`: an iteration that loses its learners is done again."""

    @wraps(training_step)
    def recovered(algorithm: RunAlgorithm) -> None:
        algorithm.recovery.iterate(lambda: training_step(algorithm))

    return recovered


class Recovery:
    """An algorithm's memory of the iterations to which its remote learners may yet return."""

    def __init__(self, algorithm: RunAlgorithm) -> None:
        self._algorithm = algorithm
        self._remote = algorithm.config.num_learners > 0
        self._states: dict[int, dict[str, Any]] = {}
        self._iterate: Callable[[], None] | None = None
        self._stands_at = 0  # the iteration after which everything stands after a replay

    def iterate(self, training_step: Callable[[], None]) -> None:
        """One iteration, and the learners' commit of it. Local learners need none of this."""
        if not self._remote:
            training_step()
            return
        self._iterate = training_step
        before, due = self._algorithm.metrics.get_state(), self._algorithm.iteration

        def again() -> None:
            if self._stands_at > due:  # lost right after its commit was noted: the iteration is done
                return
            self._algorithm.metrics.set_state(before)
            self._one()

        self._guarded(self._one, again)

    def run(self, action: Callable[[], T]) -> T:
        """The result of an action between iterations, done again where the learners were lost over it."""
        return self._guarded(action, action) if self._remote else action()

    def restore(self, action: Callable[[], None]) -> None:
        """An action that gives driver and learners another state, and the commit of that."""
        while True:
            try:
                action()
                if self._remote:
                    iteration = self._algorithm.iteration
                    self._states = {iteration: self._algorithm.driver_state()}
                    self._algorithm.learner_group.commit(iteration, wait=True)
                return
            except LearnersRestarted:
                continue  # they have not committed it, and get it anew

    def _guarded(self, action: Callable[[], T], again: Callable[[], T]) -> T:
        """`learner_restarts` bounds the attempts: beyond it the group raises a LearnerError."""
        goal = self._algorithm.iteration
        if not self._states:  # at the start, where learners are that have committed nothing
            self._states[goal] = self._algorithm.driver_state()
        restarted: LearnersRestarted | None = None
        while True:
            try:
                if restarted is None:
                    return action()
                self._replay(restarted.iteration, goal)
                return again()
            except LearnersRestarted as lost:
                restarted = lost

    def _one(self) -> None:
        """The iteration that is due, committed where that is due."""
        assert self._iterate is not None
        self._iterate()
        algorithm = self._algorithm
        done = algorithm.iteration + 1
        if done % algorithm.config.learner_commit_interval == 0:
            self._states[done] = algorithm.driver_state()
            algorithm.learner_group.commit(done)
            known = algorithm.learner_group.last_commit()
            self._states = {i: state for i, state in self._states.items() if i >= known}

    def _replay(self, start: int, goal: int) -> None:
        """Bring driver, learners and whoever samples from the end of iteration `start` to that of `goal`, unless they are
        further."""
        algorithm = self._algorithm
        if start not in self._states:
            raise LearnerError(
                f"the learners came back with their state after iteration {start}, of which the driver knows nothing any "
                "more; resume the run from its last checkpoint"
            )
        reported, algorithm.metrics = algorithm.metrics, MetricsLogger(root=True)
        try:
            algorithm.return_to(self._states[start])
            algorithm.push_weights(everything=True)
            for iteration in range(start, goal):
                algorithm._iteration = iteration
                self._one()
        finally:
            algorithm.metrics, algorithm._iteration = reported, goal
        self._stands_at = max(start, goal)


COUNTED_ROWS = 2000  # first training rows that are looked at for key steps


class RunAlgorithm(Algorithm):
    """An RLlib Algorithm over a question bank and one policy."""

    config: RunConfig
    bank: QuestionBank
    cursor: QuestionCursor

    @override(Algorithm)
    def setup(self, config: Any) -> None:
        """Read the data, prepare the model, then let RLlib start runners and learner."""
        torch.set_num_threads(self.config.num_threads)
        keep_freed_memory()  # before the warm start
        own = self.config.copy(copy_frozen=False)
        start_ray(own)
        check_demand(own)  # before the warm start
        make_env(own.env, own.env_config, split="test", rewards=own.rewards, answer_format=own.answer_format)
        self.bank = make_bank(own.env, own.train_env_config(), "train", check=own.num_env_runners > 0)
        own.model_folder, self._warm_start_report = prepare_model(own)
        own.user_files = list(user_code.IMPORTED)
        if own.user_callbacks:
            own.add_user_callbacks()
        own.freeze()
        self.config = own
        super().setup(own)
        self._trained = fitting_questions(self.bank, self.encoder, transformed=own.transform_probability > 0)
        self.cursor = QuestionCursor(len(self._trained), own.seed or 0)
        self._env: MultimodalQAEnv | None = None
        graded = {"key_steps", "key_steps_released"} & set(own.rewards)
        self._without_key_steps = rows_without_key_steps(self.bank, COUNTED_ROWS) if graded else None
        self.recovery = Recovery(self)

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

    def pick_questions(self) -> list[tuple[int, int]]:
        """The next `num_questions` pairs (epoch, index into the bank); over-long questions never come."""
        return [(epoch, self._trained[i]) for epoch, i in self.cursor.next(self.config.num_questions)]

    def render(self, requests: Sequence[SlotRequest]) -> list[Prompt]:
        """Prompts of training slots, rendered in the driver."""
        if self._env is None:
            c = self.config
            self._env = make_env(
                c.env, c.train_env_config(), rewards=c.rewards, answer_format=c.answer_format, check=False
            )
        return render(self._env, self.encoder, requests)

    def log_update(self, update: dict[str, float]) -> None:
        """Log what the learner returned, and where in the data the run is."""
        self.metrics.log_dict(update, key=(LEARNER_RESULTS, DEFAULT_MODULE_ID), reduce="mean", window=1)
        if self.config.num_learners:
            self.metrics.log_value("learner_restarts", self.learner_group.restarts, reduce="mean", window=1)
        self.metrics.log_value("over_long_questions", len(self.bank) - len(self._trained), reduce="mean", window=1)
        if self._without_key_steps is not None:
            self.metrics.log_value("rows_without_key_steps", self._without_key_steps, reduce="mean", window=1)
        self.metrics.log_value("epoch", self.cursor.get_state()["epoch"], reduce="mean", window=1)

    # ---- evaluation, export

    @property
    def rl_module(self) -> VLMRLModule:
        """The module of this process: the Learner's own, or with remote learners the local env runner's, which is given
        their weights. Where both are remote there is none."""
        if self.config.num_learners == 0:
            return self.learner_group.local_learner.rl_module
        if self.config.num_env_runners:
            raise RuntimeError("learners and env runners are remote: the driver holds no model")
        if self.env_runner.module is None:
            self.env_runner.make_module()
        return self.env_runner.module

    @cached_property
    def encoder(self) -> PromptEncoder:
        """What turns questions into prompts; needs no model."""
        if self.config.num_learners == 0:
            return self.rl_module.policy.encoder
        settings = module_config(self.config)["settings"]
        return PromptEncoder(load_processor(settings["path"]), prompt_settings(self.config))

    def evaluate_accuracy(self, blind: bool = False) -> EvaluationReport:
        """Greedy accuracy on the first `evaluation_questions` of the test split; `blind` swaps their images."""
        c = self.config
        env = make_env(c.env, c.env_config, split="test", rewards=c.rewards, answer_format=c.answer_format, check=False)
        keep_fitting(env, self.encoder, c.evaluation_questions)
        generate = greedy_generate(self.encoder, self.recovery.run(self._answering), c.max_completion_tokens)
        return evaluate(env, generate, limit=c.evaluation_questions, batch=c.evaluation_batch, blind=blind)

    def make_generator(self, policy: Policy) -> Generator:
        """What answers in evaluation where this process has a model."""
        return HFGenerator(policy)

    def _answering(self) -> Generator:
        """What answers in evaluation, with the learners' weights."""
        c = self.config
        # Where the driver has a model it is asked, but for engines elsewhere, which are faster.
        remote = c.num_env_runners > 0 and (c.num_learners > 0 or getattr(c, "engine", "hf") == "vllm")
        if c.num_learners or remote:
            self.push_weights()
        return self.remote_generator() if remote else self.make_generator(self.rl_module.policy)

    def push_weights(self, everything: bool = False) -> None:
        """Give whoever answers the remote learners' weights, where it has others; `everything` in any case."""
        version = self.learner_group.weights_version
        if everything or self.env_runner._weights_seq_no != version:
            state = {COMPONENT_RL_MODULE: self.learner_group.module_state(), WEIGHTS_SEQ_NO: version}
            self.env_runner.set_state(state)

    def remote_generator(self) -> Generator:
        """The remote env runners as a generator."""
        raise NotImplementedError(f"{type(self).__name__} does not ask its env runners")

    @override(Algorithm)
    def evaluate(self, parallel_train_future: Any = None) -> dict[str, Any]:
        """RLlib's hook for `evaluation_interval`: the report's figures."""
        self._tell("on_evaluate_start")
        report = self.evaluate_accuracy()
        self.metrics.log_value("evaluations", 1, reduce="lifetime_sum")
        figures = {**report.summary(), "confidence_interval": list(report.confidence_interval)}
        self._tell("on_evaluate_end", evaluation_metrics=figures)
        return figures

    def _tell(self, hook: str, **facts: Any) -> None:
        """Call a hook of the run's callbacks that RLlib would call in the method overridden here."""
        make_callback(
            hook,
            callbacks_objects=self.callbacks,
            callbacks_functions=getattr(self.config, f"callbacks_{hook}"),
            kwargs={"algorithm": self, "metrics_logger": self.metrics, **facts},
        )

    @classmethod
    @override(Algorithm)
    def _should_create_evaluation_env_runners(cls, eval_config: Any) -> bool:
        return False  # evaluation is greedy and runs in the driver

    def warm_start_report(self) -> dict[str, Any] | None:
        """What the warm start reached, if there was one."""
        return self._warm_start_report

    def parameter_table(self) -> list[tuple[str, int, int]]:
        """(part, parameters, trainable parameters)."""
        return self.learner_group.parameter_table()

    def sampled_groups(self) -> list[Group]:
        """The groups of the last iteration, with their true rewards; none where nothing is sampled."""
        return []

    def sampled_packs(self) -> list[PromptPack]:
        """What the last iteration trained on, replayed completions left out; none where nothing is sampled."""
        return []

    def plain_packs(self) -> list[PromptPack]:
        """The same groups with the credit of plain GRPO: what sharing is compared with."""
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
        """What this process must remember between iterations, beside the learners' state; nothing of it changes later."""
        return {"cursor": self.cursor.get_state()}

    def return_to(self, state: dict[str, Any]) -> None:
        """Go back to `driver_state()`."""
        if "cursor" in state:
            self.cursor.set_state(state["cursor"])

    @override(Algorithm)
    def save_to_path(self, path: Any = None, **kwargs: Any) -> str:
        """A checkpoint. Learners that are lost over it are started again, and the iterations replayed."""
        return self.recovery.run(lambda: super(RunAlgorithm, self).save_to_path(path, **kwargs))

    @override(Algorithm)
    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Continue from a checkpoint, of any number of learners."""
        self.recovery.restore(lambda: super(RunAlgorithm, self).restore_from_path(path, *args, **kwargs))

    @classmethod
    @override(Algorithm)
    def default_resource_request(cls, config: Any) -> Any:
        """What Tune reserves for a trial. Remote learners are not among it: Ray Train places them itself."""
        from ray.tune import PlacementGroupFactory

        asked = super().default_resource_request(config)
        learners = cls.get_default_config().update_from_dict(config).num_learners
        bundles = asked.bundles[: len(asked.bundles) - learners]
        return PlacementGroupFactory(bundles, strategy=asked.strategy)
