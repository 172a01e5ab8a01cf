"""One run as a self-contained page: figures, alarms, curves, rollouts, settings."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from sharegrpo_rl.reports import rollout_browser
from sharegrpo_rl.reports import wording as say
from sharegrpo_rl.reports.alarms import RULES, Alarm
from sharegrpo_rl.reports.html_parts import document, fact_list, folded, section, table
from sharegrpo_rl.reports.methods import display_name
from sharegrpo_rl.reports.run_reading import Run
from sharegrpo_rl.reports.tables import Table


def render_run(
    run: Run,
    alarms: Sequence[Alarm],
    curves: Sequence[tuple[str, str]],
    rollouts: Sequence[dict[str, Any]],
    images: dict[str, list[str]],
    notes: Sequence[str] = (),
) -> str:
    """The page; `curves` are (caption, SVG as base64), `images` PNGs as base64 by the browser's keys."""
    title = f"{display_name(run.params['run'])} on {run.params['env']}, seed {run.seed}"
    shown = rollout_browser.browser(rollouts, images) if rollouts else ""
    sections = [
        section(_alarms(alarms, len(run.rows))),
        section(table(final_table(run)) if run.summary else ""),
        section(f"<h2>Curves</h2>{_curves(curves)}" if curves else ""),
        section(shown),
        section(folded(settings_table(run))),
        section(folded(rules_table())),
    ]
    said = "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    header = f"<header><h1>{escape(title)}</h1>{_state(run)}{said}{fact_list(facts(run))}</header>"
    return document(title, header + "".join(sections), rollout_browser.STYLE)


def facts(run: Run) -> dict[str, Any]:
    """The figures at the top of the page."""
    rows = run.rows
    spent = {
        "iterations": f"{len(rows)} of {run.planned_iterations}",
        "completions": say.number(run.axes["completions"][-1]),
        "seconds of training": say.number(run.axes["seconds"][-1]),
    }
    if not (s := run.summary):
        first = {"accuracy before": f"{say.percent(run.before['evaluation']['accuracy'])} %"} if run.before else {}
        return first | spent
    return {
        "accuracy before": f"{say.percent(s['accuracy_before'])} %",
        "after": f"{say.percent(s['accuracy_after'])} %",
        "blind": f"{say.percent(s['blind_accuracy_after'])} %",
        "test questions": say.number(s["test_questions"]),
        "in the asked form": f"{say.percent(s['format_rate_after'])} %",
        **spent,
        "peak memory, GB": say.gigabytes(s.get("peak_memory_bytes")),
    }


def _state(run: Run) -> str:
    if run.finished:
        return ""
    return (
        f'<p class="partial"><b>Not finished.</b> {len(run.rows)} of {run.planned_iterations} iterations are done; '
        "final figures are missing.</p>"
    )


def _alarms(alarms: Sequence[Alarm], iterations: int) -> str:
    if not alarms:
        return f"<h2>Alarms</h2><p>None of {len(RULES)} rules saw anything in {iterations} iterations.</p>"
    items = "".join(
        f"<dt>{escape(a.name)}</dt><dd>{escape(a.seen)}.<br><span class='note'>{escape(a.remedy)}</span></dd>"
        for a in alarms
    )
    return f'<h2>Alarms</h2><dl class="alarms">{items}</dl>'


def final_table(run: Run) -> Table:
    """Greedy accuracy of all test questions, then by task and kind."""
    s = run.summary or {}
    whole = {
        "questions": s["test_questions"],
        "before": s["accuracy_before"],
        "after": s["accuracy_after"],
        "blind": s["blind_accuracy_after"],
    }
    entries = {"all": whole} | s["accuracy_by_task"]
    if len(kinds := s["accuracy_by_kind"]) > 1:
        entries |= {kind or "(unnamed)": entry for kind, entry in kinds.items()}
    rows = tuple(
        (name, say.number(e["questions"]), *(say.percent(e[key]) for key in ("before", "after", "blind")))
        for name, e in entries.items()
    )
    note = "Percent, on the test questions. Blind: the same questions with swapped images."
    return Table("Greedy accuracy", ("questions of", "number", "before", "after", "blind"), rows, note)


def settings_table(run: Run) -> Table:
    """Every resolved setting and version."""
    config = {**run.params["config"], **{f"version of {k}": v for k, v in run.params["versions"].items()}}
    rows = tuple((key, _short(value)) for key, value in sorted(config.items()))
    return Table("Settings and versions", ("key", "value"), rows, text=True)


def rules_table() -> Table:
    """When each alarm is raised."""
    return Table("Rules of the alarms", ("alarm", "raised by"), tuple((r.name, r.when) for r in RULES), text=True)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 300 else f"{text[:300]} ..."


def _curves(curves: Sequence[tuple[str, str]]) -> str:
    figures = "".join(
        f'<figure><img alt="{escape(caption)}" src="data:image/svg+xml;base64,{data}"></figure>'
        for caption, data in curves
    )
    return f'<div class="plots">{figures}</div>'
