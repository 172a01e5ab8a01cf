"""Weights in bfloat16 are trained through float32 copies: small steps add up, and a checkpoint goes on exactly."""

import copy

import pytest
import torch

from sharegrpo_rl.config import GRPOOptions
from sharegrpo_rl.training.optimizer import MasterWeightsAdamW, build_optimizer
from sharegrpo_rl.training.step import TrainingStep


def weights(dtype: torch.dtype = torch.bfloat16, size: int = 6) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.linspace(-2, 2, size, dtype=torch.float32).to(dtype))


def optimizer_of(*parameters: torch.nn.Parameter, lr: float = 1e-4) -> MasterWeightsAdamW:
    return MasterWeightsAdamW([{"params": list(parameters)}], lr=lr, weight_decay=0.01)


def take(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter, gradients: list[float]) -> None:
    optimizer.zero_grad(set_to_none=True)
    for gradient in gradients:
        (parameter.float() * gradient).sum().backward()
    optimizer.step()


def test_steps_far_below_the_resolution_of_bfloat16_add_up() -> None:
    trained, lost = weights(), weights()
    exact = torch.nn.Parameter(trained.detach().float())
    ours = optimizer_of(trained)
    plain = [torch.optim.AdamW([p], lr=1e-4, weight_decay=0.01) for p in (lost, exact)]
    for step in range(300):
        for optimizer, parameter in zip([ours, *plain], [trained, lost, exact], strict=True):
            take(optimizer, parameter, [1.0 + step % 3])
    assert torch.equal(trained.detach(), exact.detach().bfloat16())
    assert (exact.detach() - weights().detach().float()).abs().min() > 0.02
    assert torch.equal(lost.detach()[[0, -1]], weights().detach()[[0, -1]])  # what happens without copies


def test_gradients_of_micro_batches_are_summed_in_float32() -> None:
    parameter = weights()
    optimizer = optimizer_of(parameter)
    take(optimizer, parameter, [256.0, *[0.5] * 8])  # in bfloat16, 256 + 0.5 is 256
    (master,) = optimizer.param_groups[0]["params"]
    assert torch.equal(master.grad, torch.full_like(master, 260.0))
    assert parameter.grad is None
    optimizer.zero_grad(set_to_none=True)
    assert master.grad is None


def test_float32_parameters_are_their_own_masters() -> None:
    parameter = weights(torch.float32)
    optimizer = optimizer_of(parameter)
    assert optimizer.param_groups[0]["params"] == [parameter]
    assert "master_weights" not in optimizer.state_dict()


def test_a_checkpoint_goes_on_exactly_and_others_are_refused() -> None:
    unbroken, saved = weights(), weights()
    first, second = optimizer_of(unbroken), optimizer_of(saved)
    for optimizer, parameter in ((first, unbroken), (second, saved)):
        for _ in range(7):
            take(optimizer, parameter, [3.0])
    state = copy.deepcopy(second.state_dict())
    resumed = torch.nn.Parameter(saved.detach().clone())
    third = optimizer_of(resumed)
    third.load_state_dict(state)
    for optimizer, parameter in ((first, unbroken), (third, resumed)):
        for _ in range(60):
            take(optimizer, parameter, [-2.0])
    assert torch.equal(*(optimizer.param_groups[0]["params"][0] for optimizer in (first, third)))
    assert torch.equal(unbroken, resumed)
    with pytest.raises(ValueError, match="no float32 copies of these weights"):
        optimizer_of(weights(size=5)).load_state_dict(state)


def test_weights_set_from_outside_are_not_undone() -> None:
    parameter = weights()
    optimizer = optimizer_of(parameter)
    take(optimizer, parameter, [1.0])
    parameter.data.fill_(8.0)
    take(optimizer, parameter, [1.0])
    assert torch.equal(parameter.detach(), torch.full_like(parameter, 8.0))
    (master,) = optimizer.param_groups[0]["params"]
    assert 0 < (8.0 - master).max() < 0.01


def test_the_newest_optimizer_gets_the_gradients() -> None:
    parameter = weights()
    older, newer = optimizer_of(parameter), optimizer_of(parameter)
    parameter.float().sum().backward()
    assert older.param_groups[0]["params"][0].grad is None
    assert newer.param_groups[0]["params"][0].grad is not None


def test_a_bfloat16_policy_is_trained_at_a_rate_of_real_runs(make_policy, tiny) -> None:
    policy = make_policy(dtype="bfloat16")
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    step = TrainingStep(policy, GRPOOptions(lr=1e-6))
    packs = [tiny.pack(policy, (3, 1), (1.0, -1.0), group=g) for g in range(2)]
    for _ in range(3):
        assert step.update(packs)["grad_norm"] > 0
    copies = [p for group in step.optimizer.param_groups for p in group["params"]]
    assert {p.dtype for p in copies} == {torch.float32}
    assert all(p.dtype == torch.bfloat16 for p in policy.model.parameters())
    names = {id(p): name for name, p in policy.model.named_parameters()}
    moved = [(c - before[names[id(p)]].float()).abs().max() for p, c in step.optimizer._pairs]
    assert min(moved) > 1e-7  # in bfloat16 alone, most would not have moved at all
    assert len(moved) == len(before)


def test_a_float32_policy_keeps_its_optimizer(make_policy) -> None:
    policy = make_policy()
    optimizer = build_optimizer(policy.model, GRPOOptions())
    ours = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert ours == {id(p) for p in policy.model.parameters()}
