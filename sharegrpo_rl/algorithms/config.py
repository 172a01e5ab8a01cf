"""RLlib's fluent config over an algorithm's options."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, Self

import ray.cloudpickle
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.models import MODEL_DEFAULTS
from ray.rllib.utils import force_list
from ray.rllib.utils.annotations import override

from sharegrpo_rl.algorithms.model_source import module_config
from sharegrpo_rl.config import GRPOOptions, RunOptions, resolve
from sharegrpo_rl.config.option import check
from sharegrpo_rl.config.registry import CALLBACKS
from sharegrpo_rl.config.user_code import UserCode
from sharegrpo_rl.envs.registry import check_env_config, train_env_config
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.generation.generator import check_engine, sends_adapters
from sharegrpo_rl.learners.learner import VLMLearner, VLMLearnerGroup
from sharegrpo_rl.learners.module import VLMRLModule
from sharegrpo_rl.learners.remote_group import TrainLearnerGroup
from sharegrpo_rl.planning.estimate import layout_problems
from sharegrpo_rl.rollouts.env_runner import QAEnvRunner
from sharegrpo_rl.rollouts.vllm_env_runner import VLLMEnvRunner

ENV_RUNNERS = {"hf": QAEnvRunner, "vllm": VLLMEnvRunner}


class RunConfig(AlgorithmConfig):
    """What all configs share: options with types and bounds, presets, RLlib's defaults set right for our use."""

    name: ClassVar[str]
    options: ClassVar[type[RunOptions]] = RunOptions
    model: Any
    model_config: Any = {}  # RLlib's read-only property of this name gives way to our option  # noqa: RUF012

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        for name, value in self.options.defaults().items():
            setattr(self, name, value)
        self.env_runner_cls = QAEnvRunner
        self.model_folder: str | None = None  # folder of the prepared model; set by the algorithm before workers start
        self.user_code = UserCode()  # for remote workers; in Tune's `param_space`, for trials too
        # RLlib defaults that lose samples, hide errors or move data that we move ourselves.
        self.sample_timeout_s = None
        self.merge_env_runner_states = False
        self.broadcast_env_runner_states = False
        self.add_default_connectors_to_learner_pipeline = False
        self.delay_between_env_runner_restarts_s = 1.0
        self.restart_failed_env_runners = True
        self.torch_skip_nan_gradients = True
        self.num_cpus_per_env_runner = 1

    @override(AlgorithmConfig)
    def training(self, **settings: Any) -> Self:
        """Set options by name; a preset is applied first, so that other keys of the same call win."""
        options = resolve(self.name, settings)
        values = options.as_dict()
        for name in options.set_keys():
            setattr(self, name, values[name])
        return self

    def to_options(self) -> RunOptions:
        """The options as one checked, typed table; UserError where an attribute was set to an invalid value."""
        return check(self.options, {name: getattr(self, name) for name in self.options.fields()})

    @override(AlgorithmConfig)
    def update_from_dict(self, config_dict: Mapping[str, Any]) -> Self:
        """Take a flat dict, as Tune's `param_space` gives it; unknown keys are errors, which RLlib would swallow."""
        if isinstance(user_code := config_dict.get("user_code"), UserCode):
            user_code.load()
        names = self.options.fields()
        ours = {k: v for k, v in config_dict.items() if k in names and not _is_search_space(v)}
        rest = {k: v for k, v in config_dict.items() if k not in ours}
        for key, value in rest.items():
            internal = key.startswith("__")  # Tune's own, such as __trial_info__
            if not hasattr(self, key) and key not in rllib_keys() and not internal:
                resolve(self.name, {key: value})  # raises, with a suggestion
        if not rest.get("optimizer"):  # RLlib writes its empty table into every dict and hands it to `training`
            rest.pop("optimizer", None)
        super().update_from_dict(rest)
        return self.training(**ours)

    @override(AlgorithmConfig)
    def validate(self) -> None:
        """RLlib's checks and ours."""
        self.create_local_env_runner = self.num_env_runners == 0
        name = self.model
        self.model = dict(MODEL_DEFAULTS)  # RLlib still looks into its old-stack table of this name
        try:
            super().validate()
        finally:
            self.model = name
        if self.env_runner_cls in ENV_RUNNERS.values():  # one of the user's own stays
            self.env_runner_cls = ENV_RUNNERS[getattr(self, "engine", "hf")]
        alone = self.one_process() and not self._has_engine()
        if alone and self.num_gpus_per_env_runner and not self.num_gpus_per_learner:
            raise UserError("num_gpus_per_env_runner: one model learns and generates here; set num_gpus_per_learner")
        if not issubclass(self.options, GRPOOptions) and self.num_learners and self.num_env_runners:
            raise UserError(f"num_env_runners: {self.name} samples nothing; set it to 0")
        if not self.in_evaluation:  # RLlib's copy for evaluation has no env runners
            options = self.to_options()
            options.check_together(self.name)
            for problem in layout_problems(options.model_dump()):
                raise UserError(problem)
            if isinstance(self.env, str):
                check_env_config(self.env, options.env_config)
        check_engine(getattr(self, "engine", "hf"))

    def add_user_callbacks(self) -> None:
        """Put the callbacks that `user_callbacks` names after those given to `.callbacks(...)`."""
        classes = [CALLBACKS.load(name) for name in self.user_callbacks]
        for cls in classes:  # a remote runner gets the class itself: it has not executed the user's file yet
            ray.cloudpickle.register_pickle_by_value(sys.modules[cls.__module__])
        self.callbacks([*force_list(self.callbacks_class), *classes])

    def one_process(self) -> bool:
        """Do env runner and learner live in the driver, sharing one model?"""
        return self.num_env_runners == 0 and self.num_learners == 0

    def sends_adapters(self) -> bool:
        """Are engines sent LoRA adapters alone?"""
        return getattr(self, "engine", "hf") == "vllm" and sends_adapters(self.lora, self.vllm)

    def train_env_config(self) -> dict[str, Any]:
        """The environment's settings for the training split."""
        keys = ("env_config", "warm_start", "transform_text_position", "min_pixels", "max_pixels")
        return train_env_config({key: getattr(self, key) for key in keys})

    @override(AlgorithmConfig)
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        where = {"generates_on": "cuda"} if self.num_gpus_per_env_runner else {}
        runner = {"outline": True} if self._has_engine() else where
        return RLModuleSpec(module_class=VLMRLModule, model_config=module_config(self) | runner)

    def _has_engine(self) -> bool:
        """Does an engine other than the training model's own copy generate?"""
        return getattr(self, "engine", "hf") != "hf"

    @override(AlgorithmConfig)
    def get_default_learner_class(self) -> type[VLMLearner]:
        return VLMLearner

    @override(AlgorithmConfig)
    def build_learner_group(
        self, *, env: Any = None, spaces: Any = None, rl_module_spec: Any = None, placement_group: Any = None
    ) -> VLMLearnerGroup:
        """Learners in Ray Train workers, or one in this process."""
        spec = rl_module_spec or self.get_multi_rl_module_spec(env=env, spaces=spaces)
        group = TrainLearnerGroup if self.num_learners else VLMLearnerGroup
        return group(config=self.copy(), module_spec=spec, placement_group=placement_group)


@cache
def rllib_keys() -> frozenset[str]:
    """Keys that RLlib writes for any config, some under other names than their attributes (`input`, `class`)."""
    return frozenset(AlgorithmConfig().to_dict()) | {"class"}


def _is_search_space(value: Any) -> bool:
    from ray.tune.search.sample import Domain

    return isinstance(value, Domain) or (isinstance(value, dict) and "grid_search" in value)
