"""One picture of one group: the question and its images on the left, completions with their rewards on the right."""

from __future__ import annotations

import textwrap

from PIL import Image, ImageDraw, ImageFont

from sharegrpo_rl.data.types import Completion, Group, SeedQuestion

WIDTH, LEFT, MARGIN = 1000, 300, 12
LINE, FONT_SIZE = 18, 14
COMPLETIONS_SHOWN = 6  # of each variant
LINES_SHOWN = 4  # of each completion
FRAME = (200, 200, 200)
COLOURS = {"right": (0, 110, 40), "wrong": (170, 20, 20), "text": (20, 20, 20), "grey": (110, 110, 110)}


def draw_group(group: Group, question: SeedQuestion) -> Image.Image:
    """An RGB picture, WIDTH pixels wide and as high as the group needs."""
    left = _left_lines(group, question)
    right = _right_lines(group, question)
    pictures = [_fit(source.open(), LEFT - 2 * MARGIN) for source in question.images]
    pictures_height = sum(p.height + MARGIN for p in pictures)
    height = 2 * MARGIN + max(pictures_height + LINE * len(left), LINE * len(right))
    page = Image.new("RGB", (WIDTH, height), "white")
    y = MARGIN
    for picture in pictures:
        page.paste(picture, (MARGIN, y))
        ImageDraw.Draw(page).rectangle((MARGIN - 1, y - 1, MARGIN + picture.width, y + picture.height), outline=FRAME)
        y += picture.height + MARGIN
    _write(page, left, MARGIN, y)
    _write(page, right, LEFT + MARGIN, MARGIN)
    return page


def _left_lines(group: Group, question: SeedQuestion) -> list[tuple[str, str]]:
    lines = [(line, "text") for line in textwrap.wrap(question.question, 36)[:12]]
    lines.append((f"answer: {question.answer}"[:36], "right"))
    lines.append((f"{group.subtask or question.subtask}  {group.question_id}"[:36], "grey"))
    return lines


def _right_lines(group: Group, question: SeedQuestion) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for index, slot in enumerate(group.slots):
        transform = f" [{slot.transform}]" if slot.transform else ""
        wording = " ".join(question.wordings[slot.variant_index].split())
        heading = f"variant {slot.variant_index}{transform}: {wording}"
        lines.append((textwrap.shorten(heading, 90, placeholder=" ..."), "grey"))
        completions = group.completions[index][:COMPLETIONS_SHOWN]
        for sample, completion in enumerate(completions):
            lines += _completion_lines(group, index, sample, completion)
        if left_out := len(group.completions[index]) - len(completions):
            lines.append((f"... and {left_out} more", "grey"))
    return lines


def _completion_lines(group: Group, variant: int, sample: int, completion: Completion) -> list[tuple[str, str]]:
    right = group.accuracies[variant, sample] >= 1
    text = " ".join(completion.text.split()) + (" [cut off]" if completion.truncated else "")
    wrapped = textwrap.wrap(text, 78) or ["(empty)"]
    head = f"{float(group.rewards[variant, sample]):+.2f}  {wrapped[0]}"
    lines = [head, *(f"       {line}" for line in wrapped[1:LINES_SHOWN])]
    return [(line, "right" if right else "wrong") for line in lines]


def _write(page: Image.Image, lines: list[tuple[str, str]], x: int, y: int) -> None:
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(FONT_SIZE)
    for number, (text, colour) in enumerate(lines):
        draw.text((x, y + number * LINE), text, fill=COLOURS[colour], font=font)


def _fit(picture: Image.Image, side: int) -> Image.Image:
    """Enlarged without smoothing (small pictures keep their pixels visible) or shrunk to at most `side`."""
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BICUBIC)
