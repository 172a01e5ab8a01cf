"""The text of a prompt as chat messages, in the form that Hugging Face chat templates take."""

from __future__ import annotations

from typing import Any

from sharegrpo_rl.errors import UserError

IMAGE_MARK = "<image>"


def place_sentence(question_text: str, sentence: str | None, position: str) -> str:
    """The question with the sentence about its transform, once, "before" or "after" it; None leaves the question."""
    if not sentence:
        return question_text
    if position == "before":
        return f"{sentence} {question_text}"
    if position == "after":
        return f"{question_text} {sentence}"
    raise UserError(f"transform_text_position is {position!r}; choose before or after")


def chat_messages(text: str, num_images: int, system_prompt: str, format_prompt: str) -> list[dict[str, Any]]:
    """[system,] user message, each content a list of {"type": "text" | "image"} parts.

    Images stand where the text has `<image>` marks, else all come first; UserError where the two differ in number.
    """
    pieces = text.split(IMAGE_MARK)
    marks = len(pieces) - 1
    if marks not in (0, num_images):
        raise UserError(
            f"the question marks {marks} {IMAGE_MARK} place(s) but has {num_images} image(s): {text[:80]!r}"
        )
    image = {"type": "image"}
    content: list[dict[str, Any]] = [] if marks else [dict(image) for _ in range(num_images)]
    for place, piece in enumerate(pieces):
        if place > 0:
            content.append(dict(image))
        if piece.strip():
            content.append({"type": "text", "text": piece.strip()})
    return [*_system(system_prompt), {"role": "user", "content": _with_format(content, format_prompt.strip())}]


def _system(system_prompt: str) -> list[dict[str, Any]]:
    if not system_prompt.strip():
        return []
    return [{"role": "system", "content": [{"type": "text", "text": system_prompt.strip()}]}]


def _with_format(content: list[dict[str, Any]], format_prompt: str) -> list[dict[str, Any]]:
    """The format prompt joins the last text, or stands alone after a closing image."""
    if not format_prompt:
        return content
    if content and content[-1]["type"] == "text":
        return [*content[:-1], {"type": "text", "text": f"{content[-1]['text']} {format_prompt}"}]
    return [*content, {"type": "text", "text": format_prompt}]
