"""A policy: a model with its processor, and the log-probs of completions in one forward that runs each prompt once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sharegrpo_rl.data.types import PixelInput, Prompt, PromptPack
from sharegrpo_rl.models.branch_attention import Layout, use_layout
from sharegrpo_rl.models.families import (
    UNCHANGED,
    LogitRule,
    banned_ids,
    end_ids,
    logit_rule,
    obstacle,
    structural_obstacle,
    use_branch_attention,
    use_exact_attention,
)
from sharegrpo_rl.models.prompts import PromptEncoder, PromptSettings
from sharegrpo_rl.models.recurrence import share_states
from sharegrpo_rl.models.vision import (
    Features,
    ImageBank,
    accepts_features,
    encode_prompts,
    features_for_pixels,
    stack_images,
    use_matrix_products,
    use_window_attention,
)
from sharegrpo_rl.ops.logprobs import chunk_rows, head_logprobs, mask_logits, token_logprobs

TokenIds = NDArray[np.int64]


class TokenValues(NamedTuple):
    """Of every completion token, flat `[N]`: packs in order, completions in order inside them."""

    logprobs: Tensor
    entropy: Tensor


class Findings(NamedTuple):
    """What only a run of the model tells: see `Policy` and `probe.check_policy`."""

    logit_rule: LogitRule
    obstacle: str | None
    rows_alone: bool


class Policy:
    """A model ready for generation and training; the distribution is softmax(logits / temperature) without banned ids.

    `logprob_temperature` is that of `logprobs`; None where it is the sampler's. An outline, whose model is on `meta`, has no
    weights and runs nothing: it prompts, and knows which ids are banned and which end a completion.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        prompts: PromptSettings,
        temperature: float = 1.0,
        logprob_temperature: float | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.encoder = PromptEncoder(processor, prompts)
        self.temperature = temperature
        self.logprob_temperature = logprob_temperature
        inner = unwrapped(model)
        tokenizer = self.encoder.tokenizer
        text = tokenizer("Is it so?", add_special_tokens=False, return_tensors="pt")["input_ids"]
        self.logit_rule = UNCHANGED if self.is_outline else logit_rule(inner, text)
        self.obstacle: str | None = None  # why completions cannot share their prompt's forward; None where they do
        self.shares_prefix = True
        self.rows_alone = False  # rows that cannot run together run one at a time
        if reason := obstacle(inner):
            self.repeat_prompts(reason)
        else:
            self.share_prompts()
        use_matrix_products(inner)
        use_window_attention(inner)
        self.end_ids: tuple[int, ...] = end_ids(inner, tokenizer)
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.end_ids[0]
        self.banned: Tensor = torch.tensor(banned_ids(inner, processor), dtype=torch.long)
        # Set where the model is sharded: runs a function while the weights that belong to no layer are gathered.
        self.unsharded: Callable[[Callable[[], TokenValues]], TokenValues] | None = None
        self.loaded_dtypes: dict[str, torch.dtype] = {}  # by name, where the shards are held in a wider type
        self.unplaced: dict[
            str, Tensor
        ] = {}  # values of an outline on several ranks, by name, until rank 0 has dealt them

    @property
    def is_outline(self) -> bool:
        """Has the model its structure, but no weights?"""
        return any(weight.is_meta for weight in self.model.parameters())

    @property
    def findings(self) -> Findings:
        """What its model's runs have shown so far."""
        return Findings(self.logit_rule, self.obstacle, self.rows_alone)

    def adopt(self, findings: Findings) -> None:
        """Go on as if this outline had been run: the same model was, elsewhere."""
        self.logit_rule, _, self.rows_alone = findings
        if structural_obstacle(unwrapped(self.model)) is None:
            self.share_prompts()  # as the check does first, whatever it finds: it chooses the attention
        if findings.obstacle is not None:
            self.repeat_prompts(findings.obstacle)

    def share_prompts(self) -> None:
        """Run each prompt once for all its completions from now on."""
        self.obstacle, self.shares_prefix = None, True
        use_branch_attention(unwrapped(self.model))
        share_states(unwrapped(self.model))

    def repeat_prompts(self, reason: str) -> None:
        """Run one row for each completion from now on."""
        self.obstacle, self.shares_prefix = reason, False
        use_exact_attention(unwrapped(self.model))

    @property
    def sharded(self) -> bool:
        """Is each weight sharded over several processes? Then every pass is collective."""
        return self.unsharded is not None

    def image_bank(self, batches: Sequence[Sequence[Prompt]]) -> ImageBank | None:
        """The images of several batches of prompts, each to be encoded once.

        None where the model takes no images, runs row by row (other families may need more than the features), or is
        sharded: its vision tower must then run, forward and backward, at the same times on every rank.
        """
        model = unwrapped(self.model)
        possible = self.shares_prefix and accepts_features(model) and not self.sharded
        return ImageBank(model, batches) if possible else None

    def logprobs(self, packs: Sequence[PromptPack], images: ImageBank | None = None) -> TokenValues:
        """Log-probs and entropies of all completion tokens of the packs, flat and in order.

        With `images` the bank's features are used; its gradients wait there until `release`.
        """
        return self._forward(packs, self.logprob_temperature or self.temperature, images)

    def target_logprobs(self, packs: Sequence[PromptPack]) -> Tensor:
        """Log-probs of given targets at temperature 1, for supervised training; flat [N]."""
        return self._forward(packs, 1.0, None).logprobs

    def adapters_off(self) -> AdaptersOff:
        """This LoRA policy as it was before training."""
        return AdaptersOff(self)

    def _forward(self, packs: Sequence[PromptPack], temperature: float, images: ImageBank | None) -> TokenValues:
        model = unwrapped(self.model)

        def values() -> TokenValues:
            if self.shares_prefix:
                features = None if images is None else images.of([p.prompt for p in packs])
                return branch_logprobs(model, packs, temperature, self.banned, features, self.logit_rule)
            return padded_logprobs(
                model, packs, temperature, self.banned, self.pad_id, self.logit_rule, self.rows_alone
            )

        return values() if self.unsharded is None else self.unsharded(values)


