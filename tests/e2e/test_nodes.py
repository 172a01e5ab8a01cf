"""Runs over several Ray nodes with networks and folders of their own: shared disks, disks that are not, a node that dies. Slow.

Needs root for the networks.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray_nodes import Nodes, possible

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not possible(), reason="needs to make networks and mounts"),
]
RUN_FILE = """
small:
  run: ShareGRPO
  env: MultimodalQA-v0
  stop: {training_iteration: 8}
  config:
    model: tiny
    model_config: {hidden_size: 32, num_layers: 1, vision_layers: 1, patch_size: 14}
    min_pixels: 784
    max_pixels: 3136
    num_questions: 2
    num_generations: 2
    max_prompt_tokens: 256
    max_completion_tokens: 16
    lr: 1e-3
    rewards: {accuracy: 0.5, noise: 0.5}
    evaluation_questions: 4
    env_config: {data: data.jsonl, test_fraction: 0.2}
    num_learners: 2
    num_env_runners: 2
    sharding: fsdp2
"""
REWARDS = """
from sharegrpo_rl.config.registry import register_reward

register_reward("noise", lambda completions, **columns: [(sum(map(ord, c)) % 7) / 7 for c in completions])
"""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Three nodes of two CPUs: two are enough for a run."""
    with Nodes(tmp_path_factory.mktemp("nodes") / "own", cpus=2) as nodes:
        nodes.add()
        nodes.add()
        yield nodes


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    (tmp_path / "run.yaml").write_text(RUN_FILE)
    (tmp_path / "noise.py").write_text(REWARDS)
    rows = [{"id": str(i), "question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(40)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def train(nodes: Nodes, workplace: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command line in a folder where no node was started, with a data file by a relative path."""
    return subprocess.Popen(
        [sys.executable, "-m", "sharegrpo_rl.cli", "train", "run.yaml", "--import", "noise.py", *arguments],
        cwd=workplace,
        env={**os.environ, "RAY_ADDRESS": nodes.address, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_run_folder_that_is_not_shared_is_refused(nodes: Nodes, workplace: Path) -> None:
    run = train(nodes, workplace, "--storage-path", str(nodes.own / "runs"))
    text, _ = run.communicate()
    assert run.returncode == 2, text
    assert "Traceback" not in text
    assert f"error: commit_folder (--storage-path, where it is null): {nodes.own}/runs/small/.commits/" in text
    assert "is not the same folder on node 10." in text
    assert not (nodes.own / "runs").exists()


def test_a_commit_folder_that_is_not_shared_is_refused(nodes: Nodes, workplace: Path) -> None:
    run = train(nodes, workplace, "--set", f"config.commit_folder={nodes.own / 'commits'}")
    text, _ = run.communicate()
    assert run.returncode == 2, text
    assert f"error: commit_folder (--storage-path, where it is null): {nodes.own}/commits/" in text
    assert "is not the same folder on node 10." in text
    assert not (workplace / "runs").exists()


def test_a_node_without_this_package_is_named(nodes: Nodes, workplace: Path) -> None:
    """An environment of that path that lacks it: its own files are empty there, and what names it."""
    site = Path(ray.__file__).parents[1]
    lacking = nodes.add(without=[*site.glob("*sharegrpo_rl*.pth"), *site.glob("sharegrpo_rl*.dist-info")])
    run = train(nodes, workplace)
    text, _ = run.communicate()
    nodes.kill(lacking)
    assert run.returncode == 2, text
    assert re.search(r"error: Ray: node 10\.\S+ has sharegrpo-rl not installed \(.*python.*\), the driver has ", text)
    assert not (workplace / "runs").exists()


SENDER = """
import ray, torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from sharegrpo_rl.models.weights import WeightGroup

ray.init(log_to_driver=False)
here = ray.get_runtime_context().get_node_id()
other = next(node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here)


@ray.remote(num_cpus=1, scheduling_strategy=NodeAffinitySchedulingStrategy(other, soft=False))
class Receiver:
    def ready(self):
        return True  # its process is there, with torch imported: on a busy machine that outlasts a meeting

    def receive(self, meeting):
        group = WeightGroup(meeting, 1, torch.device("cpu"))
        (found,) = group.receive([[("w", torch.empty(1000, device="meta"))]])
        return found[0], float(found[1].sum())


receiver = Receiver.remote()
assert ray.get(receiver.ready.remote())
meeting, store = WeightGroup.open(ray.util.get_node_ip_address(), 2, "gloo", 120.0)
received = receiver.receive.remote(meeting)
group = WeightGroup(meeting, 0, torch.device("cpu"), store)
group.send([("w", torch.empty(1000, device="meta"))], [("w", torch.arange(1000.0))])
group.flush()
print(ray.get(received))
"""


def test_new_weights_find_their_way_between_nodes(nodes: Nodes, workplace: Path) -> None:
    (workplace / "send.py").write_text(SENDER)
    environment = {**os.environ, "RAY_ADDRESS": nodes.address, "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run([sys.executable, "send.py"], cwd=workplace, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "('w', 499500.0)"  # Ray may say before that a node of another test is dead


def test_a_run_goes_on_when_a_node_dies(nodes: Nodes, workplace: Path) -> None:
    """Learners and runners are on two nodes or three; what was on the dead one starts again where there is room."""
    run = train(nodes, workplace)
    folder = workplace / "runs" / "small"
    deadline = time.monotonic() + 900
    while not (folder / "result.json").exists() or len((folder / "result.json").read_text().splitlines()) < 2:
        assert run.poll() is None, run.stdout and run.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.5)
    nodes.kill(busiest(nodes))
    text, _ = run.communicate(timeout=900)
    assert run.returncode == 0, text
    rows = [json.loads(line) for line in (folder / "result.json").read_text().splitlines()]
    assert [row["training_iteration"] for row in rows] == list(range(1, 9))
    assert (folder / "export" / "model.safetensors").exists()
    assert not (folder / ".commits").exists()


def busiest(nodes: Nodes) -> str:
    """The node, other than the driver's, with most of the run's processes."""
    names = [name for name in nodes.names if "learner" in nodes.processes(name) or "Runner" in nodes.processes(name)]
    assert names, "the run is on the driver's node alone"
    return max(names, key=lambda name: nodes.processes(name).count("RayTrainWorker"))
