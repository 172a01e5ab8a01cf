"""Estimated operations against torch's count on a real step, and the shape of the estimate of time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from plan_requests import QWEN, request_for
from torch.utils.flop_counter import FlopCounterMode

from sharegrpo_rl.config import GRPOOptions
from sharegrpo_rl.models.sizes import measure
from sharegrpo_rl.planning import seconds
from sharegrpo_rl.planning.estimate import estimate_run
from sharegrpo_rl.planning.memory import Training
from sharegrpo_rl.planning.seconds import attention_operations, step_operations
from sharegrpo_rl.planning.workload import Workload, largest_micro_batch
from sharegrpo_rl.training.step import TrainingStep


@pytest.mark.parametrize("prompt_runs", [1, 6], ids=["a shared prompt", "a prompt in each row"])
def test_operations_are_those_that_a_step_runs(
    make_policy: Callable[..., Any], tiny: SimpleNamespace, prompt_runs: int
) -> None:
    torch.set_num_threads(1)
    policy = make_policy(dtype="bfloat16")
    policy.shares_prefix = prompt_runs == 1
    sizes = measure(policy.model.config)
    packs = [tiny.pack(policy, (30,) * 6, group=i, seed=i) for i in range(3)]
    step = TrainingStep(policy, GRPOOptions(lr=1e-6))
    with FlopCounterMode(display=False) as counter:
        step.update(packs)
    prompt, patches = len(packs[0].prompt.input_ids), 16
    work = Workload(prompt, 30, prompt, 30, patches, 3, 1, 6, 6, 1, 1, 1, True, prompt_runs)
    train = Training(2, sizes.parameters, False, 1, False, False, False, None)
    counted = step_operations({"max_tokens_per_microbatch": 16_384}, sizes, train, work) - 3 * attention_operations(
        sizes, work
    )  # torch counts it on the CPU since 2.14 alone, its backward pass with more products than were asked for
    by_operator = counter.get_flop_counts()["Global"]
    assert counted == pytest.approx(sum(n for op, n in by_operator.items() if "attention" not in str(op)), rel=0.05)


def test_a_model_without_the_shared_prefix_costs_its_rows() -> None:
    """As the padded path runs them: prompt, image and completion, for each completion."""
    config = request_for().config
    shared = Workload.from_config(config, QWEN["7B"], 10, prompt_tokens=300, completion_tokens=24)
    rows = Workload.from_config(config, replace(QWEN["7B"], obstacle="a window"), 10, 300, 24)
    assert (shared.pack, rows.pack) == (300 + shared.rows * 24, shared.rows * 324)
    micro = largest_micro_batch(rows, 3240, 1)
    assert (micro.rows, micro.prompts, micro.images) == (10, 10, 10)
    one, other = (
        estimate_run(replace(request_for(), sizes=s)) for s in (QWEN["7B"], replace(QWEN["7B"], obstacle="a window"))
    )
    assert one.seconds is not None
    assert other.seconds is not None
    assert other.seconds.learning > 4 * one.seconds.learning
    assert any("a window" in note for p in other.processes for note in p.notes)


def test_twice_the_learners_learn_in_half_the_time() -> None:
    apart = {"engine": "vllm", "num_env_runners": 2}
    two, four = (estimate_run(request_for(num_learners=n, **apart)).seconds for n in (2, 4))
    assert two is not None
    assert four is not None
    assert two.learning == pytest.approx(2 * four.learning)
    assert two.generating == four.generating
    assert two.run == pytest.approx(10 * (two.generating + two.learning + two.syncing))


def test_rollouts_one_step_ahead_overlap() -> None:
    apart = {"engine": "vllm", "num_env_runners": 2, "num_learners": 2}
    found = estimate_run(request_for(max_staleness=1, **apart)).seconds
    assert found is not None
    assert found.iteration == max(found.generating, found.learning) + found.syncing


def test_a_reference_and_later_minibatches_take_forwards() -> None:
    def learning(**config: Any) -> float:
        found = estimate_run(request_for("3B", **config)).seconds
        assert found is not None
        return found.learning

    assert learning(kl_coeff=0.1) > learning()
    assert learning(minibatch_size=4) > learning(minibatch_size=16)
    # What is corrected for takes the first minibatch's log-probs in a pass of its own: a third of its step's forward.
    assert learning(max_staleness=1, num_env_runners=1) == pytest.approx(learning(rollout_correction="truncate"))
    assert learning(rollout_correction="truncate") > learning()
    assert learning(temperature=0.9, logprob_temperature=1.0) > learning()
    assert learning(activation_checkpointing="full") > learning()


def test_a_pack_that_is_cut_runs_its_prompt_again() -> None:
    """12 completions of 1,024 tokens behind a prompt of 1,593: two parts of at most 8,192."""
    config = request_for().config
    work = replace(Workload.from_config(config, QWEN["7B"], 10), prompt=1593, completion=1024, rows=12, patches=0)
    assert (work.pieces(16_384), work.pieces(8192), work.pieces(4096)) == (1, 2, 5)
    train = Training(2, QWEN["7B"].parameters, False, 1, False, False, False, "none")
    whole, cut = (
        step_operations({"max_tokens_per_microbatch": budget}, QWEN["7B"], train, work) for budget in (16_384, 8192)
    )
    unique, again = 1593 + 12 * 1024, 2 * 1593 + 12 * 1024
    assert cut / whole == pytest.approx(again / unique, rel=0.05)


def test_new_weights_take_a_second_a_gigabyte_through_the_object_store() -> None:
    apart = {"engine": "hf", "num_env_runners": 2, "num_learners": 2}
    adapter = {**apart, "engine": "vllm", "lora": {"r": 8, "target_modules": ["language"]}}
    sent, adapters, nowhere = (
        estimate_run(request_for(**config)).seconds for config in (apart, adapter, {"engine": "vllm"})
    )
    assert sent is not None
    assert adapters is not None
    assert nowhere is not None
    assert sent.syncing == pytest.approx(2 * QWEN["7B"].total / 1e9)
    assert adapters.syncing == nowhere.syncing == 0


def test_an_engine_draws_seeded_tokens_one_by_one() -> None:
    """10 us for each token."""
    apart = {"engine": "vllm", "num_env_runners": 2, "num_learners": 2, "num_gpus_per_env_runner": 1.0}
    request = request_for(**apart)
    with_seeds = estimate_run(request).seconds
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seconds, "SEEDED", 0.0)
        without = estimate_run(request).seconds
    assert with_seeds is not None
    assert without is not None
    work = estimate_run(request).work
    tokens = work.prompts * work.samples / 2 * work.completion
    assert with_seeds.generating - without.generating == pytest.approx(tokens * 1e-5)


def test_gpus_of_one_engine_exchange_hidden_states_twice_a_layer() -> None:
    config = {"engine": "vllm", "num_env_runners": 1, "num_learners": 2, "num_gpus_per_env_runner": 4.0}
    request = request_for("32B", **config, vllm={"tensor_parallel_size": 4})
    found = estimate_run(request).seconds
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seconds, "ALL_REDUCE", 0.0)
        patch.setattr(seconds, "LINK", float("inf"))  # of weights on their way too
        without = estimate_run(request).seconds
    assert found is not None
    assert without is not None
    work, text = estimate_run(request).work, QWEN["32B"].text
    exchanges = 2 * text.layers
    sequences = work.prompts * work.samples
    steps = sequences / min(256, sequences) * work.completion
    latency = steps * exchanges * 1.5e-5
    tokens = work.prompts * (work.samples * work.completion + work.prompt)
    moved = tokens * exchanges * text.hidden * 2 / (0.5 * 450e9)
    assert found.generating - without.generating == pytest.approx(latency + moved)


@pytest.mark.parametrize(
    ("key", "config", "told"),
    [
        ("rollout_timeout_s", {"rollout_timeout_s": 1.0}, "an iteration's completions may take"),
        ("weight_sync_timeout_s", {"weight_sync_timeout_s": 0.1}, "new weights may take"),
        ("vllm.start_timeout_s", {"vllm": {"start_timeout_s": 200.0}}, "an engine's start may take"),
        ("learner_timeout_s", {"learner_timeout_s": 60.0}, "a rank's part of a checkpoint may take"),
        (
            "learner_timeout_s",
            {"learner_timeout_s": 60.0, "lora": {"r": 8}, "sharding": "fsdp2"},
            "loading the model may take",
        ),
    ],
)
def test_deadlines_near_the_estimate_are_told_with_a_better_one(key: str, config: dict[str, Any], told: str) -> None:
    apart = {"engine": "vllm", "num_env_runners": 2, "num_learners": 2, "num_gpus_per_env_runner": 1.0}
    estimate = estimate_run(request_for(**apart))
    assert estimate.deadlines == ()
    late = estimate_run(request_for(**{**apart, **config}))
    (deadline,) = late.deadlines
    assert late.fits is False
    assert deadline.startswith(f"{key}: ")
    assert told in deadline
    raised = float(deadline.rsplit(" ", 1)[1])
    section, _, name = key.rpartition(".")
    longer = {**config, **({section: {name: raised}} if section else {name: raised})}
    assert estimate_run(request_for(**{**apart, **longer})).deadlines == ()


def test_between_gpus_new_weights_travel_at_the_slowest_link() -> None:
    def syncing(learners: int, gpu: str) -> float:
        found = estimate_run(request_for(gpu=gpu, engine="vllm", num_env_runners=2, num_learners=learners)).seconds
        assert found is not None
        return found.syncing

    sent = 2 * QWEN["7B"].total
    assert syncing(6, "h100-80") == pytest.approx(sent / (0.5 * 450e9))
    assert syncing(6, "l40s-48") == pytest.approx(sent / (0.5 * 32e9))
    assert syncing(7, "h100-80") == pytest.approx(sent / (0.5 * 12.5e9))  # more GPUs than a node has