def unwrapped(model: Any) -> Any:
    """The transformers model under a peft wrapper, its adapters still in place."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class AdaptersOff:
    """A LoRA policy as it was before training: the same model with its adapters switched off. Nothing is copied."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def image_bank(self, batches: Sequence[Sequence[Prompt]]) -> ImageBank | None:
        """As the policy's; its images are encoded without adapters too."""
        return self.policy.image_bank(batches)

    def logprobs(self, packs: Sequence[PromptPack], images: ImageBank | None = None) -> TokenValues:
        """As the policy's, but without gradients: a backward pass would find the adapters switched on again."""
        with torch.no_grad(), self.policy.model.disable_adapter():
            return self.policy.logprobs(packs, images)


def branch_logprobs(
    model: Any,
    packs: Sequence[PromptPack],
    temperature: float,
    banned: Tensor | None,
    images: Mapping[str, Features] | None = None,
    rule: LogitRule = UNCHANGED,
) -> TokenValues:
    """The shared-prefix forward: each prompt run once and each completion token once.

    images: features by image key; the images are encoded here where they are None.
    """
    # Under FSDP2 most weights rest elsewhere while this runs: the head's are where the model computes.
    device, prompts = model.get_output_embeddings().weight.device, [p.prompt for p in packs]
    trunks, branches = zip(*(_trunk_and_branches(p) for p in packs), strict=True)
    ids = torch.from_numpy(np.concatenate([*trunks, *(b for each in branches for b in each)])).to(device)
    # By types some models let a picture's tokens see each other; those with Qwen's rope make nothing but positions of them.
    typed = any(p.images for p in prompts) and not hasattr(model.model, "get_rope_index")
    types = _token_types(model.model, model.config, ids[None]) if typed else {}
    shapes = [(len(t), [len(b) for b in each]) for t, each in zip(trunks, branches, strict=True)]
    layout = Layout(shapes, device, bool(types))
    features = _image_features(model, ids, prompts, images)
    with use_layout(layout), features_for_pixels(model, features) as image_arguments:
        out = model.model(
            input_ids=ids[None],
            position_ids=_row_positions(model, prompts, layout).to(device),
            # With a mask transformers looks for no packed sequences, in whose masks 5.23 and later mistake the types' places.
            attention_mask=torch.ones_like(ids[None]) if types else None,
            use_cache=False,
            **types,
            **image_arguments,
        )
    hidden = out.last_hidden_state[0].index_select(0, _predictors(prompts, layout).to(device))
    return _head(model, hidden, _labels(packs).to(device), temperature, banned, rule)


