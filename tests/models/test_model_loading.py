"""Loading, freezing, LoRA, export: real folders on disk."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from small_families import text_only
from tiny_models import CORPUS
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    Phi4MultimodalConfig,
)

from sharegrpo_rl.config import GRPOOptions
from sharegrpo_rl.config.run import TinyModelOptions
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models.loading import (
    ModelSettings,
    Parts,
    load_policy,
    outline_policy,
    parameter_table,
    save_pretrained,
)
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import PromptSettings, load_processor
from sharegrpo_rl.models.tiny import build_tiny
from sharegrpo_rl.training.step import TrainingStep

PROMPTS = PromptSettings(max_prompt_tokens=512, min_pixels=784, max_pixels=3136)


@pytest.fixture(scope="module")
def folder(policy, tmp_path_factory):
    """The tiny model as a Hugging Face folder."""
    path = tmp_path_factory.mktemp("tiny")
    save_pretrained(policy, path)
    return path


def load(folder, **settings):
    return load_policy(ModelSettings(str(folder), prompts=PROMPTS, **settings))


def logprobs(policy, packs):
    with torch.no_grad():
        return policy.logprobs(packs).logprobs


def test_export_and_load_keep_the_policy(policy, folder, tiny):
    loaded = load(folder)
    pack = tiny.pack(policy)
    assert torch.equal(logprobs(loaded, [pack]), logprobs(policy, [pack]))
    assert (loaded.end_ids, loaded.pad_id) == (policy.end_ids, policy.pad_id)
    assert torch.equal(loaded.banned, policy.banned)
    assert sorted(p.suffix for p in folder.iterdir() if "model" in p.name) == [".safetensors"]


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(policy, folder, tmp_path, value):
    spoiled = shutil.copytree(folder, tmp_path / "spoiled")
    weights = load_file(spoiled / "model.safetensors")
    name = next(n for n in weights if n.endswith("down_proj.weight"))
    weights[name][0, 0] = value
    save_file(weights, spoiled / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"down_proj.weight holds NaN or infinite values"):
        load(spoiled)


@pytest.mark.parametrize("settings", [{}, {"lora": {"r": 4}}, {"freeze_vision_tower": True}, {"dtype": "bfloat16"}])
def test_an_outline_is_the_policy_without_its_values(folder, settings):
    policy, outline = load(folder, **settings), outline_policy(ModelSettings(str(folder), prompts=PROMPTS, **settings))
    for kind in ("named_parameters", "named_buffers"):
        ours, theirs = (dict(getattr(p.model, kind)()) for p in (policy, outline))
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            other = theirs[name]
            assert other.is_meta
            assert (other.shape, other.dtype, other.requires_grad) == (tensor.shape, tensor.dtype, tensor.requires_grad)
    assert (outline.end_ids, outline.pad_id) == (policy.end_ids, policy.pad_id)
    assert torch.equal(outline.banned, policy.banned)
    outline.adopt(policy.findings)
    assert outline.findings == policy.findings


WEIGHTS = """
import sys
from peak import peak_mb
from sharegrpo_rl.models.loading import ModelSettings, load_policy, outline_policy
build = {"outline": outline_policy, "loaded": load_policy}[sys.argv[2]]
from transformers import AutoModelForImageTextToText, AutoProcessor  # imported before memory counts
build(ModelSettings(sys.argv[1]))  # what a first time takes: code, caches
print(peak_mb(lambda: build(ModelSettings(sys.argv[1]))))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's account of a process")
def test_an_outline_reads_no_weights(tmp_path):
    """Pages of a mapped file count as resident once they are read: loading reads all to see whether they are finite."""
    size = {"hidden_size": 512, "num_layers": 6, "num_heads": 8, "num_kv_heads": 2, "vision_layers": 1}
    model, processor = build_tiny(TinyModelOptions(**size), CORPUS, 0, 784, 3136)
    save_pretrained(Policy(model, processor, PROMPTS), tmp_path)
    megabytes = (tmp_path / "model.safetensors").stat().st_size / 2**20
    assert megabytes > 50
    took = {kind: float(run_alone(WEIGHTS, str(tmp_path), kind)) for kind in ("outline", "loaded")}
    assert took["outline"] < 0.1 * megabytes
    assert took["loaded"] > 0.9 * megabytes


