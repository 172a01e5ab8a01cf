"""`report`: a run's folder, finished or not, as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from sharegrpo_rl.envs.registry import make_env, train_env_config
from sharegrpo_rl.errors import UserError, require_extra
from sharegrpo_rl.files import storage_errors, write_atomically
from sharegrpo_rl.grader import errors_by_kind
from sharegrpo_rl.reports.alarms import RULES, Alarm, find_alarms
from sharegrpo_rl.reports.methods import Run, display_name, read_run
from sharegrpo_rl.reports.pages import Table, make_table, picture, render
from sharegrpo_rl.reports.plots import draw_panels
from sharegrpo_rl.runs.journal import read_rollouts
from sharegrpo_rl.runs.process import quiet_libraries
from sharegrpo_rl.statistics.formatting import gigabytes, number, percent, percent_sign

MAX_GROUPS = 400  # in the rollout browser; a page with more is slow to open
MAX_VALUE = 300  # characters of a setting
MAX_FAILURES = 100  # answers on which the grader failed

Groups: TypeAlias = Sequence[Mapping[str, Any]]
Images: TypeAlias = tuple[dict[str, list[str]], str]  # data URIs by `image_key`, and why there are none


def report_run(folder: Path, out: Path | None = None) -> tuple[Path, list[Alarm]]:
    """Write the page (RUN/report.html by default); returns its path and the alarms. UserError where there is no run."""
    require_extra("plots", "report")
    run = read_run(folder)
    if not run.rows:
        raise UserError(f"{folder}: no iteration is done yet; there is nothing to report")
    target = out or folder / "report.html"
    page = run_page(run)
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, page)
    return target, find_alarms(run.rows)


def run_page(run: Run, read_images: Callable[[Run, Groups], Images] | None = None, **watched: str) -> str:
    """The page of a run, also of one without an iteration. `watched`: what the templates need of a page that is served."""
    rollouts = read_rollouts(run.path)
    groups = rollout_groups(rollouts)
    images, note = (read_images or rollout_images)(run, groups) if groups else ({}, "")
    if run.rows and not rollouts:
        note = "This run kept no rollouts." if run.finished else "This run has kept no rollouts yet."
    return render(
        "run.html",
        title=f"{display_name(run.params['run'])} on {run.params['env']}, seed {run.seed}",
        run=run,
        facts=headline_figures(run),
        note=note,
        alarms=find_alarms(run.rows),
        accuracy=accuracy_table(run) if run.finished else None,
        failures=failures_table(run, rollouts),
        curves=draw_panels(run),
        groups=groups,
        filters=filter_choices(groups) if groups else {},
        images=images,
        settings=settings_table(run),
        rules=make_table(
            "Rules of the alarms", {"alarm": lambda r: r.name, "raised by": lambda r: r.when}, RULES, text=True
        ),
        **watched,
    )


def headline_figures(run: Run) -> dict[str, str]:
    """The figures at the top of the page."""
    cost = {
        "iterations": f"{len(run.rows)} of {run.planned_iterations}",
        "completions": number(run.axes["completions"][-1]),
        "seconds of training": number(run.axes["seconds"][-1]),
    }
    s = run.summary
    if s is None:
        before = {"accuracy before": percent_sign(run.before["evaluation"]["accuracy"])} if run.before else {}
        return before | cost
    return {
        "accuracy before": percent_sign(s["accuracy_before"]),
        "after": percent_sign(s["accuracy_after"]),
        "blind": percent_sign(s["blind_accuracy_after"]),
        "test questions": number(s["test_questions"]),
        "in the required format": percent_sign(s["format_rate_after"]),
        **cost,
        "peak memory, GB": gigabytes(s.get("peak_memory_bytes")),
    }


def accuracy_table(run: Run) -> Table:
    """Greedy accuracy of a finished run on all test questions, then by task and by kind."""
    s = run.summary or {}
    entries = {
        "all": {
            "questions": s["test_questions"],
            "before": s["accuracy_before"],
            "after": s["accuracy_after"],
            "blind": s["blind_accuracy_after"],
        }
    } | s["accuracy_by_task"]
    if len(kinds := s["accuracy_by_kind"]) > 1:
        entries |= {kind or "(unnamed)": entry for kind, entry in kinds.items()}
    columns = {
        "questions of": lambda item: item[0],
        "number": lambda item: number(item[1]["questions"]),
        "before": lambda item: percent(item[1]["before"]),
        "after": lambda item: percent(item[1]["after"]),
        "blind": lambda item: percent(item[1]["blind"]),
    }
    note = "Percent, on the test questions. Blind: the same questions with swapped images."
    return make_table("Greedy accuracy", columns, list(entries.items()), note)


def failures_table(run: Run, rollouts: Sequence[Mapping[str, Any]]) -> Table | None:
    """The answers on which the grader failed, of the groups that were kept and of the test; None where there are none."""
    found = [
        (f"iteration {row['training_iteration']}", completion["error"], group["answer"], completion["text"])
        for row in rollouts
        for group in row["groups"]
        for slot in group["slots"]
        for completion in slot["completions"]
        if completion.get("error")
    ]
    found += [("test", row["error"], row["gold"], row["text"]) for row in run.predictions or [] if row.get("error")]
    if not found:
        return None
    counts = ", ".join(f"{n} {kind}" for kind, n in errors_by_kind(error for _, error, _, _ in found).items() if n)
    columns = {
        "when": lambda item: item[0],
        "error": lambda item: _cut(item[1]),
        "right answer": lambda item: _cut(item[2]),
        "end of the response": lambda item: item[3][-MAX_VALUE:],
    }
    note = f"By kind: {counts}. They count as wrong; in training only the groups that were kept are here."
    return make_table("Answers on which the grader failed", columns, found[-MAX_FAILURES:], note, text=True)


def settings_table(run: Run) -> Table:
    """Every option of the run and every package version."""
    settings = run.params["config"] | {f"version of {name}": v for name, v in run.params["versions"].items()}
    columns = {"key": lambda item: item[0], "value": lambda item: _cut(str(item[1]))}
    return make_table("Settings and versions", columns, sorted(settings.items()), text=True)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]} ..."


def rollout_groups(rollouts: Groups) -> list[dict[str, Any]]:
    """The newest MAX_GROUPS groups, newest iteration first; each slot with the key of its images."""
    groups = []
    for row in reversed(rollouts):
        for group in row["groups"]:
            slots = [slot | {"image": image_key(group, slot)} for slot in group["slots"]]
            groups.append(group | {"iteration": row["training_iteration"], "slots": slots})
    return groups[:MAX_GROUPS]


def image_key(group: Mapping[str, Any], slot: Mapping[str, Any]) -> str:
    """Slots with equal keys show equal images."""
    return f"{group['question_index']}/{slot['transform'] or ''}/{slot['transform_seed'] if slot['transform'] else 0}"


def filter_choices(groups: Groups) -> dict[str, list[str]]:
    """What each menu of the rollout browser offers."""
    return {
        "iteration": list(dict.fromkeys(str(g["iteration"]) for g in groups)),
        "kind": sorted({g["subtask"] for g in groups if g["subtask"]}),
        "variant": [str(v) for v in range(max(len(g["slots"]) for g in groups))],
        "verdict": ["right", "wrong", "cut", "grader error"],
        "trained": ["native", "shared", "untrained"],
    }


def rollout_images(run: Run, groups: Groups) -> Images:
    """The images of every slot as data URIs by its key, read again from the data; or why there are none."""
    quiet_libraries()
    config, images = run.params["config"], dict[str, list[str]]()
    try:
        env = make_env(
            run.params["env"],
            train_env_config(config),
            rewards=config["rewards"],
            answer_format=config["answer_format"],
            check=False,
        )
        for group in groups:
            for slot in group["slots"]:
                if slot["image"] in images:
                    continue
                options = {name: slot[name] for name in ("variant_index", "transform", "transform_seed")}
                observation, info = env.reset(options={"question_index": group["question_index"], **options})
                if info["question_id"] != group["question_id"]:
                    return {}, "The images are not shown, because the data has changed since the run."
                images[slot["image"]] = [picture(pixels) for pixels in observation["images"]]
    except UserError as error:
        return {}, f"The images are not shown, because the data could not be read: {error}"
    return images, ""
