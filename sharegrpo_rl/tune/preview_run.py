"""`preview`: a page of a run's questions, encoded as its own model would see them; no weights are loaded."""

from __future__ import annotations

from pathlib import Path

from sharegrpo_rl.envs.registry import make_env
from sharegrpo_rl.preview import Encode, Pictures, PreviewSettings, write_preview
from sharegrpo_rl.tune.environment_options import check_data
from sharegrpo_rl.tune.quiet import quiet_libraries
from sharegrpo_rl.tune.run_file import RunSpec


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
    from sharegrpo_rl.models.processor import load_processor
    from sharegrpo_rl.models.prompts import PromptEncoder, Question

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
