"""Examples for GPUs: each says for which type and whether it was run, and its plan says that it fits there."""

from __future__ import annotations

import re

import pytest

from sharegrpo_rl.models.sizes import known_sizes
from sharegrpo_rl.planning.estimate import EstimateRequest, estimate_run
from sharegrpo_rl.planning.gpus import GPUS
from sharegrpo_rl.planning.remedies import remedies
from sharegrpo_rl.runs.examples import list_examples
from sharegrpo_rl.runs.run_file import load_run

GPU_LINE = re.compile(r"^# gpu: ([\w-]+)(?:, (\d+))?", re.MULTILINE)
TYPES = {name: found[1] for name, path in list_examples().items() if (found := GPU_LINE.search(path.read_text()))}
ROWS = {name for name in list_examples() if name.startswith("papers/")}
GPUS_IN_ALL = {
    "grpo_d/counting-qwen2_vl_2b": 1,
    "grpo_d/geometry-qwen2_vl_2b": 1,
    "share_grpo/multimodal_qa-qwen2_5_vl_3b-24gb": 1,
    "share_grpo/multimodal_qa-qwen2_5_vl_7b": 1,
    "share_grpo/multimodal_qa-qwen2_5_vl_7b-8gpus": 8,
    "share_grpo/multimodal_qa-qwen2_5_vl_7b-8gpus-one_step_ahead": 8,
    "share_grpo/multimodal_qa-qwen3_5_9b": 1,
    "share_grpo/multimodal_qa-qwen3_vl_8b": 1,
    "share_grpo/multimodal_qa-qwen2_5_vl_32b-32gpus": 32,
}
VERIFIED = re.compile(r"^# verified: (not run|\S.*, \d{4}-\d{2}-\d{2}, [0-9a-f]{7,40})$", re.MULTILINE)


def test_every_example_for_gpus_is_here() -> None:
    assert set(TYPES) == set(GPUS_IN_ALL) | ROWS


SEARCHES = {"papers/grpo_d/fig4-alpha", "papers/grpo_d/fig6-kl"}  # `tune` runs these


@pytest.mark.parametrize("name", sorted(ROWS - SEARCHES))
def test_a_paper_s_row_fits_the_machine_that_its_header_names(name: str) -> None:
    """All 80 GB each; a row that starts from an export is as large as the model that the export was."""
    text = list_examples()[name].read_text()
    spec = load_run(list_examples()[name])
    sizes = known_sizes(spec.config["model"])
    if sizes is None:
        size = re.search(r"-(\d)b", spec.config["model"])
        assert size is not None
        sizes = known_sizes(f"Qwen/Qwen2-VL-{size[1]}B-Instruct")
        assert sizes is not None
    plan = estimate_run(EstimateRequest(spec.config, spec.iterations, sizes, GPUS[TYPES[name]]))
    assert plan.fits
    assert plan.notes == ()
    line = GPU_LINE.search(text)
    assert line is not None
    assert plan.gpus == int(line[2])


def test_the_rows_of_r1_sharevl_have_the_paper_s_gpus() -> None:
    """Section 4.1: 8 H100 for 7B, 32 for 32B."""
    for name in ROWS:
        if "share_grpo" in name:
            line = GPU_LINE.search(list_examples()[name].read_text())
            assert line is not None
            assert int(line[2]) == (32 if "32b" in name else 8)


@pytest.mark.parametrize("name", GPUS_IN_ALL)
def test_the_plan_says_that_it_fits(name: str) -> None:
    spec = load_run(list_examples()[name])
    sizes = known_sizes(spec.config["model"])
    assert sizes is not None
    plan = estimate_run(EstimateRequest(spec.config, spec.iterations, sizes, GPUS[TYPES[name]]))
    assert plan.fits
    assert plan.notes == ()
    assert plan.gpus == GPUS_IN_ALL[name]


@pytest.mark.parametrize("name", GPUS_IN_ALL)
def test_it_says_whether_it_was_run(name: str) -> None:
    """`not run`, or machine, date and commit."""
    assert VERIFIED.search(list_examples()[name].read_text())


@pytest.mark.parametrize(("model", "row"), [("7b-8gpus", "7b"), ("32b-32gpus", "32b")])
def test_the_paper_s_runs_differ_from_their_rows_in_machines_alone(model: str, row: str) -> None:
    ours = load_run(list_examples()[f"share_grpo/multimodal_qa-qwen2_5_vl_{model}"])
    paper = load_run(list_examples()[f"papers/share_grpo/table1-r1_sharevl_{row}"])
    resources = {"num_learners", "num_gpus_per_learner", "sharding", "num_env_runners", "num_gpus_per_env_runner"}
    resources |= {"engine", "vllm", "max_tokens_per_microbatch", "checkpoint_interval", "learner_commit_interval"}
    assert {key for key, value in ours.config.items() if paper.config[key] != value} <= resources
    assert ours.stop == paper.stop


def test_one_step_ahead_idles_less() -> None:
    """The same run but for the key; its header says what the plan does."""
    plain, ahead = (
        load_run(list_examples()[f"share_grpo/multimodal_qa-qwen2_5_vl_7b-8gpus{name}"])
        for name in ("", "-one_step_ahead")
    )
    assert {key for key, value in ahead.config.items() if plain.config[key] != value} == {"max_staleness"}
    sizes = known_sizes(plain.config["model"])
    assert sizes is not None
    minutes = []
    for spec in (plain, ahead):
        seconds = estimate_run(EstimateRequest(spec.config, spec.iterations, sizes, GPUS["h100-80"])).seconds
        assert seconds is not None
        minutes.append(seconds.iteration / 60)
    header = list_examples()["share_grpo/multimodal_qa-qwen2_5_vl_7b-8gpus-one_step_ahead"].read_text()
    assert f"By the plan {minutes[1]:.1f} minutes an iteration instead of {minutes[0]:.1f}" in header


KNOWN_BY_NAME = [
    n for n, path in list_examples().items() if re.search(r"model: (Qwen/|models/SmolLM2)", path.read_text())
]


@pytest.mark.parametrize("name", sorted(set(KNOWN_BY_NAME) - SEARCHES))
def test_every_example_of_a_known_model_has_a_plan(name: str) -> None:
    spec = load_run(list_examples()[name])
    sizes = known_sizes(spec.config["model"])
    assert sizes is not None
    request = EstimateRequest(spec.config, spec.iterations, sizes, GPUS["h100-80"])
    plan = estimate_run(request)
    found = remedies(request, plan)
    assert all(found.values())  # whatever does not fit has a way out
    assert set(found) == {p.kind for p in plan.processes if p.fits is False}