def padded_logprobs(
    model: Any,
    packs: Sequence[PromptPack],
    temperature: float,
    banned: Tensor | None,
    pad_id: int,
    rule: LogitRule = UNCHANGED,
    alone: bool = False,
) -> TokenValues:
    """One right-padded row for each completion, images repeated: the reference for tests, and the path of other families.

    alone: each row is a forward of its own.
    """
    rows = [(p.prompt, c.token_ids) for p in packs for c in p.completions]
    batches = [[row] for row in rows] if alone else [rows]
    picked = [hidden for batch in batches for hidden in _hidden_of_rows(model, batch, pad_id)]
    return _head(model, torch.cat(picked), _labels(packs).to(model.device), temperature, banned, rule)


def _hidden_of_rows(model: Any, rows: Sequence[tuple[Prompt, TokenIds]], pad_id: int) -> list[Tensor]:
    """The hidden states that predict each row's completion."""
    ids = [np.concatenate([prompt.input_ids, tokens]) for prompt, tokens in rows]
    inputs = model_inputs(model, ids, [prompt.images for prompt, _ in rows], pad_id, "right")
    hidden = model.model(**inputs, position_ids=rope_positions(model, inputs), use_cache=False).last_hidden_state
    firsts = [len(prompt.input_ids) - 1 for prompt, _ in rows]
    return [row[first : first + len(tokens)] for row, first, (_, tokens) in zip(hidden, firsts, rows, strict=True)]


def _labels(packs: Sequence[PromptPack]) -> Tensor:
    """All completion tokens, flat."""
    return torch.from_numpy(np.concatenate([c.token_ids for p in packs for c in p.completions]))


def _trunk_and_branches(pack: PromptPack) -> tuple[TokenIds, list[TokenIds]]:
    """Tokens that run once for all, and those of each completion; a single completion simply continues its prompt.

    A completion's last token predicts nothing and is left out.
    """
    prompt, branches = pack.prompt.input_ids, [c.token_ids[:-1] for c in pack.completions]
    return (np.concatenate([prompt, branches[0]]), []) if len(branches) == 1 else (prompt, branches)


def _image_features(
    model: Any, ids: Tensor, prompts: Sequence[Prompt], images: Mapping[str, Features] | None
) -> list[Features]:
    """The features of every image that the prompts show, in their order."""
    if not any(p.images for p in prompts):
        return []
    images = encode_prompts(model, prompts) if images is None else images
    features = [images[image.key] for p in prompts for image in p.images]
    tokens, count = int((ids == model.config.image_token_id).sum()), sum(f.count for f in features)
    if tokens != count:
        raise ValueError(f"{tokens} image tokens for {count} image features; a completion holds an image token")
    return features


def _predictors(prompts: Sequence[Prompt], layout: Layout) -> Tensor:
    """[N] positions in the row that predict the completion tokens: the one before each; for a first, the prompt's last."""
    positions: list[int] = []
    for prompt, trunk, branches in zip(prompts, layout.prompts, layout.each, strict=True):
        end = trunk.start + len(prompt.input_ids)
        positions += [] if branches else range(end - 1, trunk.stop)
        for branch in branches:
            positions += [end - 1, *range(branch.start, branch.stop)]
    return torch.tensor(positions)


