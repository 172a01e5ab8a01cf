"""The private hooks of Ray and transformers that the package relies on: an upgrade that drops one fails here, by name."""

import inspect

import pytest
import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.checkpoints import Checkpointable

from sharegrpo_rl.cli.doctor import untested_versions

METHODS = {
    Algorithm: ("_should_create_evaluation_env_runners", "restore_env_runners", "evaluate", "training_step"),
    AlgorithmConfig: ("build_learner_group", "get_multi_rl_module_spec", "get_rl_module_spec", "update_from_dict"),
    LearnerGroup: ("update", "get_state", "set_state", "save_to_path", "restore_from_path"),
    TorchLearner: (
        "build", "_map_module_to_device", "configure_optimizers_for_module", "_get_optimizer_state", "_set_optimizer_state",
    ),
    RLModule: ("setup", "get_state", "set_state", "save_to_path", "restore_from_path", "unwrapped"),
    EnvRunner: ("sample", "get_metrics", "get_spaces", "make_env", "make_module", "assert_healthy", "stop"),
    EnvRunnerGroup: ("foreach_env_runner", "healthy_env_runner_ids", "probe_unhealthy_env_runners", "num_remote_env_runners"),
    Checkpointable: ("get_ctor_args_and_kwargs", "_check_component"),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "names"), METHODS.items(), ids=[k.__name__ for k in METHODS])
def test_methods_exist(kind, names):
    assert [n for n in names if not callable(getattr(kind, n, None))] == []


def test_the_versions_here_are_among_those_allowed():
    assert untested_versions() == []


def test_arguments_that_we_pass():
    assert {"func", "kwargs", "remote_worker_ids", "local_env_runner", "timeout_seconds"} <= set(
        inspect.signature(EnvRunnerGroup.foreach_env_runner).parameters
    )
    assert {"env", "spaces", "rl_module_spec", "placement_group"} <= set(
        inspect.signature(AlgorithmConfig.build_learner_group).parameters
    )
    assert {"config", "module_spec", "placement_group"} <= set(inspect.signature(LearnerGroup.__init__).parameters)
    assert {"module_id", "optimizer", "params"} <= set(inspect.signature(Learner.register_optimizer).parameters)


@pytest.mark.parametrize(
    "name",
    [
        "sample_timeout_s", "merge_env_runner_states", "broadcast_env_runner_states", "create_local_env_runner",
        "add_default_connectors_to_learner_pipeline", "delay_between_env_runner_restarts_s", "num_cpus_per_env_runner",
        "restart_failed_env_runners", "torch_skip_nan_gradients", "env_runner_cls",
    ],
)  # fmt: skip
def test_settings_that_we_change_are_still_rllibs(name):
    assert hasattr(AlgorithmConfig(), name)


def test_attributes_set_inside_rllib():
    assert "self._weights_seq_no = 0" in inspect.getsource(Learner.__init__)
    assert "_weights_seq_no" in inspect.getsource(Learner.set_state)
    assert "self._learner" in inspect.getsource(LearnerGroup.__init__)
    assert "self.worker_index" in inspect.getsource(EnvRunner.__init__)
    assert isinstance(inspect.getattr_static(AlgorithmConfig, "model_config"), property)


def test_transformers_pieces():
    from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import create_causal_mask, sdpa_mask

    assert all(callable(x) for x in (AttentionInterface.register, AttentionMaskInterface.register, sdpa_mask))
    assert callable(DynamicCache.batch_repeat_interleave)
    assert callable(DynamicCache.batch_select_indices)
    assert {"module", "query", "key", "value", "attention_mask"} <= set(
        inspect.signature(sdpa_attention_forward).parameters
    )
    assert "mask_interface" in inspect.getsource(create_causal_mask)


def test_tune_pieces():
    """What `search/scheduler.py` and `search/draws.py` use beyond Tune's documented interface."""
    from ray.tune.experiment import Experiment, Trial
    from ray.tune.result import TRAINING_ITERATION
    from ray.tune.schedulers import PopulationBasedTraining, pbt
    from ray.tune.search import SearchAlgorithm
    from ray.tune.search.optuna import OptunaSearch

    assert {
        "config", "trial_id", "experiment_tag", "evaluated_params", "stopping_criterion", "checkpoint_config", "max_failures",
        "storage",
    } <= set(inspect.signature(Trial.__init__).parameters)  # fmt: skip
    assert all(callable(getattr(Trial, name)) for name in ("set_config", "is_finished"))
    assert "self.spec = " in inspect.getsource(Experiment.__init__)
    assert SearchAlgorithm._finished is False
    assert callable(OptunaSearch.convert_search_space)
    assert TRAINING_ITERATION == "training_iteration"
    for name in ("_exploit", "_get_new_config"):
        parameters = inspect.signature(getattr(PopulationBasedTraining, name)).parameters
        assert {"trial", "trial_to_clone"} <= set(parameters)
    source = inspect.getsource(PopulationBasedTraining)
    assert "self._next_perturbation_sync = max(" in source
    assert "self._trial_state[trial] = _PBTTrialState(trial)" in source
    state = inspect.getsource(pbt._PBTTrialState.__init__)
    assert "self.last_perturbation_time" in state
    assert "self.last_train_time" in state


def test_environment_variables_that_tune_reads():
    """A setting of `search/run.py` that Ray no longer reads would have no effect, without any message."""
    from pathlib import Path

    from sharegrpo_rl.search.run import TUNE_SETTINGS

    sources = [
        path.read_text()
        for folder in ("tune", "air", "train")
        for path in Path(ray.__file__).parent.joinpath(folder).rglob("*.py")
    ]
    assert [name for name in TUNE_SETTINGS if not any(name in source for source in sources)] == []


def test_a_ray_without_pbt_s_methods_is_refused(monkeypatch):
    """Without the check rounds would go on, and the journal would miss who took over from whom."""
    from sharegrpo_rl.errors import UserError
    from sharegrpo_rl.search import scheduler

    assert all(callable(getattr(scheduler.PopulationBasedTraining, name)) for name in scheduler.PRIVATE)
    monkeypatch.setattr(scheduler, "PRIVATE", ("_exploit", "_no_such_method"))
    with pytest.raises(UserError, match=r"pbt: Ray [\d.]+ has no PopulationBasedTraining\._no_such_method, which"):
        scheduler.SynchronousPbt(None, None)