def run_alone(code, *words):
    """What a fresh process prints."""
    path = {"PYTHONPATH": str(Path(__file__).parents[2] / "benchmarks")}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, env=os.environ | path
    )
    return done.stdout.split()[-1]


def test_prompts_survive_export(policy, folder, tiny):
    loaded = load(folder)
    for text in ("How many red circles?", "Größe: 12,5 m² <answer>", "  two  spaces\nand a line\t日本"):
        before, after = (tiny.prompt(p, text, pictures=2, seed=3) for p in (policy, loaded))
        assert before.input_ids.tolist() == after.input_ids.tolist()
        for one, other in zip(before.images, after.images, strict=True):
            assert np.array_equal(one.tensors["pixel_values"], other.tensors["pixel_values"])


def test_tied_weights_stay_tied(policy, folder):
    loaded = load(folder).model
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    again = AutoModelForImageTextToText.from_pretrained(folder)
    assert again.lm_head.weight.data_ptr() == again.get_input_embeddings().weight.data_ptr()
    assert torch.equal(again.lm_head.weight, policy.model.lm_head.weight)


def test_freezing_by_part(folder):
    def trainable(**settings):
        return {part: ours for part, _, ours in parameter_table(load(folder, **settings).model)}

    everything = trainable()
    assert all(everything.values())
    assert trainable(freeze_vision_tower=True) == {**everything, "vision tower": 0}
    assert trainable(freeze_projector=True) == {**everything, "projector": 0}
    only_language = trainable(freeze_vision_tower=True, freeze_projector=True)
    assert only_language == {**everything, "vision tower": 0, "projector": 0}


def test_frozen_parts_do_not_move(folder, tiny):
    policy = load(folder, freeze_vision_tower=True)
    before = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
    TrainingStep(policy, GRPOOptions(lr=1e-2)).update([tiny.pack(policy)])
    moved = {n for n, p in policy.model.named_parameters() if not torch.equal(p, before[n])}
    assert any("merger" in n for n in moved)
    assert any("language_model" in n for n in moved)
    assert not any("visual.blocks" in n for n in moved)


def test_lora_trains_only_its_adapter(folder, tiny):
    policy = load(folder, lora={"r": 4, "alpha": 8, "target_modules": ["language"]})
    table = {part: (total, ours) for part, total, ours in parameter_table(policy.model)}
    assert set(table) == {"language model", "vision tower", "projector", "LoRA (language model)"}
    assert all(table[part][1] == 0 for part in ("language model", "vision tower", "projector"))
    total, ours = table["LoRA (language model)"]
    assert total == ours > 0
    pack = tiny.pack(policy, advantages=(1.0, -1.0, 0.5))
    plain = load(folder)
    assert torch.equal(logprobs(policy, [pack]), logprobs(plain, [pack]))  # B starts at 0
    before = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
    step = TrainingStep(policy, GRPOOptions(lr=1e-2))
    for _ in range(2):
        step.update([pack])
    moved = {n for n, p in policy.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n in before if "lora_" in n}
    assert not torch.equal(logprobs(policy, [pack]), logprobs(plain, [pack]))


