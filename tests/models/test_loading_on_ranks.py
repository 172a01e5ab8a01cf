"""Ranks get their weights from one that reads them: the very bits that each would have loaded itself, or its error."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rank_processes import on_ranks
from safetensors.torch import load_file, save_file
from test_sharded_families import PROMPTS, SEEING, TEXT_ONLY, made_policy
from tiny_models import tiny_policy

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models.loading import ModelSettings, load_policy, save_pretrained
from sharegrpo_rl.training.sharding import full_tensor, load_on_ranks, local_part, shard

CASES = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "lora": {"lora": {"r": 1, "target_modules": ["language", "vision"]}},
    "frozen": {"freeze_vision_tower": True, "dtype": "bfloat16"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("loading") / "model"
    save_pretrained(tiny_policy(), path)
    return path


def tensors(policy):
    return dict(policy.model.named_parameters(remove_duplicate=False)) | dict(policy.model.named_buffers())


def differing(folder, sharding, model):
    """Names of tensors that are not what this rank loads itself, whole or as its own shards; how many there are."""
    settings = ModelSettings(str(folder), prompts=PROMPTS, **model)
    policy, alone, own = load_on_ranks(settings), load_policy(settings), load_policy(settings)
    assert policy.is_outline
    for p in (policy, own):
        shard(p, sharding)
    found, whole, parts = tensors(policy), tensors(alone), tensors(own)
    assert found.keys() == whole.keys()
    wrong = [
        name
        for name, tensor in found.items()
        if not torch.equal(full_tensor(tensor.detach()), whole[name].to(tensor.dtype))
        or not torch.equal(local_part(tensor), local_part(parts[name]))
        or (tensor.dtype, tensor.requires_grad) != (parts[name].dtype, parts[name].requires_grad)
    ]
    assert policy.findings == alone.findings
    assert policy.loaded_dtypes == own.loaded_dtypes
    ends = [p.model.get_output_embeddings().weight is p.model.get_input_embeddings().weight for p in (policy, alone)]
    return wrong, ends[0] == ends[1], len(found), policy.unplaced


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
@pytest.mark.parametrize("name", CASES)
def test_every_rank_has_the_bits_that_it_would_load(folder, name, sharding):
    for wrong, tied_alike, count, left in on_ranks(2, differing, folder, sharding, CASES[name]):
        assert (wrong, tied_alike, left) == ([], True, {})
        assert count > 40


@pytest.mark.slow
@pytest.mark.parametrize("family", [*SEEING, *TEXT_ONLY])
def test_every_family_has_them(family, tmp_path):
    """Tied heads, experts that are joined when they are read, and buffers that no file holds among them."""
    save_pretrained(made_policy(family), tmp_path / "model")
    for wrong, tied_alike, _, left in on_ranks(2, differing, tmp_path / "model", "fsdp2", {}):
        assert (wrong, tied_alike, left) == ([], True, {})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's account of processes")
def test_ranks_take_one_copy_of_the_model_together(tmp_path):
    """Besides their shards, from files of another type too, where each rank would make a copy of its own."""
    script = Path(__file__).parents[2] / "benchmarks" / "loading.py"
    words = [
        "--ranks",
        "4",
        "--sides",
        "each",
        "one",
        "--types",
        "bfloat16:float32",
        "--hidden",
        "512",
        "--layers",
        "8",
    ]
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=True)
    each, one = json.loads(done.stdout.splitlines()[-1])["results"]
    assert each["own"] > 3
    assert one["own"] < 1.3 + one["held"]


def refused(folder):
    try:
        load_on_ranks(ModelSettings(str(folder), prompts=PROMPTS))
    except UserError as error:
        return str(error)
    return None


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_used_is_every_rank_s_error(folder, tmp_path):
    spoiled = shutil.copytree(folder, tmp_path / "spoiled")
    weights = load_file(spoiled / "model.safetensors")
    next(iter(weights.values())).flatten()[0] = float("nan")
    save_file(weights, spoiled / "model.safetensors", metadata={"format": "pt"})
    first, second = on_ranks(2, refused, spoiled)
    assert first == second
    assert "holds NaN or infinite values" in first
