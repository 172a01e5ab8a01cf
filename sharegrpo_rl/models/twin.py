"""What a model will do, tried before it is loaded: a small twin of its config, of its own class, with random weights."""

from __future__ import annotations

from math import gcd
from typing import Any

import torch

from sharegrpo_rl.models.families import first_layer_count
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.probe import OwnForwardError, check_policy
from sharegrpo_rl.models.prompts import PromptSettings

LARGEST = 600_000_000  # parameters of a twin: 2.4 GB in float32
_WIDTH = 256  # what hidden states are narrowed towards
_TOWER = 4  # layers of a vision tower
# What classes of models and configs raise where their sizes do not fit each other.
_MISFITS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_SETTINGS = PromptSettings(max_prompt_tokens=4096, max_pixels=3136)


def twin_policy(outline: Any, processor: Any) -> Policy | None:
    """A policy of a small model that differs from `outline` in its sizes alone, checked against its own forward.

    outline: the model on the meta device. None where no small one runs; UserError where training would refuse the model.
    """
    count = first_layer_count(outline)
    for fewer, narrower in ((True, True), (True, False), (False, True)):
        try:
            config = _smaller(outline.config, count if fewer else None, narrower)
            policy = _policy(type(outline), config, processor)
            if policy is not None:
                check_policy(policy)
                return policy
        except (*_MISFITS, OwnForwardError):
            continue
    return None


def _policy(kind: Any, config: Any, processor: Any) -> Policy | None:
    """A policy of a random model that runs; None where it would be large."""
    with torch.device("meta"):
        if sum(p.numel() for p in kind(config).parameters()) > LARGEST:
            return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config).float().eval()
    with torch.no_grad():
        model(input_ids=torch.zeros(1, 2, dtype=torch.long), use_cache=False)
    return Policy(model, processor, _SETTINGS)


def _smaller(config: Any, layers: int | None, narrower: bool) -> Any:
    """The config with so many language layers (None: all), and a narrower language model."""
    values = config.to_dict()
    text = next((values[key] for key in ("text_config", "llm_config") if key in values), values)
    if layers is not None:
        _cut_layers(text, layers)
        for key, part in values.items():
            if key.endswith("vision_config") and isinstance(part, dict):
                _cut_layers(part, _TOWER)
    if narrower:
        _narrow(values, text)
    return type(config).from_dict(values)


def _cut_layers(part: dict[str, Any], count: int) -> None:
    """Keep the first layers, in what has an entry for each of them; lists of a tower's layers go on to name some in order."""
    key = next((key for key in ("num_hidden_layers", "depth") if isinstance(part.get(key), int)), None)
    if key is None or part[key] <= count:
        return
    layers = part[key]
    part[key] = count
    for name, value in part.items():
        if isinstance(value, list) and len(value) == layers:
            part[name] = value[:count]
        elif isinstance(value, dict) and value and all(isinstance(layer, int) for layer in value):
            part[name] = {layer: own for layer, own in value.items() if layer < count}
        elif isinstance(value, list) and name.endswith("indexes"):
            part[name] = sorted({index * count // layers for index in value})


def _narrow(values: dict[str, Any], text: dict[str, Any]) -> None:
    """Fewer heads, as wide as they were, and narrower hidden states, in every part that meets those of the text."""
    heads = {key: n for key, n in text.items() if key.endswith("_heads") and isinstance(n, int) and n > 0}
    hidden, fewer = text["hidden_size"], gcd(*heads.values())
    fewer = narrower = fewer if fewer % 2 else fewer // 2  # two of each where there were
    if text.get("head_dim"):  # the width of a head does not follow from that of a hidden state
        while hidden % (2 * narrower) == 0 and hidden // narrower > _WIDTH:
            narrower *= 2
    for key, n in text.items():
        if key in heads:
            text[key] = n // fewer
        elif key.endswith("intermediate_size") and isinstance(n, int) and n % narrower == 0:
            text[key] = n // narrower
    for part in (values, *(part for part in values.values() if isinstance(part, dict))):
        for key, n in part.items():
            if n == hidden and str(key).endswith(("hidden_size", "_dim")):
                part[key] = hidden // narrower
