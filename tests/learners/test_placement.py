"""What a run asks of a cluster, and the complaint where the cluster has it not; the GPUs are only declared. Slow: Ray."""

import re
import shutil
from pathlib import Path

import pytest
import ray
import torch

from sharegrpo_rl.config import resolve
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.learners.placement import check_demand, check_nodes, demand, why_torch_sees_no_gpu
from sharegrpo_rl.planning import gpus


def config(**options):
    return resolve("GRPO", options)


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, {}),
        ({"num_learners": 2, "num_env_runners": 3}, {"CPU": 5}),
        ({"num_learners": 8, "num_gpus_per_learner": 1}, {"CPU": 8, "GPU": 8}),
        ({"num_env_runners": 4, "num_gpus_per_env_runner": 2}, {"CPU": 4, "GPU": 8}),
        ({"num_learners": 1, "num_gpus_per_learner": 1, "num_gpus_per_env_runner": 0.5}, {"CPU": 1, "GPU": 1.5}),
        ({"num_gpus_per_learner": 1, "num_gpus_per_env_runner": 1}, {"GPU": 1}),
    ],
)
def test_demand(options, asked):
    assert demand(config(**options)) == asked


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def seen(monkeypatch):
    """torch sees the GPUs that are only declared."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.slow
def test_what_fits_is_let_through(cluster, seen):
    check_demand(config(num_learners=2, num_gpus_per_learner=1, num_env_runners=2))


@pytest.mark.slow
def test_gpus_that_torch_does_not_see_are_named(cluster):
    if torch.cuda.is_available():
        pytest.skip("it sees them")
    with pytest.raises(UserError, match=r"Ray has 2 GPUs on this machine, and torch sees none: \S+"):
        check_demand(config(num_gpus_per_learner=1))


@pytest.mark.slow
def test_a_run_that_uses_none_of_the_gpus_says_so(cluster, caplog):
    check_demand(config())
    assert "there are 2 GPUs and the run uses none of them: set num_gpus_per_learner: 1" in caplog.text


@pytest.mark.slow
def test_an_engine_without_a_gpu_of_its_own_is_refused(cluster, seen):
    options = config(engine="vllm", num_env_runners=1, num_learners=1, num_gpus_per_learner=1)
    with pytest.raises(UserError, match="num_gpus_per_env_runner: 0 would put every engine on the first GPU"):
        check_demand(options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"num_learners": 3, "num_gpus_per_learner": 1},
            "needs 3 GPUs .3 learners with 1 GPU each.*the cluster has 2",
        ),
        ({"num_learners": 3, "num_env_runners": 2}, "num_learners, num_env_runners: the run needs 5 CPUs.*has 4"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_there_is(cluster, options, text):
    with pytest.raises(UserError, match=text):
        check_demand(config(**options))


DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Wed Oct 30 01:31:22 UTC 2024\nGCC version: 12\n"


@pytest.mark.parametrize(
    ("cuda", "driver", "words"),
    [
        (None, "580.65.06", "is built without CUDA"),
        ("13.0", "550.127.05", r"the NVIDIA driver is 550.127.05, and torch .* \(CUDA 13.0\) needs 580 or newer"),
        ("12.8", "470.1", "the NVIDIA driver is 470.1, .* needs 525 or newer"),
        ("12.8", "550.127.05", r"\S"),
    ],
)
def test_why_torch_sees_no_gpu(
    cuda: str | None, driver: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "version"
    file.write_text(DRIVER.format(driver))
    monkeypatch.setattr(gpus, "_DRIVER_FILE", file)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    why = why_torch_sees_no_gpu()
    assert re.search(words, why), why
    assert gpus.driver_version() == driver
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES hides them" in why_torch_sees_no_gpu()


@pytest.mark.slow
def test_little_shared_memory_is_named(cluster, monkeypatch, caplog):
    """64 MB, as Docker gives: a warning where learners exchange nothing through it, else the end."""
    usage = shutil.disk_usage("/dev/shm")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(total=64 << 20))
    check_nodes(config())  # one process
    assert not caplog.text
    check_nodes(config(num_env_runners=1))
    assert "has 64 MB, through which Ray's store, NCCL and vLLM's workers talk" in caplog.text
    with pytest.raises(UserError, match=r"/dev/shm on node [\d.]+ has 64 MB.*start its container with --shm-size 16g"):
        check_nodes(config(num_learners=2, num_gpus_per_learner=1))
