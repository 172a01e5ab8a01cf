"""The processes of the examples for 8 and 32 GPUs find room on clusters of that size, whose GPUs are only declared."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table

from sharegrpo_rl.algorithms.registry import ALGORITHMS, build_config
from sharegrpo_rl.learners.placement import check_demand, learner_bundle
from sharegrpo_rl.runs.examples import find_run_file
from sharegrpo_rl.runs.run_file import load_run

pytestmark = pytest.mark.slow

GPUS_OF_A_NODE = 8


@pytest.fixture(params=[("7b-8gpus", 1), ("32b-32gpus", 4)], ids=["one node", "four nodes"])
def example_and_nodes(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """An example and a running cluster of as many nodes."""
    name, nodes = request.param
    of_each = {"num_cpus": 16, "num_gpus": GPUS_OF_A_NODE, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**of_each, "include_dashboard": False})
    for _ in range(nodes - 1):
        cluster.add_node(**of_each)
    ray.init(address=cluster.address, log_to_driver=False)
    yield f"share_grpo/multimodal_qa-qwen2_5_vl_{name}", nodes
    ray.shutdown()
    cluster.shutdown()


def nodes_of(group: PlacementGroup) -> list[str]:
    """The node of each bundle."""
    return list(placement_group_table(group)["bundles_to_node_id"].values())


def test_learners_and_runners_have_room_beside_each_other(
    example_and_nodes: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # else the declared GPUs are found to be none
    name, nodes = example_and_nodes
    spec = load_run(find_run_file(name))
    monkeypatch.setattr(
        "sharegrpo_rl.algorithms.config.check_engine", lambda engine: None
    )  # vLLM need not be installed
    config = build_config(spec.run, spec.env, spec.config, 0)
    check_demand(spec.options)
    runners = ALGORITHMS[spec.run].default_resource_request(config.to_dict())()
    learners = placement_group(
        [learner_bundle(spec.options)] * config.num_learners, strategy="PACK"
    )  # as Ray Train does
    ray.get([runners.ready(), learners.ready()], timeout=200)
    assert "GPU" not in ray.available_resources()  # all taken
    assert len(set(nodes_of(learners)) | set(nodes_of(runners))) == nodes
    assert len(nodes_of(learners)) == config.num_learners