@pytest.mark.parametrize("targets", [["language"], ["vision"], ["projector"], ["language", "vision", "projector"]])
def test_lora_merged_export_equals_the_adapter(folder, tiny, tmp_path, targets):
    policy = load(folder, lora={"r": 4, "target_modules": targets})
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    packs = [tiny.pack(policy, (3, 1, 4), pictures=1), tiny.pack(policy, (2,), pictures=0, group=1)]
    expected = logprobs(policy, packs)
    save_pretrained(policy, tmp_path)
    assert not any("lora" in p.name or "adapter" in p.name for p in tmp_path.iterdir())
    merged = load(tmp_path)
    assert not torch.allclose(logprobs(load(folder), packs), expected, atol=1e-4)
    torch.testing.assert_close(logprobs(merged, packs), expected, rtol=0, atol=1e-5)
    assert torch.equal(logprobs(policy, packs), expected) or torch.allclose(
        logprobs(policy, packs), expected, atol=1e-6
    )  # the live policy is unmerged again


def test_lora_branches_equal_padding(folder, tiny):
    from sharegrpo_rl.models.policy import padded_logprobs, unwrapped

    policy = load(folder, lora={"r": 4, "target_modules": ["language", "vision"]})
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    packs = [tiny.pack(policy, (3, 1, 4), pictures=2), tiny.pack(policy, (2, 2), pictures=0, group=1)]
    one = policy.logprobs(packs).logprobs
    other = padded_logprobs(unwrapped(policy.model), packs, 1.0, policy.banned, policy.pad_id).logprobs
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    mine, theirs = tiny.gradients(policy, one.mean()), tiny.gradients(policy, other.mean())
    assert mine.keys() == theirs.keys()
    assert all("lora_" in name for name in mine)
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-4, atol=1e-5)


def test_lora_without_a_match_is_a_user_error(tmp_path):
    model, tokenizer = text_only("llama")
    save_pretrained(Policy(model, tokenizer, PROMPTS), tmp_path)
    with pytest.raises(UserError, match=r"lora\.target_modules"):
        load(tmp_path, lora={"target_modules": ["vision"]})


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_text_only_folders_load_as_causal_models(tmp_path, tiny, family):
    model, tokenizer = text_only(family)
    built = Policy(model, tokenizer, PROMPTS)
    save_pretrained(built, tmp_path)
    policy = load(tmp_path)
    pack = tiny.pack(built, pictures=0)
    assert torch.equal(logprobs(policy, [pack]), logprobs(built, [pack]))
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path), type(model))
    assert [part for part, _, _ in parameter_table(policy.model)] == ["language model"]


def test_bfloat16_folders(folder, tiny, tmp_path):
    policy = load(folder, dtype="bfloat16")
    assert {p.dtype for p in policy.model.parameters()} == {torch.bfloat16}
    values = logprobs(policy, [tiny.pack(policy)])
    assert values.dtype == torch.float32  # the log-softmax is never taken in bfloat16
    save_pretrained(policy, tmp_path)
    again = load(tmp_path, dtype="bfloat16")
    for (name, one), (_, other) in zip(policy.model.named_parameters(), again.model.named_parameters(), strict=True):
        assert torch.equal(one, other), name


def empty(folder):
    for path in folder.iterdir():
        path.unlink()


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def cut_weights(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def broken_config(folder):
    (folder / "config.json").write_text("{not json")


def unknown_family(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "no_such_family"}))


def no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def broken_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{")


def only_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def other_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_size"] = 64
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "damage",
    [
        empty, no_weights, cut_weights, broken_config, unknown_family, no_tokenizer, broken_tokenizer, only_pickle,
        other_shape,
    ],
)  # fmt: skip
def test_a_broken_folder_is_a_user_error(folder, tmp_path, monkeypatch, damage):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damage(copy)
    with pytest.raises(UserError, match="model: cannot load the folder") as caught:
        load(copy)
    assert "\n" not in str(caught.value)


def test_a_wrong_name_is_a_user_error(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="model: cannot load the hub model 'nobody/no-such-model'"):
        load("nobody/no-such-model")
    with pytest.raises(UserError, match="cannot load the processor"):
        load_processor(str(tmp_path))


def test_the_processor_alone(folder, policy):
    assert type(load_processor(str(folder))) is type(AutoProcessor.from_pretrained(folder))
    assert load_processor(str(folder)).tokenizer.get_vocab() == policy.encoder.tokenizer.get_vocab()


