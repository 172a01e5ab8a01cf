"""The model folder: finding it in what a user names, how the run prompted and graded, and its copy as an export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from sharegrpo_rl.config import RunOptions
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.files import replacing, storage_errors
from sharegrpo_rl.runs.folder import RunFolder

SETTINGS_FILE = "sharegrpo_rl.json"
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
