"""The processor of a checkpoint without its weights: enough to show and count prompts."""

from __future__ import annotations

from typing import Any

from sharegrpo_rl.errors import UserError


def load_processor(path: str) -> Any:
    """Processor of a vision-language model, or tokenizer of a text-only one; UserError where neither can be loaded."""
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"model: cannot load the processor of {path!r} ({reason}); give a Hugging Face folder or name"
        ) from error
