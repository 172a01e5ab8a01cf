"""One self-contained page that shows what a run trains on: questions, wordings, transformed images, exact prompts."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sharegrpo_rl.data.seeding import derive_seed
from sharegrpo_rl.data.slots import plan_slots
from sharegrpo_rl.data.transforms import TRANSFORMS, allowed_transforms
from sharegrpo_rl.data.types import SeedQuestion, Slot
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.preview_style import STYLE

Pictures: TypeAlias = tuple[NDArray[np.uint8], ...]
Encode: TypeAlias = Callable[[str, Pictures], tuple[str, int, int]]  # -> prompt text, tokens, image tokens among them
LONGEST_SHOWN = 448  # pixels: larger pictures are shrunk on the page, never for the model


@dataclass(frozen=True)
class PreviewSettings:
    """The settings of a run that decide its prompts; names and meaning are those of the run's options."""

    title: str
    num_variants: int = 1
    transform_probability: float = 0.0
    include_original: str = "always"
    wording: str = "random"
    strict_variants: bool = False
    transforms: Sequence[str] | None = None
    seed: int = 0


def write_preview(
    env: MultimodalQAEnv, encode: Encode, settings: PreviewSettings, out: Path, *, num: int = 6, num_groups: int = 3
) -> Path:
    """Write the page for the first `num` questions, each with `num_groups` groups as training would draw them."""
    number = min(num, len(env.bank))
    if number < 1:
        raise UserError(f"preview: {num} questions are asked for; at least one must be (key: --num)")
    sections = [_question(env, encode, settings, index, num_groups) for index in range(number)]
    page = _page(env, settings, sections)
    part = out.with_name(out.name + ".part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(page, encoding="utf-8")
        os.replace(part, out)
    except OSError as error:
        raise UserError(f"preview: cannot write {out} ({error.strerror}); choose another --out") from None
    return out


def _question(env: MultimodalQAEnv, encode: Encode, settings: PreviewSettings, index: int, num_groups: int) -> str:
    question = env.bank[index]
    groups = [_group(env, encode, settings, index, draw) for draw in range(num_groups)]
    observation, _ = env.reset(options={"question_index": index})
    answer = f'<p class="answer">{escape(question.answer)}</p>'
    facts = f"""<aside>
{_pictures(observation["images"])}
<h3>Answer</h3>{answer}
<h3>Wordings</h3>{_wordings(question)}
<h3>Transforms</h3>{_transforms(env, settings, index)}
</aside>"""
    kind = f'<span class="tag">{escape(question.subtask)}</span>' if question.subtask else ""
    return f"""<section>
<h2>{escape(question.question)}</h2>
<p class="id">{kind}<code>{escape(question.id)}</code></p>
<div class="question">{facts}<div class="groups">{"".join(groups)}</div></div>
</section>"""


def _wordings(question: SeedQuestion) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in question.wordings)
    return f'<ol start="0">{items}</ol>'


def _transforms(env: MultimodalQAEnv, settings: PreviewSettings, index: int) -> str:
    """Those that the question may get, and every other one with the reason why not."""
    allowed = allowed_transforms(env.bank[index], settings.transforms)
    why = env.dropped_transforms(index)
    tags = " ".join(f'<span class="tag">{escape(TRANSFORMS[name].label)}</span>' for name in allowed) or "none"
    reasons: dict[str, list[str]] = {}
    for name, transform in TRANSFORMS.items():
        if name not in allowed:
            reasons.setdefault(why.get(name, "the run does not list it"), []).append(transform.label)
    dropped = "".join(
        f"<li>Not used, {escape(reason)}: {' '.join(f'<s>{escape(label)}</s>' for label in labels)}</li>"
        for reason, labels in reasons.items()
    )
    return f"<p>{tags}</p>" + (f'<ul class="dropped">{dropped}</ul>' if dropped else "")


def _group(env: MultimodalQAEnv, encode: Encode, settings: PreviewSettings, index: int, draw: int) -> str:
    question = env.bank[index]
    slots = plan_slots(
        question,
        num_variants=settings.num_variants,
        transform_probability=settings.transform_probability,
        include_original=settings.include_original,
        wording=settings.wording,
        strict_variants=settings.strict_variants,
        allowed=allowed_transforms(question, settings.transforms),
        seed=derive_seed("preview", settings.seed, question.id, draw),
    )
    cards = "".join(_card(env, encode, index, slot) for slot in slots)
    short = settings.num_variants - len(slots)
    note = f' <span class="warn">{short} slot(s) fewer: wordings and transforms ran out</span>' if short else ""
    return f'<h3>Group, draw {draw + 1}{note}</h3><div class="cards">{cards}</div>'


def _card(env: MultimodalQAEnv, encode: Encode, index: int, slot: Slot) -> str:
    options: dict[str, Any] = {
        "question_index": index,
        "variant_index": slot.variant_index,
        "transform": slot.transform,
        "transform_seed": slot.transform_seed,
    }
    observation, _ = env.reset(options=options)
    done = TRANSFORMS[slot.transform].label if slot.transform else "untouched"
    mark = "tag strong" if slot.transform else "tag"
    return f"""<article>
{_pictures(observation["images"])}
<p><span class="tag">wording {slot.variant_index}</span> <span class="{mark}">{escape(done)}</span></p>
<p class="text">{escape(observation["question"])}</p>
{_prompt(encode, observation["question"], observation["images"])}
</article>"""


def _prompt(encode: Encode, text: str, pictures: Pictures) -> str:
    try:
        prompt, tokens, image_tokens = encode(text, pictures)
    except UserError as error:
        return f'<p class="warn">{escape(str(error))}</p>'
    return f"""<p class="tokens"><b>{tokens}</b> tokens, <b>{image_tokens}</b> of them image</p>
<details><summary>exact prompt</summary><pre>{escape(_folded(prompt))}</pre></details>"""


def _folded(prompt: str) -> str:
    """Runs of one special token, as image placeholders make them, written once with their number."""
    return re.sub(r"(<[^<>\s]+>)(?:\1)+", lambda run: f"{run[1]} x {len(run[0]) // len(run[1])}", prompt)


def _pictures(pictures: Pictures) -> str:
    return f'<div class="pictures">{"".join(_picture(picture) for picture in pictures)}</div>' if pictures else ""


def _picture(pixels: NDArray[np.uint8]) -> str:
    height, width = pixels.shape[:2]
    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST_SHOWN, LONGEST_SHOWN))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    small = ' class="small"' if max(height, width) <= 112 else ""
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    size = f"{width} x {height} pixels"
    return f'<img{small} alt="{size}" title="{size}" src="data:image/png;base64,{data}">'


def _page(env: MultimodalQAEnv, settings: PreviewSettings, sections: Sequence[str]) -> str:
    facts = {
        "data": f"{env.bank.name}, {env.bank.split}, {len(env.bank):,} questions",
        "variants a group": settings.num_variants,
        "transform probability": f"{settings.transform_probability:g}",
        "original wording": settings.include_original,
        "answer format": env.rubric.form.name,
    }
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in facts.items())
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(settings.title)}: preview</title>
<style>{STYLE}</style>
<main>
<header><h1>{escape(settings.title)}</h1><dl>{rows}</dl></header>
{"".join(sections)}
</main>
</html>
"""
