"""The model folder: finding it in what a user names, how the run prompted and graded, its copy as an export, and its card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sharegrpo_rl.config import RunOptions
from sharegrpo_rl.config.resolve import resolve
from sharegrpo_rl.data.tables import looks_like_hub_name
from sharegrpo_rl.errors import UserError, package_version
from sharegrpo_rl.files import replacing, storage_errors
from sharegrpo_rl.runs.folder import RunFolder
from sharegrpo_rl.runs.run_file import RunSpec
from sharegrpo_rl.statistics.formatting import percent_sign

SETTINGS_FILE = "sharegrpo_rl.json"
CARD = "README.md"
IN_CHECKPOINT = Path("learner_group/learner/rl_module/default_policy")  # RLlib's layout
EXACT_STATE = "module_state.safetensors"  # used by training only; transformers loads the files next to it


def find_model_folder(path: Path) -> Path:
    """The Hugging Face folder inside an export, a checkpoint or a run's folder; UserError where there is none."""
    if not path.exists():
        raise UserError(
            f"{path}: no such model; give an exported folder (RUN/export) or a checkpoint (RUN/checkpoints/000123)"
        )
    candidates = [path, path / IN_CHECKPOINT, path / "export"]
    if path.is_dir() and (latest := RunFolder(path).latest_checkpoint()):
        candidates.append(latest.path / IN_CHECKPOINT)
    for folder in candidates:
        if (folder / "config.json").is_file():
            return folder
    raise UserError(f"{path}: holds no model (no config.json); give an exported folder (RUN/export) or a checkpoint")


def model_settings(folder: Path) -> dict[str, Any]:
    """What the run recorded next to its model; the defaults of a run for a model that was not trained here."""
    file = folder / SETTINGS_FILE
    if not file.exists():
        defaults = RunOptions.defaults()
        prompts = {key: defaults[key] for key in ("system_prompt", "max_prompt_tokens", "min_pixels", "max_pixels")}
        kept = {key: defaults[key] for key in ("answer_format", "max_completion_tokens")}
        return {"env": None, "env_config": {}, "prompts": {**prompts, "format_prompt": None}, **kept}
    try:
        settings = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise UserError(f"{file}: not the JSON object that `train` writes; export the model again") from None
    for key in ("env", "env_config", "prompts", "answer_format", "max_completion_tokens"):
        if key not in settings:
            raise UserError(f"{file}: has no {key!r}; export the model again")
    return settings


def export_checkpoint(path: Path, out: Path) -> None:
    """Copy the Hugging Face folder (weights merged, processor, sharegrpo_rl.json) out of a checkpoint."""
    source = find_model_folder(path)
    if out.exists():
        raise UserError(f"--out {out}: exists already; name a new folder")
    if out.resolve().is_relative_to(source.resolve()):
        raise UserError(f"--out {out}: is inside the model it is copied from; name another folder")
    with storage_errors(out, "free space or name another folder with --out"), replacing(out) as partial:
        shutil.copytree(source, partial, ignore=shutil.ignore_patterns(EXACT_STATE))


def model_card(spec: RunSpec, summary: Mapping[str, Any], export: Path) -> str:
    """The README.md of an exported model, as hubs read it: what it was made of, how, and what it scores.

    export: its folder. Paths of this machine are not in it, only their last parts.
    """
    config = json.loads((export / "config.json").read_text(encoding="utf-8"))
    model, data = spec.config["model"], _public(spec.config["env_config"].get("data"))
    head = {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text" if "vision_config" in config else "text-generation",
        **({"base_model": model} if _is_hub_name(model) else {}),
        **({"datasets": [data]} if isinstance(data, str) and _is_hub_name(data) else {}),
        "tags": ["sharegrpo-rl", spec.run.lower()],
        "metrics": ["accuracy"],
    }
    low, high = summary["confidence_interval_after"]
    kinds = [
        f"| {kind}, {scores['questions']} questions | {percent_sign(scores['before'])} | {percent_sign(scores['after'])} | "
        f"{percent_sign(scores['blind'])} |"
        for kind, scores in summary["accuracy_by_kind"].items()
    ]
    figures = [
        "| greedy accuracy | before | after | images swapped |",
        "|---|---|---|---|",
        f"| {summary['test_questions']} held-out questions | {percent_sign(summary['accuracy_before'])} | "
        f"{percent_sign(summary['accuracy_after'])} (95 % interval {percent_sign(low)} to {percent_sign(high)}) | "
        f"{percent_sign(summary['blind_accuracy_after'])} |",
        *(kinds if len(kinds) > 1 else []),
    ]
    changed = {spec.name: {"run": spec.run, "env": spec.env, "stop": spec.stop, "config": _changed(spec)}}
    return "\n".join(
        [
            f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
            f"# {spec.name}\n",
            f"{_public(model)}, trained with {spec.run} on {data or spec.env} by sharegrpo_rl {package_version('sharegrpo-rl')}: "
            f"{summary['iterations']} iterations, {summary['completions']:,} completions, seed {summary['seed']}.\n",
            *figures,
            "\nGraded by rules on the run's own held-out questions, which is no public benchmark. How the model was prompted and "
            f"graded is in `{SETTINGS_FILE}`.\n",
            "## Again\n",
            f"`sharegrpo-rl train FILE --seed {summary['seed']}`, where FILE holds (keys that are not named have their defaults):"
            "\n",
            f"```yaml\n{yaml.safe_dump(changed, sort_keys=False, allow_unicode=True)}```",
            "",
        ]
    )


def _changed(spec: RunSpec) -> dict[str, Any]:
    """Options of a run that are not the defaults of its method."""
    defaults = resolve(spec.run, {}).as_dict()
    changed = {key: value for key, value in spec.config.items() if value != defaults[key]}
    return {key: _public(value) for key, value in changed.items()}


def _public(value: Any) -> Any:
    """The value with the last part alone of each absolute path."""
    if isinstance(value, Mapping):
        return {key: _public(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_public(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~", "..")) else value


def _is_hub_name(name: str) -> bool:
    return "/" in name and looks_like_hub_name(name) and not Path(name).exists()
