"""The RLModule and the Learner: weights through numpy, safetensors and RLlib's own state, bit for bit."""

from copy import deepcopy
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from sharegrpo_rl.algorithms.registry import build_config
from sharegrpo_rl.data.types import PixelInput
from sharegrpo_rl.learners.learner import fetch_pixels
from sharegrpo_rl.learners.module import VLMRLModule
from sharegrpo_rl.models.loading import ModelSettings, load_policy, save_pretrained
from sharegrpo_rl.models.prompts import PromptSettings

PROMPTS = PromptSettings(max_prompt_tokens=512, min_pixels=784, max_pixels=3136)


@pytest.fixture(scope="module")
def folder(policy, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_pretrained(policy, path)
    return path


def module(folder, **settings):
    described = asdict(ModelSettings(str(folder), prompts=PROMPTS, **settings))
    return VLMRLModule(model_config={"settings": described, "run": {"env": "DrawnShapes-v0"}})


def disturb(rl_module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in rl_module.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.05)


def same(one, other):
    pairs = zip(one.model.state_dict().items(), other.model.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_state_round_trips_bit_exactly(folder, tmp_path, dtype, lora):
    one, other, third = (module(folder, dtype=dtype, lora=lora) for _ in range(3))
    disturb(one)
    assert not same(one, other)
    state = one.get_state()
    assert all(isinstance(v, np.ndarray) for v in state.values())
    other.set_state(state)
    assert same(one, other)
    one.save_to_path(tmp_path / "m")
    third.restore_from_path(tmp_path / "m")
    assert same(one, third)
    assert not [p for p in (tmp_path / "m").rglob("*") if p.suffix in (".pkl", ".pt", ".bin", ".pickle")]


def test_a_state_is_a_copy(folder):
    one = module(folder)
    state = one.get_state()
    kept = {k: v.copy() for k, v in state.items()}
    disturb(one)
    assert all(np.array_equal(state[k], kept[k]) for k in state)


def test_a_checkpoint_is_a_model_that_loads(folder, tmp_path, tiny):
    one = module(folder, lora={"r": 2})
    disturb(one)
    one.save_to_path(tmp_path / "m")
    loaded = load_policy(ModelSettings(str(tmp_path / "m"), prompts=PROMPTS))
    pack = tiny.pack(loaded)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.logprobs([pack]).logprobs, one.policy.logprobs([pack]).logprobs, rtol=0, atol=1e-5
        )
    assert (tmp_path / "m" / "sharegrpo_rl.json").read_text() == '{\n  "env": "DrawnShapes-v0"\n}\n'


def test_rllibs_forward_is_refused(folder):
    with pytest.raises(NotImplementedError, match="token policies"):
        module(folder).forward_train({})


@pytest.fixture(scope="module")
def make_learner(folder):
    def make(**options):
        settings = {"model": str(folder), "max_pixels": 3136, "min_pixels": 784, "lr": 1e-3, "format_prompt": ""}
        config = build_config("GRPO", "DrawnShapes-v0", {**settings, **options}, 0)
        config.model_folder = str(folder)
        from gymnasium.spaces import Discrete

        spaces = {DEFAULT_MODULE_ID: (Discrete(2), Discrete(2))}
        learner = config.get_default_learner_class()(
            config=config, module_spec=config.get_multi_rl_module_spec(spaces=spaces)
        )
        learner.build()
        return learner

    return make


def packs_of(learner, tiny):
    return [tiny.pack(learner.rl_module.policy, (3, 2), (1.0, -1.0), group=g, seed=g) for g in range(2)]


def test_a_learner_restores_bit_equal(make_learner, tiny):
    one, other = make_learner(), make_learner()
    one.update_packs(packs_of(one, tiny))
    state = deepcopy(one.get_state())
    weights = {n: p.detach().clone() for n, p in one.rl_module.model.named_parameters()}
    one.update_packs(packs_of(one, tiny))
    other.set_state(deepcopy(state))
    assert all(torch.equal(p, weights[n]) for n, p in other.rl_module.model.named_parameters())
    again = other.update_packs(packs_of(other, tiny))
    assert again["optimizer_steps"] == 2
    assert same(one.rl_module, other.rl_module)
    one.set_state(state)  # an older state is taken too
    assert all(torch.equal(p, weights[n]) for n, p in one.rl_module.model.named_parameters())


def test_a_learner_with_kl_keeps_a_frozen_reference(make_learner, tiny):
    learner = make_learner(kl_coeff=0.1)
    reference = learner.step.reference.model
    assert not any(p.requires_grad for p in reference.parameters())
    before = [p.clone() for p in reference.parameters()]
    first = learner.update_packs(packs_of(learner, tiny))
    second = learner.update_packs(packs_of(learner, tiny))
    assert first["kl"] == pytest.approx(0, abs=1e-6)
    assert second["kl"] > 0
    assert all(torch.equal(p, b) for p, b in zip(reference.parameters(), before, strict=True))


def test_losses_are_ours_not_rllibs(make_learner):
    with pytest.raises(NotImplementedError, match="update_packs"):
        make_learner().compute_loss_for_module(module_id="", config=None, batch={}, fwd_out={})


@pytest.mark.slow
def test_pixels_behind_references_are_fetched_once(policy, tiny):
    import ray

    ray.init(num_cpus=1, include_dashboard=False, ignore_reinit_error=True)
    try:
        pack = tiny.pack(policy, pictures=2)
        hidden = tuple(PixelInput(i.key, ray.put(i.tensors)) for i in pack.prompt.images)
        packs = [replace(pack, prompt=replace(pack.prompt, images=hidden))] * 2
        one, other = fetch_pixels(packs)
        for a, b, c in zip(one.prompt.images, other.prompt.images, pack.prompt.images, strict=True):
            assert a.tensors is b.tensors
            assert np.array_equal(a.tensors["pixel_values"], c.tensors["pixel_values"])
        assert fetch_pixels([pack]) == [pack]
    finally:
        ray.shutdown()