def test_a_text_model_with_the_processor_of_a_seeing_one_has_its_tokenizer(tmp_path):
    """Gemma 3's text models name Gemma3Processor, which they have no files for."""
    model, tokenizer = text_only("gemma3")
    save_pretrained(Policy(model, tokenizer, PROMPTS), tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "processor_class": "Gemma3Processor"}))
    assert load_processor(str(tmp_path)).get_vocab() == tokenizer.get_vocab()
    assert load(tmp_path).encoder.image_processor is None


def test_a_text_model_that_sees_is_named_as_what_it_is(tmp_path):
    Phi4MultimodalConfig().save_pretrained(tmp_path)
    for loaded in (load, lambda path: load_processor(str(path))):
        with pytest.raises(UserError, match=r"model: phi4_multimodal sees, but transformers has it as a text model"):
            loaded(tmp_path)


@pytest.mark.parametrize("key", ["freeze_vision_tower", "freeze_projector"])
def test_a_freeze_that_touches_nothing_is_an_error(tmp_path, key):
    save_pretrained(Policy(*text_only("llama"), PROMPTS), tmp_path)
    with pytest.raises(UserError, match=rf"{key}: this model \(llama\) has no "):
        load(tmp_path, **{key: True})


# What each part of a family is made of: the first names of its parameters.
STRUCTURES = {
    "cosmos3_edge": ("model.visual", "model.projector"),
    "deepseek_vl": ("model.vision_model", "model.aligner"),
    "deepseek_vl_hybrid": (
        "model.vision_model model.high_res_vision_model",
        "model.aligner",
    ),
    "ernie4_5_vl_moe": ("model.vision_tower", "model.resampler_model"),
    "gemma3": ("model.vision_tower", "model.multi_modal_projector"),
    "glm4v": ("model.visual", "model.visual.merger"),
    "hyperclovax_vision_v2": ("model.vision_model", "model.projector model.vision_model.merger"),
    "internvl": ("model.vision_tower", "model.multi_modal_projector"),
    "janus": ("model.vision_model", "model.aligner"),
    "kimi_k25": ("model.vision_tower", "model.mm_projector"),
    "lfm2_vl": ("model.vision_tower", "model.multi_modal_projector"),
    "lighton_ocr": ("model.vision_encoder", "model.vision_projection"),
    "llava_next": ("model.vision_tower", "model.multi_modal_projector model.image_newline"),
    "mistral3": ("model.vision_tower", "model.multi_modal_projector"),
    "muse_glimmer": ("model.vision_tower", "model.vision_adapter"),
    "ovis2": ("model.vision_tower", "model.visual_embeddings_table"),
    "paddleocr_vl": ("model.visual", "model.projector"),
    "qwen3_5": ("model.visual", "model.visual.merger"),
    "qwen3_vl": ("model.visual", "model.visual.merger model.visual.deepstack_merger_list"),
    "video_llama_3": ("model.vision_model", "model.projector"),
    "video_llava": ("model.image_tower model.video_tower", "model.multi_modal_projector"),
}


@pytest.mark.parametrize("family", STRUCTURES)
def test_parts_follow_the_structure(family):
    if family not in CONFIG_MAPPING:
        pytest.skip(f"{family} is younger than transformers {transformers.__version__}")
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(CONFIG_MAPPING[family]())
    parts = Parts(model)
    names: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        names.setdefault(parts.of(name), []).append(name)
    vision, projector = ([f"{root}." for root in roots.split()] for roots in STRUCTURES[family])
    assert all(name.startswith(("model.language_model.", "lm_head.")) for name in names["language model"])
    assert {root for root in vision if any(n.startswith(root) for n in names["vision tower"])} == set(vision)
    assert {root for root in projector if any(f"{n}.".startswith(root) for n in names["projector"])} == set(projector)
    assert not any(f"{n}.".startswith(tuple(projector)) for n in names["vision tower"])
