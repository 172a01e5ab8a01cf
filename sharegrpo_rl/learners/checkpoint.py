"""A learner's checkpoint on disk: shards of its state, which load on any number of ranks, and a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path

from sharegrpo_rl.learners.vlm_learner import VLMLearner
from sharegrpo_rl.training.export import export_pretrained
from sharegrpo_rl.training.ranks import Ranks
from sharegrpo_rl.training.sharded_checkpoint import load, save

MODEL = Path("learner/rl_module/default_policy")  # RLlib's layout
SHARDS = "shards"
FACTS_FILE = "learner.json"


def write_checkpoint(learner: VLMLearner, folder: Path, model: bool = True) -> None:
    """Every rank writes its shards, rank 0 also the facts and the `model`. The folder has no shards yet. Collective."""
    folder.mkdir(parents=True, exist_ok=True)
    save(learner.step, folder / SHARDS)
    if model:
        export(learner, folder / MODEL)
    if Ranks.current().rank == 0:
        (folder / FACTS_FILE).write_text(json.dumps({"version": learner.version}))


def read_checkpoint(learner: VLMLearner, folder: Path) -> None:
    """Take up what any number of ranks have written. Collective."""
    load(learner.step, folder / SHARDS)
    learner.version = json.loads((folder / FACTS_FILE).read_text())["version"]


def has_checkpoint(folder: Path) -> bool:
    """Has `write_checkpoint` written this folder?"""
    return (folder / FACTS_FILE).exists()


def export(learner: VLMLearner, folder: Path) -> None:
    """The model as a Hugging Face folder with `sharegrpo_rl.json`, written by rank 0. Collective."""
    module = learner.rl_module
    if module.policy.sharded:
        export_pretrained(module.policy, folder)
        if Ranks.current().rank == 0:
            module.write_settings(folder)
    elif Ranks.current().rank == 0:
        module.save_pretrained(folder)
