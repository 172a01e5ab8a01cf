"""Learners in Ray Train workers against one in this process: same losses, checkpoints of any number of them, readable
errors, nothing left behind. Slow: Ray, and several processes that load torch."""

import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ray
from gymnasium.spaces import Discrete
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.util import placement_group_table

from sharegrpo_rl.algorithms.registry import build_config
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.learners.failures import LearnerError, LearnersRestarted
from sharegrpo_rl.models.loading import ModelSettings, load_policy, save_pretrained

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test file
UPDATES = 20
COMPARED = ("policy_loss", "kl", "entropy", "grad_norm", "ratio_mean", "optimizer_steps", "pairs", "skipped_packs")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=300 * 2**20)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(policy, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_pretrained(policy, path)
    return path


@pytest.fixture(scope="module")
def config(folder):
    def make(**options):
        given = {
            "model": str(folder), "min_pixels": 784, "max_pixels": 3136, "lr": 1e-3, "format_prompt": "",
            "minibatch_size": 2, "num_questions": 4, "num_epochs": 2, "max_tokens_per_microbatch": 120, "kl_coeff": 0.1,
            "learner_timeout_s": 300, **options,
        }  # fmt: skip
        made = build_config("GRPO", "DrawnShapes-v0", given, 0)
        made.model_folder = made.model
        return made

    return make


@pytest.fixture(scope="module")
def build(config):
    """build(num_learners=...): a group of its own; all of them are shut down at the end."""
    built = []

    def make(**options):
        made = config(**options)
        spaces = {DEFAULT_MODULE_ID: (Discrete(2), Discrete(2))}
        group = made.build_learner_group(rl_module_spec=made.get_multi_rl_module_spec(spaces=spaces))
        built.append(group)
        return group

    yield make
    for group in built:
        group.shutdown()


@pytest.fixture(scope="module")
def batches(policy, tiny):
    """Recorded iterations: five packs of four questions, two of them without pictures, one without any advantage."""

    def packs(update):
        made = []
        for i, (group, pictures) in enumerate([(0, 1), (0, 1), (1, 0), (2, 2), (3, 0)]):
            lengths = tuple(1 + (update + i + k) % 5 for k in range(3))
            credit = (0.0, 0.0, 0.0) if (update + i) % 7 == 0 else None
            made.append(
                tiny.pack(policy, lengths, credit, group=group, slot=i, pictures=pictures, seed=10 * update + i)
            )
        return made

    return [packs(update) for update in range(UPDATES)]


@pytest.fixture(scope="module")
def alone(build, batches):
    """The local group's figures for each update, and its weights after the last."""
    group = build(num_learners=0)
    first = weights(group)
    found = [figures(group.update(b)) for b in batches]
    return SimpleNamespace(first=first, figures=found, weights=weights(group), group=group)


def figures(metrics):
    return {name: float(metrics[name]) for name in COMPARED}


def weights(group):
    return {name: np.array(value) for name, value in ray.get(group.module_state())[DEFAULT_MODULE_ID].items()}


def assert_close(one, other, tolerance):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


def processes(group):
    return [m.pid for m in group._group.members]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


@pytest.mark.parametrize(
    "options",
    [{"num_learners": 1}, {"num_learners": 2}, {"num_learners": 2, "sharding": "fsdp2"}],
    ids=["one", "ddp", "fsdp2"],
)
def test_losses_are_those_of_one_process(build, batches, alone, options):
    group = build(**options)
    assert group.parameter_table() == alone.group.parameter_table()
    assert_close(alone.first, weights(group), 0)
    for number, batch in enumerate(batches):
        assert group.weights_version == number
        assert_close(alone.figures[number], figures(group.update(batch)), 1e-5)
    assert_close(alone.weights, weights(group), 1e-5)
    at_stake = processes(group)
    group.shutdown()
    assert gone(at_stake)


@pytest.fixture(scope="module")
def pair(build, batches, tmp_path_factory):
    """Two FSDP2 learners that commit, after five updates; a checkpoint of then, and what the next five give."""
    group = build(num_learners=2, sharding="fsdp2", learner_restarts=5)
    for batch in batches[:5]:
        group.update(batch)
    group.commit(5, wait=True)
    folder = tmp_path_factory.mktemp("checkpoint") / "learner_group"
    group.save_to_path(folder)
    return SimpleNamespace(group=group, folder=folder, next=[figures(group.update(b)) for b in batches[5:10]])


def test_a_checkpoint_of_two_goes_on_with_one_and_with_none(build, pair, batches, tmp_path):
    for number in (1, 0):
        group = build(num_learners=number)
        group.restore_from_path(pair.folder)
        assert group.weights_version == 5
        for batch, expected in zip(batches[5:10], pair.next, strict=True):
            assert_close(expected, figures(group.update(batch)), 1e-6)
        group.save_to_path(tmp_path / str(number))
        expected = figures(group.update(batches[10]))
        group.shutdown()
        pair.group.restore_from_path(tmp_path / str(number))
        assert_close(expected, figures(pair.group.update(batches[10])), 1e-6)


def test_a_checkpoint_holds_a_model_that_loads_and_no_pickle_of_ours(pair, policy, tiny):
    loaded = load_policy(ModelSettings(str(pair.folder / "learner/rl_module/default_policy")))
    pair.group.restore_from_path(pair.folder)
    expected = {name: value for name, value in weights(pair.group).items()}
    assert all(np.array_equal(t.numpy(), expected[n]) for n, t in loaded.model.state_dict().items())


def test_parts_are_the_weights_by_name(pair):
    parts = [(ray.get(arrays), last) for arrays, last in pair.group.weight_parts(everything=True)]
    assert [last for _, last in parts] == [False] * (len(parts) - 1) + [True]
    assert_close(weights(pair.group), {name: a for arrays, _ in parts for name, a in arrays.items()}, 0)


def test_a_killed_learner_comes_back_where_it_had_committed(pair, batches):
    group = pair.group
    group.restore_from_path(pair.folder)
    group.commit(5, wait=True)
    group.update(batches[5])  # not committed
    before, restarts = processes(group), group.restarts
    os.kill(before[1], signal.SIGKILL)
    lost = rf"learner 1 \(node .*, pid {before[1]}\) was lost: it was killed, .*after iteration 5"
    with pytest.raises(LearnersRestarted, match=lost):
        update_until_noticed(group, batches[6])
    assert group.restarts == restarts + 1
    assert group.weights_version == 5
    assert not set(before) & set(processes(group))
    for batch, expected in zip(batches[5:10], pair.next, strict=True):
        assert_close(expected, figures(group.update(batch)), 0)


def update_until_noticed(group, packs):
    """A death is noticed within a second; tiny updates are faster."""
    for _ in range(1000):
        group.update(packs)


def test_a_mistake_is_told_once_with_its_traceback(build, batches):
    """A pack whose pixels are of another shape: every attempt would fail over it."""
    group = build(num_learners=1)
    with pytest.raises(LearnerError, match=r"learner 0 failed in update: (.|\n)*Traceback(.|\n)*in run"):
        group.update([broken(batches[0][0])])
    assert group.restarts == 0
    with pytest.raises(LearnerError, match="failed in update"):
        group.update(batches[0])
    group.shutdown()


def broken(pack):
    from dataclasses import replace

    images = tuple(
        replace(i, tensors={k: np.asarray(v)[..., :-1] for k, v in i.tensors.items()}) for i in pack.prompt.images
    )
    return replace(pack, prompt=replace(pack.prompt, images=images))


def test_a_learner_that_cannot_be_built_says_why(build, tmp_path):
    with pytest.raises(UserError, match="model: cannot load"):
        build(num_learners=1, model=str(tmp_path))


def test_a_folder_that_a_learner_does_not_see_is_named(pair, tmp_path, monkeypatch):
    group = pair.group
    group.check_storage(tmp_path)
    assert not list(tmp_path.iterdir())
    (_, pid), call = processes(group), group._call
    monkeypatch.setattr(  # on the second one's disk there is no such file
        group, "_call", lambda name, arguments: call(name, [arguments, {**arguments, "file": str(tmp_path / "other")}])
    )
    with pytest.raises(
        UserError, match=rf"storage-path: {tmp_path} is not the same folder on node \S+, pid {pid}, where"
    ):
        group.check_storage(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_silent_learner_is_named(build, batches):
    before = held()
    group = build(num_learners=1)
    (pid,) = processes(group)
    assert held() - before
    group._options = group._options.model_copy(update={"learner_timeout_s": 1.0})
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(
        LearnerError, match=rf"no answer to fetch within 1 s from learner 0 \(.*pid {pid}\).*raise learner_timeout_s"
    ):
        group.update(batches[0])
    group.shutdown()
    assert gone([pid])
    assert soon(lambda: held() <= before)  # a killed controller would hold its cores for ever


def test_a_full_cluster_is_described(build, pair):
    """Four cores: two are the pair's. Cores of groups shut down before come back a moment after their processes end."""
    blocker = ray.remote(num_cpus=1)(Blocker).remote()
    ray.get(blocker.ping.remote())
    assert soon(lambda: ray.available_resources().get("CPU") == 1)
    with pytest.raises(LearnerError, match=r"2 learners need 2 CPUs, the cluster has 4, 1 of them free"):
        build(num_learners=2, learner_restarts=0, learner_timeout_s=10)
    ray.kill(blocker)


class Blocker:
    """Holds cores."""

    def ping(self):
        return True


def held():
    """Placement groups that hold cores."""
    return {name for name, group in placement_group_table().items() if group["state"] != "REMOVED"}


def gone(pids):
    return soon(lambda: not any(alive(pid) for pid in pids))


def soon(holds, seconds=600):
    deadline = time.monotonic() + seconds
    while not (done := holds()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return done


def test_what_tune_reserves_leaves_the_learners_to_ray_train(config):
    made = config(num_learners=2, num_env_runners=1)
    made.env = "DrawnShapes-v0"
    bundles = made.algo_class.default_resource_request(made.to_dict()).bundles
    assert bundles == [{"CPU": 1}, {"CPU": 1}]
