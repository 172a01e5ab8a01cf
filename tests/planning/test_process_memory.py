"""Plans against sizes worked out by hand, and what must follow from what."""

from __future__ import annotations

from typing import Any

import pytest
from plan_requests import QWEN, request_for

from sharegrpo_rl.planning.estimate import Process, RunEstimate, estimate_run
from sharegrpo_rl.planning.gpus import GIB
from sharegrpo_rl.planning.memory import kv_bytes
from sharegrpo_rl.planning.remedies import changed, remedies
from sharegrpo_rl.planning.workload import largest_micro_batch

APART = {"num_learners": 2, "num_env_runners": 2, "engine": "vllm"}


def parts(process: Process) -> dict[str, int]:
    return {p.name: p.bytes for p in process.parts}


@pytest.mark.parametrize(("size", "billions"), [("3B", 3.754623), ("7B", 8.292167), ("32B", 33.452718)])
def test_weights_gradients_and_optimizer_by_hand(size: str, billions: float) -> None:
    """Mixed precision: 2 bytes of weights, 4 of gradients, 8 of moments, 4 of master weights for each parameter."""
    learner = estimate_run(request_for(size, **APART)).processes[0]
    expected = {"weights": 2, "gradients": 4, "optimizer": 8, "master weights": 4}
    for name, bytes_each in expected.items():
        assert parts(learner)[name] == pytest.approx(bytes_each * billions * 1e9, rel=1e-5)
    single = parts(estimate_run(request_for(size, dtype="float32", **APART)).processes[0])
    assert single["weights"] == pytest.approx(4 * billions * 1e9, rel=1e-5)
    assert "master weights" not in single


@pytest.mark.parametrize(("size", "expected"), [("3B", 36_864), ("7B", 57_344), ("32B", 262_144), ("72B", 327_680)])
def test_keys_and_values_of_a_token_by_hand(size: str, expected: int) -> None:
    """2 x layers x key-value heads x 128 x 2 bytes, as vLLM reports it."""
    assert kv_bytes(QWEN[size], 2) == expected
    assert kv_bytes(QWEN[size], 2, 2) == expected // 2


def test_more_gpus_than_key_value_heads_repeat_them() -> None:
    assert kv_bytes(QWEN["3B"], 2, 8) == kv_bytes(QWEN["3B"], 2, 2)


def test_fsdp2_holds_a_share_in_float32_and_loads_the_whole() -> None:
    total = QWEN["7B"].total
    spread = APART | {"num_learners": 4, "sharding": "fsdp2"}
    learner = estimate_run(request_for(**spread)).processes[0]
    held = parts(learner)
    assert held["weights"] == held["gradients"] == total * 4 // 4
    assert held["optimizer"] == 2 * total
    assert "master weights" not in held
    assert learner.bytes_in("loading") > 2 * total


def test_copies_over_fewer_learners_take_more_of_each() -> None:
    spread = APART | {"num_learners": 8, "sharding": "fsdp2"}
    whole, copies = (parts(estimate_run(request_for(**spread | c)).processes[0]) for c in ({}, {"fsdp_size": 4}))
    assert all(copies[part] == 2 * whole[part] for part in ("weights", "gradients", "optimizer"))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_learners": 6, "sharding": "fsdp2", "fsdp_size": 4}, "6 learners cannot be divided into copies over 4"),
        ({"num_learners": 4, "fsdp_size": 2}, "fsdp_size: needs sharding: fsdp2, not ddp"),
    ],
)
def test_copies_that_cannot_be_made_are_refused(changes: dict[str, Any], problem: str) -> None:
    assert any(problem in said for said in estimate_run(request_for(**APART | changes)).problems)


def test_offloaded_states_leave_the_gpu() -> None:
    spread = APART | {"sharding": "fsdp2", "cpu_offload": True}
    learner = estimate_run(request_for(**spread)).processes[0]
    assert not {"weights", "gradients", "optimizer"} & set(parts(learner))
    assert "in host memory" in learner.notes[1]


def test_lora_trains_adapters_alone() -> None:
    lora = {"r": 64, "target_modules": ["language"]}
    plan = estimate_run(request_for(lora=lora, kl_coeff=0.1, **APART))
    held = parts(plan.processes[0])
    assert plan.trained == 64 * QWEN["7B"].lora_width["language model"]
    assert held["adapters"] == held["gradients"] == 4 * plan.trained
    assert not {"master weights", "reference"} & set(held)  # the model without its adapters is the reference


def test_a_reference_is_one_more_model() -> None:
    held = parts(estimate_run(request_for(kl_coeff=0.1, **APART)).processes[0])
    assert held["reference"] == held["weights"]


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_checkpointing": "full"},
        {"max_tokens_per_microbatch": 4096},
        {"freeze_vision_tower": True},
        {"lora": {"r": 8}},
        {"sharding": "fsdp2"},
        {"max_pixels": 200_704, "activation_checkpointing": "full"},
    ],
    ids=str,
)
def test_what_is_said_to_save_memory_does(changes: dict[str, Any]) -> None:
    plain, less = (estimate_run(request_for("3B", **APART | c)).processes[0].total for c in ({}, changes))
    assert less < plain


