"""`preview`: one self-contained page of what a run trains on: questions, wordings, transformed images, exact prompts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from sharegrpo_rl.data.transforms import TRANSFORMS, allowed_transforms
from sharegrpo_rl.data.types import Slot
from sharegrpo_rl.data.variants import derive_seed, plan_slots
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.envs.registry import make_env, shown_env_config
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.files import write_atomically
from sharegrpo_rl.reports.pages import Pixels, picture, render
from sharegrpo_rl.runs.examples import check_data
from sharegrpo_rl.runs.process import quiet_libraries
from sharegrpo_rl.runs.run_file import RunSpec
from sharegrpo_rl.statistics.formatting import number

Encode: TypeAlias = Callable[[str, tuple[Pixels, ...]], tuple[str, int, int]]  # -> prompt, tokens, image tokens of them
MAX_SIDE = 448  # pixels: larger pictures are shrunk on the page, never for the model
SMALL_SIDE = 112  # pixels: smaller pictures are enlarged by the style sheet


@dataclass(frozen=True)
class PreviewSettings:
    """The options of a run that decide its prompts, under their own names."""

    title: str
    num_variants: int = 1
    transform_probability: float = 0.0
    include_original: str = "always"
    wording: str = "random"
    strict_variants: bool = False
    transforms: Sequence[str] | None = None
    seed: int = 0


def preview_run(spec: RunSpec, num: int, out: Path, seed: int) -> None:
    """Write the page for the first `num` training questions; UserError where data, processor or page fail."""
    config = spec.config
    check_data(config["env_config"])
    quiet_libraries()
    env = make_env(
        spec.env,
        shown_env_config(config),
        rewards=config["rewards"],
        answer_format=config["answer_format"],
        check=False,
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
    write_preview(env, _encoder(spec, seed, env), settings, out, num=num)


def write_preview(
    env: MultimodalQAEnv, encode: Encode, settings: PreviewSettings, out: Path, *, num: int = 6, num_groups: int = 3
) -> Path:
    """Write the page for the first `num` questions, each with `num_groups` groups as training would draw them."""
    count = min(num, len(env.bank))
    if count < 1:
        raise UserError(f"preview: {num} questions were requested; show at least one (key: --num)")
    page = render(
        "preview.html",
        title=settings.title,
        facts={
            "data": f"{env.bank.name}, {env.bank.split}, {number(len(env.bank))} questions",
            "variants a group": settings.num_variants,
            "transform probability": number(settings.transform_probability, "g"),
            "original wording": settings.include_original,
            "answer format": env.rubric.form.name,
        },
        questions=[_question(env, encode, settings, index, num_groups) for index in range(count)],
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, page)
    except OSError as error:
        raise UserError(f"preview: cannot write {out} ({error.strerror}); choose another --out") from None
    return out


def _question(
    env: MultimodalQAEnv, encode: Encode, settings: PreviewSettings, index: int, num_groups: int
) -> dict[str, Any]:
    question = env.bank[index]
    allowed = allowed_transforms(question, settings.transforms)
    reasons = env.dropped_transforms(index)
    dropped: dict[str, list[str]] = {}  # why not -> labels of transforms
    for name, transform in TRANSFORMS.items():
        if name not in allowed:
            dropped.setdefault(reasons.get(name, "the run does not list it"), []).append(transform.label)
    groups = []
    for draw in range(num_groups):
        slots = plan_slots(
            question,
            num_variants=settings.num_variants,
            transform_probability=settings.transform_probability,
            include_original=settings.include_original,
            wording=settings.wording,
            strict_variants=settings.strict_variants,
            allowed=allowed,
            seed=derive_seed("preview", settings.seed, question.id, draw),
        )
        groups.append([_slot(env, encode, index, slot) for slot in slots])
    observation, _ = env.reset(options={"question_index": index})
    return {
        "id": question.id,
        "kind": question.subtask,
        "question": question.question,
        "answer": question.answer,
        "pictures": _pictures(observation["images"]),
        "wordings": question.wordings,
        "transforms": [TRANSFORMS[name].label for name in allowed],
        "dropped": dropped,
        "groups": groups,
        "slots_planned": settings.num_variants,
    }


def _slot(env: MultimodalQAEnv, encode: Encode, index: int, slot: Slot) -> dict[str, Any]:
    options = {name: getattr(slot, name) for name in ("variant_index", "transform", "transform_seed")}
    observation, _ = env.reset(options={"question_index": index, **options})
    shown = {
        "wording": slot.variant_index,
        "transform": TRANSFORMS[slot.transform].label if slot.transform else None,
        "pictures": _pictures(observation["images"]),
        "text": observation["question"],
    }
    try:
        prompt, tokens, image_tokens = encode(observation["question"], observation["images"])
    except UserError as error:
        return shown | {"problem": str(error)}
    return shown | {"problem": "", "prompt": _collapse(prompt), "tokens": tokens, "image_tokens": image_tokens}


def _collapse(prompt: str) -> str:
    """Runs of one special token, such as image placeholders, written once with their number."""
    return re.sub(r"(<[^<>\s]+>)(?:\1)+", lambda run: f"{run[1]} x {len(run[0]) // len(run[1])}", prompt)


def _pictures(images: Sequence[Pixels]) -> list[dict[str, Any]]:
    return [
        {
            "source": picture(pixels, MAX_SIDE, smallest=1),
            "size": f"{pixels.shape[1]} x {pixels.shape[0]} pixels",
            "small": max(pixels.shape[:2]) <= SMALL_SIDE,
        }
        for pixels in images
    ]


def _encoder(spec: RunSpec, seed: int, env: MultimodalQAEnv) -> Encode:
    """The run's own prompts, through its model's processor."""
    from sharegrpo_rl.algorithms.model_source import tiny_policy
    from sharegrpo_rl.algorithms.registry import build_config
    from sharegrpo_rl.algorithms.run_data import prompt_settings
    from sharegrpo_rl.evaluation.prompt_check import PromptCheck
    from sharegrpo_rl.models.prompts import PromptEncoder, Question, load_processor

    config = build_config(spec.run, spec.env, spec.config, seed)
    if spec.config["model"] == "tiny":
        encoder = tiny_policy(config).encoder  # its tokenizer is made from the run's questions
    else:
        encoder = PromptEncoder(load_processor(spec.config["model"]), prompt_settings(config))
    for report in env.check_rows(PromptCheck(env, encoder)):
        report.log()

    def encode(text: str, images: tuple[Pixels, ...]) -> tuple[str, int, int]:
        question = Question(text, images)
        (prompt,) = encoder.encode([question])
        return prompt.text, len(prompt.input_ids), encoder.picture_tokens(question, prompt)

    return encode