def _row_positions(model: Any, prompts: Sequence[Prompt], layout: Layout) -> Tensor:
    """Rope positions [3, 1, L] (or [1, L]): a completion continues from its prompt's largest position, not its length."""
    ids, images = [p.input_ids for p in prompts], [p.images for p in prompts]
    # On the CPU: transformers reads the grids number by number, and a GPU would have to be waited for each time.
    inputs = model_inputs(model, ids, images, 0, "right", pixels=False, device=torch.device("cpu"))
    padded = rope_positions(model, inputs)
    grids = padded if padded.ndim == 3 else padded[None]
    trunks, branches = [], []
    for i, (prompt, trunk, each) in enumerate(zip(prompts, layout.prompts, layout.each, strict=True)):
        on_prompt = grids[:, i, : len(prompt.input_ids)]
        longest = max([trunk.stop - trunk.start - on_prompt.shape[1], *(b.stop - b.start for b in each)])
        following = on_prompt.max() + 1 + torch.arange(longest, device=on_prompt.device)
        following = following.expand(len(grids), -1)
        trunks += [on_prompt] if each else [on_prompt, following]
        branches += [following[:, : b.stop - b.start] for b in each]
    flat = torch.cat([*trunks, *branches], 1)
    return flat[:, None] if padded.ndim == 3 else flat


def _head(
    model: Any, hidden: Tensor, labels: Tensor, temperature: float, banned: Tensor | None, rule: LogitRule
) -> TokenValues:
    """Log-probs and entropies from hidden states [N, D], the logits in chunks."""
    head = model.get_output_embeddings()
    banned = None if banned is None else banned.to(hidden.device)
    if type(head) is nn.Linear and head.bias is None and rule.cap is None:
        return TokenValues(*head_logprobs(hidden, head.weight, labels, temperature / rule.scale, banned))

    def values(h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return token_logprobs(mask_logits(rule(head(h)), temperature, banned), y)

    size = chunk_rows(len(hidden), head.weight.shape[0], hidden.device.type)
    chunks = zip(hidden.split(size), labels.split(size), strict=True)
    parts = [checkpoint(values, h, y, use_reentrant=False) for h, y in chunks]
    return TokenValues(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]))


def model_inputs(
    model: Any,
    rows: Sequence[TokenIds],
    images: Sequence[Sequence[PixelInput]],
    pad_id: int,
    side: str,
    pixels: bool = True,
    device: torch.device | None = None,
) -> dict[str, Tensor]:
    """Everything `model(**inputs)` needs for rows of token ids, padded on the `left` or the `right`.

    Each row brings its own images, repeated where they repeat; without `pixels` only what positions are made of: ids, mask,
    token types, grids. On the model's device by default.
    """
    ids, mask = _pad(rows, pad_id, side)
    target = device or model.device
    shown = [i for row in images for i in row]
    pictures = stack_images(shown, target, model.dtype, None if pixels else ["image_grid_thw"])
    inputs = {"input_ids": ids, "attention_mask": mask, **pictures, **_token_types(model, model.config, ids)}
    return {name: value.to(target) for name, value in inputs.items()}


def _token_types(model: Any, config: Any, ids: Tensor) -> dict[str, Tensor]:
    """1 for tokens of pictures, 0 for text, under the names that the model's forward takes."""
    image_token = getattr(config, "image_token_id", None)
    types = (ids == image_token).long() if image_token is not None else torch.zeros_like(ids)
    accepted = inspect.signature(model.forward).parameters
    return {name: types for name in ("mm_token_type_ids", "token_type_ids") if name in accepted}


def _pad(rows: Sequence[TokenIds], pad_id: int, side: str) -> tuple[Tensor, Tensor]:
    """Ragged ids -> ids [B, L] and attention mask [B, L]."""
    longest = max(len(r) for r in rows)
    ids = np.full((len(rows), longest), pad_id, np.int64)
    mask = np.zeros((len(rows), longest), np.int64)
    for i, row in enumerate(rows):
        span = slice(longest - len(row), longest) if side == "left" else slice(0, len(row))
        ids[i, span] = row
        mask[i, span] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def rope_positions(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Position ids of padded rows: [3, B, L] for Qwen's multimodal rope, else [B, L], counting real tokens only."""
    mask = inputs["attention_mask"]
    base = getattr(model, "model", model)
    multimodal = hasattr(base, "get_rope_index")
    if multimodal and "image_grid_thw" in inputs:
        return base.get_rope_index(
            inputs["input_ids"],
            inputs["mm_token_type_ids"],
            image_grid_thw=inputs["image_grid_thw"],
            attention_mask=mask,
        )[0]
    flat = (mask.cumsum(1) - 1).clamp(min=0)
    return flat[None].expand(3, -1, -1) if multimodal else flat
