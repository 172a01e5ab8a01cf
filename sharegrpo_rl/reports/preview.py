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

from sharegrpo_rl.data.transforms import TRANSFORMS, allowed_transforms
from sharegrpo_rl.data.types import SeedQuestion, Slot
from sharegrpo_rl.data.variants import derive_seed, plan_slots
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.envs.registry import make_env
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.runs.run_file import RunSpec, check_data
from sharegrpo_rl.runs.train import quiet_libraries

# ---- The style sheet of the preview page: one column on a phone, light or dark as the reader's system is.

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1b2330; --soft: #5d6878; --line: #dfe3e9;
  --tag: #eef1f5; --strong: #fde9c8; --strong-ink: #7a4a00; --warn: #b3261e; --right: #14713d; }
@media (prefers-color-scheme: dark) { :root { --page: #12161c; --card: #1b212a; --ink: #e6eaf0; --soft: #9aa5b4;
  --line: #313a46; --tag: #28303b; --strong: #4a3717; --strong-ink: #ffd591; --warn: #ff8a80; --right: #6fd69b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 24px 20px 64px; }
header { margin-bottom: 28px; }
h1 { font-size: 1.7rem; margin: 0 0 12px; overflow-wrap: anywhere; }
dl { display: flex; flex-wrap: wrap; gap: 8px 28px; margin: 0; }
dt, h3 { color: var(--soft); font-size: .75rem; font-weight: 600; letter-spacing: .04em; text-transform: uppercase; }
dd { margin: 0; overflow-wrap: anywhere; }
h3 { margin: 18px 0 6px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 20px;
  margin-bottom: 20px; }
h2 { font-size: 1.15rem; margin: 0 0 4px; overflow-wrap: anywhere; white-space: pre-line; }
.id { margin: 0; color: var(--soft); }
.question { display: grid; grid-template-columns: 260px minmax(0, 1fr); gap: 28px; margin-top: 14px; }
.groups > h3:first-child { margin-top: 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(205px, 1fr)); gap: 14px; }
article { border: 1px solid var(--line); border-radius: 10px; padding: 12px; min-width: 0; }
article p { margin: 8px 0 0; }
.pictures { display: flex; flex-wrap: wrap; gap: 6px; }
img { max-width: 100%; max-height: 240px; background: #fff; border: 1px solid var(--line); border-radius: 6px; }
img.small { height: 126px; image-rendering: pixelated; }
ol, ul { margin: 0; padding-left: 1.4em; }
li { overflow-wrap: anywhere; }
.answer { margin: 0; font-weight: 650; color: var(--right); overflow-wrap: anywhere; }
.text { overflow-wrap: anywhere; white-space: pre-line; }
.tag { display: inline-block; background: var(--tag); border-radius: 99px;
  padding: 1px 9px; margin: 0 2px 3px 0; font-size: .8rem; }
.strong { background: var(--strong); color: var(--strong-ink); }
.dropped { list-style: none; padding: 0; margin-top: 6px; font-size: .85rem; color: var(--soft); }
.dropped li { margin-top: 4px; }
.dropped s { border: 1px solid var(--line); border-radius: 99px; padding: 0 7px; white-space: nowrap; }
.id .tag { margin-right: 8px; }
aside p { margin: 0; }
.tokens, summary { color: var(--soft); font-size: .85rem; }
.warn { color: var(--warn); text-transform: none; letter-spacing: 0; font-weight: 500; }
details { margin-top: 4px; }
summary { cursor: pointer; }
pre, code { font: 12px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--page);
  border-radius: 6px; padding: 10px; margin: 6px 0 0; }
@media (max-width: 760px) { main { padding: 16px 12px 40px; } section { padding: 14px; }
  .question { grid-template-columns: minmax(0, 1fr); gap: 20px; } }
"""


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


# ---- `preview`: a page of a run's questions, encoded as its own model would see them; no weights are loaded.


def preview_run(spec: RunSpec, num: int, out: Path, seed: int) -> None:
    """Write the page for the first `num` training questions; UserError where data, processor or page fail."""
    check_data(spec.config["env_config"])
    quiet_libraries()
    config = spec.config
    env = make_env(
        spec.env, config["env_config"], rewards=config["rewards"], answer_format=config["answer_format"], check=False
    )
    settings = PreviewSettings(
        title=spec.name,
        num_variants=config.get("num_variants", 1),  # SFT shows each question once
        transform_probability=config["transform_probability"],
        include_original=config.get("include_original", "sampled"),
        wording=config["wording"],
        strict_variants=config.get("strict_variants", False),
        transforms=config["transforms"],
        seed=seed,
    )
    write_preview(env, _encoder(spec, seed), settings, out, num=num)


def _encoder(spec: RunSpec, seed: int) -> Encode:
    from sharegrpo_rl.algorithms.model_source import prompt_settings, tiny_policy
    from sharegrpo_rl.algorithms.registry import build_config
    from sharegrpo_rl.models.prompts import PromptEncoder, Question, load_processor

    run_config = build_config(spec.run, spec.env, spec.config, seed)
    if spec.config["model"] == "tiny":
        encoder = tiny_policy(run_config).encoder  # its tokenizer is made from the run's questions
    else:
        encoder = PromptEncoder(load_processor(spec.config["model"]), prompt_settings(run_config))

    def encode(text: str, pictures: Pictures) -> tuple[str, int, int]:
        (prompt,) = encoder.encode([Question(text, pictures)])
        image_id = encoder.tokenizer.convert_tokens_to_ids(encoder.image_token) if encoder.image_token else None
        image_tokens = int((prompt.input_ids == image_id).sum()) if image_id is not None else 0
        return prompt.text, len(prompt.input_ids), image_tokens

    return encode
