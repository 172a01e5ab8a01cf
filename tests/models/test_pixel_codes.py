"""Pixels in a quarter of their bytes: bit for bit what the processor makes, and what the model computes from them."""

import logging
from dataclasses import replace

import families_by_rows
import families_with_windows
import numpy as np
import pytest
import small_families
import torch
from PIL import Image

from sharegrpo_rl.data.types import CodedArray
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import PromptEncoder, PromptSettings, Question
from sharegrpo_rl.models.vision import stack_images, to_device

FAMILIES = {
    small_families: ("llava", "llava_next", "mistral3", "internvl", "qwen2_vl", "qwen3_vl", "qwen3_5", "idefics3", "smolvlm"),
    families_by_rows: ("llava_onevision", "deepseek_vl", "lfm2_vl", "minicpmv4_6"),
    families_with_windows: ("gemma3", "gemma4", "glm4v", "glm46v", "aya_vision"),
}  # fmt: skip
BUILDERS = [getattr(module, name) for module, names in FAMILIES.items() for name in names]
SETTINGS = PromptSettings(max_prompt_tokens=100_000)
LEVELS = 3 * 256 * 4  # bytes that every array brings along, however large it is
CPU = torch.device("cpu")


def question(*shapes):
    rng = np.random.default_rng(len(shapes))
    return Question("What is it?", tuple(rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes))


def own_pixels(encoder, asked):
    """The processor's, one array for each PixelInput of the prompt."""
    pictures = [Image.fromarray(p) for p in asked.pictures]
    if encoder.has_grids:
        run = encoder.image_processor
        return [run([p], return_tensors="np", **encoder.picture_limits)["pixel_values"] for p in pictures]
    made = encoder.processor(
        text=[encoder.template(asked)], add_special_tokens=False, return_tensors="np", **encoder.picture_inputs(asked)
    )
    return [np.asarray(made["pixel_values"])]


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_codes_are_the_processor_s_own_pixels(build):
    """Of one picture, and of several whose sizes differ, which some processors pad; also as a model's tensors."""
    encoder = PromptEncoder(build()[1], SETTINGS)
    for asked in (question((56, 84)), question((300, 200)), question((56, 84), (120, 60), (30, 90))):
        (prompt,) = encoder.encode([asked])
        for image, exact in zip(prompt.images, own_pixels(encoder, asked), strict=True):
            coded = image.tensors["pixel_values"]
            assert isinstance(coded, CodedArray)
            assert np.asarray(coded).tobytes() == exact.tobytes()
            assert coded.codes.nbytes * 4 == exact.nbytes
            assert coded.nbytes <= exact.nbytes / 4 + LEVELS + coded.blanks.nbytes
            for dtype in (torch.float32, torch.bfloat16):
                assert torch.equal(to_device(coded, CPU, dtype), torch.from_numpy(exact).to(dtype))


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_the_model_computes_the_same_bits(build, tiny):
    policy = Policy(*build(), SETTINGS)
    policy.rows_alone = build is families_by_rows.minicpmv4_6  # as its check at load finds out
    packs = [tiny.pack(policy, (3, 2), pictures=1, seed=seed) for seed in (0, 1)]
    assert isinstance(packs[0].prompt.images[0].tensors["pixel_values"], CodedArray)
    as_before = [with_plain_pixels(pack) for pack in packs]
    with torch.no_grad():
        mine, theirs = (policy.logprobs(given).logprobs for given in (packs, as_before))
    assert torch.equal(mine, theirs)


def with_plain_pixels(pack):
    images = [replace(i, tensors={k: np.asarray(v) for k, v in i.tensors.items()}) for i in pack.prompt.images]
    return replace(pack, prompt=replace(pack.prompt, images=tuple(images)))


@pytest.mark.parametrize("build", [small_families.mistral3, families_by_rows.lfm2_vl])
def test_padding_joins_as_before(build):
    """Pictures of several sizes in one batch, some of them padded already."""
    encoder = PromptEncoder(build()[1], SETTINGS)
    prompts = encoder.encode([question((56, 84)), question((120, 60), (30, 90)), question((56, 84))])
    images = [i for p in prompts for i in p.images]
    assert any(i.tensors["pixel_values"].blanks.size for i in images)
    plain = [replace(i, tensors={k: np.asarray(v) for k, v in i.tensors.items()}) for i in images]
    mine, theirs = (stack_images(given, CPU, torch.float32) for given in (images, plain))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_pixels_that_no_byte_tells_stay_as_they_are(caplog):
    """A processor that looks at the whole picture: said once."""
    _, processor = small_families.qwen2_vl()
    inner = processor.image_processor

    class Brightened(type(inner)):
        def rescale_and_normalize(self, images, *args, **kwargs):
            pixels = super().rescale_and_normalize(images, *args, **kwargs)
            return pixels - pixels.mean() if pixels.is_floating_point() else pixels

    processor.image_processor = Brightened(**inner.to_dict())
    encoder = PromptEncoder(processor, SETTINGS)
    asked = question((56, 84))
    with caplog.at_level(logging.WARNING):
        prompts = [encoder.encode([asked])[0] for _ in range(2)]
    for prompt in prompts:
        pixels = prompt.images[0].tensors["pixel_values"]
        assert pixels.dtype == np.float32
        assert pixels.tobytes() == own_pixels(encoder, asked)[0].tobytes()
    assert [r.getMessage() for r in caplog.records] == ["pictures are kept in float32: Brightened does not scale bytes"]
