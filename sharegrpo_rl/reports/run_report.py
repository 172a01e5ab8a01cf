"""`report`: one run's folder as one self-contained HTML page, finished or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from sharegrpo_rl.envs.registry import make_env
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.files import storage_errors, write_atomically
from sharegrpo_rl.reports.alarms import Alarm, find_alarms
from sharegrpo_rl.reports.examples import png
from sharegrpo_rl.reports.methods import Run, read_run
from sharegrpo_rl.reports.pages import render_run
from sharegrpo_rl.reports.plots import draw_panels
from sharegrpo_rl.reports.rollout_browser import flat_groups
from sharegrpo_rl.runs.journal import read_rollouts
from sharegrpo_rl.runs.train import quiet_libraries


def report_run(folder: Path, out: Path | None = None) -> tuple[Path, list[Alarm]]:
    """Write the page (RUN/report.html by default); returns its path and the alarms. UserError where there is no run."""
    run, rollouts = read_run(folder), read_rollouts(folder)
    if not run.rows:
        raise UserError(f"{folder}: no iteration is done yet; there is nothing to report")
    images, problem = rollout_images(run, rollouts) if rollouts else ({}, "This run kept no rollouts.")
    alarms = find_alarms(run.rows)
    page = render_run(run, alarms, draw_panels(run), rollouts, images, [problem] if problem else [])
    target = out or folder / "report.html"
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, page)
    return target, alarms


def rollout_images(run: Run, rollouts: Sequence[dict[str, Any]]) -> tuple[dict[str, list[str]], str]:
    """The images of every slot by its key, drawn again from the data; and why there are none where that fails."""
    quiet_libraries()
    from sharegrpo_rl.algorithms.registry import build_config

    params, found = run.params, {}
    try:
        config = build_config(params["run"], params["env"], params["config"], run.seed)
        options = config.train_env_config()
        env = make_env(config.env, options, rewards=config.rewards, answer_format=config.answer_format, check=False)
        for group in flat_groups(rollouts):
            for slot in group["slots"]:
                if slot["image"] not in found:
                    observation, info = env.reset(options=_reset_options(group, slot))
                    if info["question_id"] != group["question_id"]:
                        return {}, "The images are not shown, because the data has changed since the run."
                    found[slot["image"]] = [png(Image.fromarray(pixels)) for pixels in observation["images"]]
    except UserError as error:
        return {}, f"The images are not shown, because the data could not be read: {error}"
    return found, ""


def _reset_options(group: dict[str, Any], slot: dict[str, Any]) -> dict[str, Any]:
    return {"question_index": group["question_index"]} | {
        name: slot[name] for name in ("variant_index", "transform", "transform_seed")
    }