def test_checkpointing_that_keeps_products_lies_between() -> None:
    on = {"activation_checkpointing": "full"}
    nothing, products, off = (
        estimate_run(request_for("3B", **APART | c)).processes[0].total
        for c in (on, on | {"activation_checkpointing": "selective"}, {})
    )
    assert nothing < products < off


def test_one_process_has_the_model_once() -> None:
    (driver,) = estimate_run(request_for("3B")).processes
    assert [p.name for p in driver.parts].count("weights") == 1
    assert {"KV cache", "optimizer"} <= set(parts(driver))


def test_a_sleeping_engine_gives_its_memory_back() -> None:
    engines = [{"engine": "vllm", "vllm": {"gpu_memory_utilization": 0.3, "sleep": sleep}} for sleep in (True, False)]
    asleep, awake = (estimate_run(request_for("3B", **e)).processes[0].total for e in engines)
    assert asleep < awake


def test_an_engine_takes_its_share_and_no_more() -> None:
    vllm = {"gpu_memory_utilization": 0.9}
    _, engine = estimate_run(request_for(**APART, vllm=vllm)).processes
    assert engine.total == pytest.approx(0.9 * 81_559 * 2**20, rel=1e-6)
    assert engine.fits
    _, engine = estimate_run(request_for("32B", gpu="a100-40", **APART, vllm=vllm)).processes
    assert engine.fits is False


def test_sft_samples_nothing() -> None:
    plan = estimate_run(request_for("3B", run="SFT"))
    assert [p.kind for p in plan.processes] == ["driver: learner"]
    assert plan.work.samples == 0


def test_share_grpo_trains_every_completion_under_every_variant() -> None:
    work = estimate_run(request_for(num_questions=16, num_variants=3, num_generations=4)).work
    assert (work.prompts, work.samples, work.rows) == (48, 4, 12)


def test_a_micro_batch_keeps_to_the_budget_or_the_longest_sequence() -> None:
    work = estimate_run(request_for(max_prompt_tokens=1024, max_completion_tokens=512)).work
    assert largest_micro_batch(work, 8192, 1).tokens == 8192
    assert largest_micro_batch(work, 100, 1).tokens == work.longest == 1536
    few = estimate_run(request_for(num_questions=2, num_variants=1, num_generations=2)).work
    assert largest_micro_batch(few, 10**9, 1).tokens == 2 * (few.prompt + 2 * few.completion_limit)


def test_without_a_gpu_there_is_no_verdict() -> None:
    plan = estimate_run(request_for(gpu=None))
    assert plan.fits is None
    assert plan.seconds is None


def test_a_file_without_gpus_is_planned_on_them() -> None:
    plan = estimate_run(request_for(num_gpus_per_learner=0.0, num_gpus_per_env_runner=0.0))
    assert plan.gpus == 1
    assert "asks for no GPU" in plan.notes[0]


def test_settings_that_cannot_be_run_together() -> None:
    wide = estimate_run(request_for(**APART, vllm={"tensor_parallel_size": 4}))
    assert "num_gpus_per_env_runner: 1 is not vllm.tensor_parallel_size (4)" in wide.problems[0]
    assert wide.fits is False
    assert "cpu_offload" in estimate_run(request_for(cpu_offload=True)).problems[0]


UNFIT: list[tuple[str, str, dict[str, Any]]] = [
    ("7B", "h100-80", {}),
    ("7B", "rtx4090-24", {}),
    ("7B", "a100-40", APART),
    ("32B", "h100-80", APART),
    ("3B", "rtx4090-24", {"dtype": "float32"}),
    ("3B", "h100-80", {"max_tokens_per_microbatch": 65536, "lora": {"r": 16}}),
]


@pytest.mark.parametrize(("size", "gpu", "config"), UNFIT)
def test_remedies_fit_and_need_every_change(size: str, gpu: str, config: dict[str, Any]) -> None:
    asked = request_for(size, gpu, **config)
    plan = estimate_run(asked)
    assert plan.fits is False
    found = remedies(asked, plan)
    assert set(found) == {p.kind for p in plan.processes if not p.fits}
    for kind, ways in found.items():
        assert ways
        for changes in ways:
            assert _fits(estimate_run(changed(asked, changes)), kind)
            for key in changes:
                fewer = {k: v for k, v in changes.items() if k != key}
                assert not _fits(estimate_run(changed(asked, fewer)), kind)


def _fits(plan: RunEstimate, kind: str) -> bool:
    same = [p for p in plan.processes if p.kind == kind] or plan.processes
    return not plan.problems and all(p.fits for p in same)


def test_nothing_is_proposed_where_everything_fits() -> None:
    asked = request_for("3B", "h200-141", activation_checkpointing="full")
    assert estimate_run(asked).fits
    assert remedies(asked, estimate_run(asked)) == {}


def test_parts_add_up() -> None:
    for process in estimate_run(request_for(**APART)).processes:
        assert process.total == sum(p.bytes for p in process.parts if p.phase in ("always", process.peak_phase))
        assert all(p.bytes < 200 * GIB for p in process.parts)
