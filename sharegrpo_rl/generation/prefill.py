"""The first pass over prompts, in parts of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from sharegrpo_rl.data.types import Prompt
from sharegrpo_rl.models.batch import model_inputs, rope_positions
from sharegrpo_rl.models.image_features import Features, encoder_output
from sharegrpo_rl.models.policy import Policy, unwrapped

# Padded tokens of one pass over prompts: more at once need memory and save no time.
PREFILL_TOKENS = 16384


class Prefilled(NamedTuple):
    """What decoding goes on from: a cache of left-padded prompts, their mask [B, P], the next positions [B, 1] or
    [3, B, 1], and the next tokens' logits [B, vocabulary]."""

    cache: Any
    mask: Tensor
    positions: Tensor
    logits: Tensor


def prefill(policy: Policy, prompts: Sequence[Prompt], features: Mapping[str, Features] | None) -> Prefilled:
    """Run prompts as one left-padded batch; without `features` their images go in as pixels."""
    model, pixels = unwrapped(policy.model), features is None
    ids, images = [p.input_ids for p in prompts], [p.images for p in prompts]
    inputs: dict[str, Any] = model_inputs(model, ids, images, policy.pad_id, "left", pixels=pixels)
    positions = rope_positions(model, inputs)
    if features is not None and any(images):
        inputs["mm_encoder_outputs"] = encoder_output([features[image.key] for row in images for image in row])
    out = model(**inputs, position_ids=positions, use_cache=True, logits_to_keep=1)
    following = positions.amax(-1, keepdim=True) + 1
    if positions.ndim == 3:  # text goes on from the largest of the three coordinates
        following = following.amax(0, keepdim=True).expand(3, -1, -1)
    return Prefilled(out.past_key_values, inputs["attention_mask"], following, out.logits[:, -1])


def chunks(prompts: Sequence[Prompt]) -> Iterator[Sequence[Prompt]]:
    """Prompts in their order, at most PREFILL_TOKENS of them padded at a time."""
    start, longest = 0, 0
    for i, prompt in enumerate(prompts):
        longest = max(longest, len(prompt.input_ids))
        if i > start and (i + 1 - start) * longest > PREFILL_TOKENS:
            yield prompts[start:i]
            start, longest = i, len(prompt.input_ids)
    yield prompts[start:]
