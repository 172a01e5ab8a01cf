"""One process, one rank, two ranks with DDP and with FSDP2 train the same: real processes on gloo, pictures and text."""

import numpy as np
import pytest
import torch
from rank_cases import LORA, Case, compared, made_step, packs_of, run_case, settings_of, trained, write_model
from rank_processes import on_ranks
from torch.distributed.tensor import DTensor

from sharegrpo_rl.training.batching import gather_kl, plan_kl, plan_update
from sharegrpo_rl.training.sharding import Ranks, full_tensor, local_part, shard

FIVE = (1, 0, 2, 1, 1)
CASES = {
    "plain": Case(),
    "five questions": Case(pictures=FIVE),
    "one picture": Case(pictures=(0, 0, 0, 1), training={"max_tokens_per_microbatch": 1000}),
    "no picture": Case(pictures=(0, 0, 0)),
    "one question": Case(pictures=(1,)),
    "minibatches and epochs": Case(pictures=FIVE, training={"minibatch_size": 2, "num_epochs": 2}),
    "reference": Case(training={"kl_coeff": 0.1, "minibatch_size": 2}),
    "correction": Case(shared=True, training={"rollout_correction": "truncate", "minibatch_size": 3}),
    "lora": Case(model={"lora": LORA}),
    "lora, adapters off": Case(model={"lora": LORA}, training={"kl_coeff": 0.1, "minibatch_size": 2, "lr": 1e-2}),
    "frozen tower": Case(model={"freeze_vision_tower": True}),
    "frozen vision": Case(model={"freeze_vision_tower": True, "freeze_projector": True}),
    "checkpointing": Case(model={"activation_checkpointing": "full"}),
    "checkpointing, products kept": Case(model={"activation_checkpointing": "selective"}),
    "sequence ratio": Case(
        shared=True, training={"ratio_level": "sequence_product", "loss_aggregation": "question_mean"}
    ),
    "supervised": Case(training={"loss": "likelihood"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("ranks") / "model")


@pytest.fixture(scope="module")
def alone(folder):
    """The metrics of a case in one process, run once."""
    known = {}

    def metrics(name):
        if name not in known:
            known[name] = compared(run_case(folder, CASES[name], None))
        return known[name]

    return metrics


def assert_close(found, expected, tolerance=1e-5):
    for one, other in zip(compared(found), expected, strict=True):
        assert one == pytest.approx(other, rel=tolerance, abs=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_train_as_one_process_does(folder, alone, name, sharding):
    first, second = on_ranks(2, run_case, folder, CASES[name], sharding)
    assert first == second
    assert_close(first, alone(name))


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
def test_one_rank_trains_as_one_process_does(folder, alone, sharding):
    (only,) = on_ranks(1, run_case, folder, CASES["minibatches and epochs"], sharding)
    assert_close(only, alone("minibatches and epochs"))


@pytest.mark.slow
def test_cpu_offload_trains_the_same(folder, alone):
    """Here everything is in host memory anyway; what is shown is that its path runs."""
    first, second = on_ranks(2, run_case, folder, CASES["five questions"], "offloaded")
    assert first == second
    assert_close(first, alone("five questions"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["minibatches and epochs", "reference", "lora, adapters off"])
def test_copies_that_are_sharded_train_as_one_process_does(folder, alone, name):
    """Two copies of the model, each over two of four ranks."""
    found = on_ranks(4, run_case, folder, CASES[name], "hsdp")
    assert all(other == found[0] for other in found)
    assert_close(found[0], alone(name))


def updated(folder, sharding):
    """Gradients are summed alike: weights after an update, whole, and the sizes of this rank's parts."""
    step = made_step(folder, CASES["plain"], sharding)
    trained(step, CASES["plain"], [0])
    named = dict(step.policy.model.named_parameters())
    return (
        {n: full_tensor(p.detach()) for n, p in named.items()},
        sum(local_part(p).numel() for p in named.values()) / sum(p.numel() for p in named.values()),
    )


@pytest.mark.slow
def test_copies_that_are_sharded_get_the_weights_of_one_that_is(folder):
    """Adam's first step divides a gradient by its size: a gradient of 0 but for rounding may move a weight either way."""
    over_four, copies = (on_ranks(4, updated, folder, sharding) for sharding in ("fsdp2", "hsdp"))
    for (expected, quarter), (found, half) in zip(over_four, copies, strict=True):
        assert (quarter, half) == (pytest.approx(0.25, abs=0.02), pytest.approx(0.5, abs=0.02))
        apart = torch.cat([(found[n] - w).abs().flatten() for n, w in expected.items()])
        assert (apart > 1e-5).float().mean() < 0.001
        assert all(torch.equal(found[n], w) for n, w in copies[0][0].items())


def micro_batches_of(policy, case, ranks=2):
    shares = plan_update(packs_of(policy, case, 0), settings_of(case), ranks)
    return [[m for b in s.minibatches for m in b.micro] for s in shares]


def test_the_cases_have_what_they_are_for(policy):
    """A rank with text alone and a filler; a rank that trains copies of completions which are native to the other."""
    work = micro_batches_of(policy, CASES["one picture"])
    own = [[p for m in micro for p in m.packs[: len(m.packs) - m.fillers]] for micro in work]
    assert any(not any(p.prompt.images for p in packs) for packs in own)
    assert any(m.fillers for micro in work for m in micro)
    work = micro_batches_of(policy, CASES["correction"])
    native, copied = (
        [
            {id(c) for m in micro for p in m.packs for c, n in zip(p.completions, p.native, strict=True) if n == wanted}
            for micro in work
        ]
        for wanted in (True, False)
    )
    assert copied[0] & native[1] - native[0] or copied[1] & native[0] - native[1]


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
def test_a_gradient_that_is_not_finite_is_left_out_on_all_ranks(folder, sharding):
    """It comes from one question, and so from one rank."""
    case = Case(spoiled=1)
    first, second = on_ranks(2, run_case, folder, case, sharding)
    assert [m["optimizer_steps"] for m in first] == [m["optimizer_steps"] for m in second] == [1, 1, 2]
    assert [m["skipped_steps"] for m in first] == [0, 1, 1]
    expected = compared(run_case(folder, case, None))
    assert_close([first[0], first[2]], [expected[0], expected[2]])


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
def test_bfloat16_stays_close(folder, sharding):
    """Micro-batches are other ones on two ranks, and each rounds its sums: 8 bits leave about 1 % of a norm open."""
    case = Case(model={"dtype": "bfloat16"})
    first, second = on_ranks(2, run_case, folder, case, sharding)
    assert first == second
    for one, other in zip(first, run_case(folder, case, None), strict=True):
        for key in ("policy_loss", "grad_norm", "entropy", "ratio_mean"):
            assert one[key] == pytest.approx(other[key], rel=0.02, abs=0.02), key


def shards_of(folder, dtype):
    step = made_step(folder, Case(model={"dtype": dtype}), "fsdp2")
    trained(step, Case(), [0])
    weights = list(step.policy.model.parameters())
    moments = [s["exp_avg"] for s in step.optimizer.state.values()]
    assert all(isinstance(t, DTensor) for t in [*weights, *moments])
    return (
        sum(p.numel() for p in weights),
        sum(p.to_local().numel() for p in weights),
        sum(m.to_local().numel() for m in moments),
        {p.dtype for p in weights},
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_rank_holds_its_part_of_weights_and_moments_in_float32(folder, dtype):
    shards = on_ranks(2, shards_of, folder, dtype)
    for everything, weights, moments, types in shards:
        assert weights == moments
        assert weights == pytest.approx(everything / 2, rel=0.01)
        assert types == {torch.float32}


def weights_after_sharding(folder):
    step = made_step(folder, Case(), None)
    with torch.no_grad():
        for p in step.policy.model.parameters():
            p += Ranks.current().rank
    shard(step.policy, "ddp")
    return [p.detach().clone() for p in step.policy.model.parameters()]


@pytest.mark.slow
def test_ddp_starts_from_the_weights_of_rank_0(folder):
    first, second = on_ranks(2, weights_after_sharding, folder)
    expected = list(made_step(folder, Case(), None).policy.model.parameters())
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(first, second, expected, strict=True))


REWARD_KL = Case(pictures=FIVE, training={"kl_coeff": 0.1, "kl_in_reward": True})


def kl_parts(folder, sharding):
    step = made_step(folder, REWARD_KL, sharding)
    packs = packs_of(step.policy, REWARD_KL, 0)
    return step.kl_of(plan_kl(packs, step.options, 2)[step.ranks.rank])


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
def test_the_reference_s_kl_is_the_same(folder, sharding):
    step = made_step(folder, REWARD_KL, None)
    packs = packs_of(step.policy, REWARD_KL, 0)
    found = gather_kl(packs, on_ranks(2, kl_parts, folder, sharding))
    for one, other in zip(found, step.reference_kl(packs), strict=True):
        assert np.abs(other).min() > 1e-3
        assert one == pytest.approx(other, rel=1e-5, abs=1e-5)


def test_a_wrong_sharding_is_named(policy):
    with pytest.raises(ValueError, match="ddp or fsdp2, not 'zero3'"):
        shard(policy, "zero3")


def test_alone_every_sum_is_the_value_itself():
    ranks = Ranks.current()
    assert (ranks.rank, ranks.size, ranks.sum([1.5, 2.0]), ranks.max([-1.0])) == (0, 1, [1.5, 2.0], [-1.0])
