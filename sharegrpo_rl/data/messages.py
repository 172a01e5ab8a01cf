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

    Images go where the text has `<image>` marks, else all come first; UserError where the two differ in number.
    """
    pieces = text.split(IMAGE_MARK)
    marks = len(pieces) - 1
    if marks not in (0, num_images):
        raise UserError(f"the question has {marks} {IMAGE_MARK} mark(s) but {num_images} image(s): {text[:80]!r}")
    content: list[dict[str, Any]] = [] if marks else [{"type": "image"} for _ in range(num_images)]
    for number, piece in enumerate(pieces):
        if number > 0:
            content.append({"type": "image"})
        if piece.strip():
            content.append({"type": "text", "text": piece.strip()})
    if prompt := format_prompt.strip():  # joins the last text, or stands alone after a closing image
        if content and content[-1]["type"] == "text":
            content[-1]["text"] += f" {prompt}"
        else:
            content.append({"type": "text", "text": prompt})
    messages = [{"role": "user", "content": content}]
    if system := system_prompt.strip():
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    return messages
