"""One run as a self-contained page: figures, alarms, curves, rollouts, settings."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from sharegrpo_rl.reports import rollout_browser, tables, wording
from sharegrpo_rl.reports import wording as say
from sharegrpo_rl.reports.alarms import RULES, Alarm
from sharegrpo_rl.reports.examples import DISAGREEMENT_RULE, SAMPLE_RULE, Disagreement, Example
from sharegrpo_rl.reports.methods import Run, display_name
from sharegrpo_rl.reports.plots import Picture
from sharegrpo_rl.reports.tables import Table

# ---- Everything that a rendered report shows, gathered once for HTML and Markdown.


@dataclass(frozen=True)
class Content:
    """The figures, the pictures beside the report, the examples, and images of questions (PNG as base64)."""

    title: str
    analysis: dict[str, Any]
    pictures: Sequence[Picture]
    samples: Sequence[Example]
    disagreements: Sequence[Disagreement]
    images: dict[str, list[str]]
    notes: Sequence[str]
    command: str


# ---- The style sheet of the comparison page: light, one column of text, tables that scroll sideways on a phone.

STYLE = """
:root { color-scheme: light; --page: #f6f7f9; --card: #fff; --ink: #1b2330; --soft: #5d6878; --line: #dfe3e9;
  --tag: #eef1f5; --warn: #7a4a00; --warn-page: #fdf3e0; --right: #14713d; --wrong: #a8323e; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 32px 20px 72px; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 16px; overflow-wrap: anywhere; text-wrap: balance; }
h2 { font-size: 1.2rem; margin: 0 0 6px; }
h3 { font-size: 1rem; margin: 24px 0 8px; overflow-wrap: anywhere; }
p, ul { margin: 0 0 12px; max-width: 46rem; }
ul { padding-left: 1.2em; }
li { margin-bottom: 4px; overflow-wrap: anywhere; }
.facts { display: flex; flex-wrap: wrap; gap: 8px 32px; margin: 20px 0 0; padding-top: 16px;
  border-top: 1px solid var(--line); }
dt { color: var(--soft); font-size: .8rem; }
dd { margin: 0; overflow-wrap: anywhere; }
header, section { margin-bottom: 20px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 22px 24px; }
.findings { font-size: 1.08rem; list-style: none; padding: 0; }
.partial { background: var(--warn-page); color: var(--warn); border-radius: 10px; padding: 12px 16px; max-width: none; }
.note { color: var(--soft); font-size: .92rem; }
.scroll { overflow-x: auto; margin: 0 -24px; padding: 0 24px; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; min-width: min(100%, 30rem); }
th { color: var(--soft); font-weight: 500; font-size: .82rem; vertical-align: bottom; line-height: 1.3; }
th, td { text-align: right; padding: 7px 0 7px 15px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { white-space: normal; min-width: 5.2em; }
th:first-child, td:first-child, .words td, .words th { text-align: left; }
th:first-child, td:first-child { padding-left: 0; }
td:first-child { font-weight: 550; }
.words td { white-space: normal; overflow-wrap: anywhere; min-width: 8em; font-weight: 400; }
tr:last-child td { border-bottom: 0; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 24px 28px;
  margin-top: 16px; }
figure { margin: 0; min-width: 0; max-width: 640px; }
figure img { width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .85rem; margin-top: 4px; }
.example { display: grid; grid-template-columns: 160px minmax(0, 1fr); gap: 6px 24px; padding: 18px 0;
  border-top: 1px solid var(--line); }
.example > div:first-child img { width: 100%; image-rendering: pixelated; border: 1px solid var(--line);
  border-radius: 6px; display: block; margin-bottom: 6px; }
.ask { font-weight: 600; margin: 0 0 2px; white-space: pre-line; overflow-wrap: anywhere; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 230px), 1fr)); gap: 14px; margin-top: 10px; }
.answers h4 { margin: 0 0 4px; font-size: .86rem; font-weight: 550; }
.right { color: var(--right); }
.wrong { color: var(--wrong); }
pre { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; background: var(--page); border-radius: 6px; padding: 10px; margin: 0;
  max-height: 22em; overflow-y: auto; }
code { font: .85em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; color: var(--soft); overflow-wrap: anywhere; }
summary { cursor: pointer; font-size: 1.2rem; font-weight: 700; }
details > :nth-child(2) { margin-top: 10px; }
@media (max-width: 640px) { main { padding: 20px 12px 48px; } section { padding: 16px; }
  .scroll { margin: 0 -16px; padding: 0 16px; } .example { grid-template-columns: minmax(0, 1fr); }
  .example > div:first-child img { width: 140px; } }
"""


# ---- Pieces of the report pages. Everything that a model, a data set or a file wrote is escaped here.


def document(title: str, body: str, style: str = "") -> str:
    """A whole page with the reports' style; `body` and `style` are ours and taken as they are."""
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}{style}</style>
<main>
{body}
</main>
</html>
"""


def section(inner: str) -> str:
    """A card; nothing for nothing."""
    return f"<section>{inner}</section>\n" if inner else ""


def item_list(lines: Sequence[str]) -> str:
    """Bullet points."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def fact_list(facts: Mapping[str, Any]) -> str:
    """Names and values side by side; None is left out."""
    items = "".join(
        f"<div><dt>{escape(k)}</dt><dd>{escape(str(v))}</dd></div>" for k, v in facts.items() if v is not None
    )
    return f'<dl class="facts">{items}</dl>'


def table(content: Table, level: int = 2) -> str:
    """A table under its title."""
    return f"<h{level}>{escape(content.title)}</h{level}>{_table_body(content)}"


def folded(content: Table) -> str:
    """A table that opens when its title is clicked."""
    return f"<details><summary>{escape(content.title)}</summary>{_table_body(content)}</details>"


def _table_body(content: Table) -> str:
    note = f'<p class="note">{escape(content.note)}</p>' if content.note else ""
    if not content.rows:
        return note
    head = "".join(f"<th>{escape(cell)}</th>" for cell in content.header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in content.rows)
    words = ' class="words"' if content.text else ""
    return f'{note}<div class="scroll"><table{words}><tr>{head}</tr>{body}</table></div>'


# ---- `report.html`: one self-contained page. Everything that a model, a data set or a file wrote is escaped.

RESULT_PICTURES = ("final.png", "differences.png")


def render(content: Content, folder: Path) -> str:
    """The whole page; pictures are read from `folder`."""
    a = content.analysis
    results = [p for p in content.pictures if p.name in RESULT_PICTURES]
    curves = [p for p in content.pictures if p.name not in RESULT_PICTURES and p.name != "zero_gradient.png"]
    bars = [p for p in content.pictures if p.name == "zero_gradient.png"]
    first = table(tables.final_table(a)) + _plots(results, folder)
    sections = [
        section(first + (table(tables.pair_table(a), level=3) if a["comparisons"] else "")),
        *(section(table(t)) for t in tables.present(tables.question_table(a))),
        section(f"<h2>Curves</h2>{_plots(curves, folder)}") if curves else "",
        *(
            section(table(t))
            for t in tables.present(tables.wall_time_table(a), tables.kind_table(a), tables.signal_table(a))
        ),
        *(section(table(t) + _plots(bars, folder)) for t in tables.present(tables.zero_gradient_table(a))),
        _disagreements(content),
        _samples(content),
        *(section(folded(t)) for t in (tables.run_table(a), tables.settings_table(a), tables.version_table(a))),
        section(
            f"<h2>How the figures were made</h2>{item_list([*wording.method_notes(a), *content.notes])}"
            f"{f'<pre>{escape(content.command)}</pre>' if content.command else ''}"
        ),
    ]
    return document(content.title, _header(content) + "".join(sections))


def _header(content: Content) -> str:
    a = content.analysis
    notes = wording.partial_notes(a)
    partial = f'<p class="partial"><b>Partial results.</b> {escape("; ".join(notes))}.</p>' if notes else ""
    facts = {
        "environment": a["test_set"]["env"],
        "data": a["test_set"]["data"],
        "test questions": wording.number(a["test_set"]["questions"]),
        "images": wording.number(a["test_set"]["images"]) if a["test_set"]["images"] else None,
        "answers read as": a["test_set"]["extractor"],
        "confidence": wording.confidence_text(a),
    }
    found = "".join(f"<li>{escape(line)}</li>" for line in wording.findings(a))
    return f"""<header><h1>{escape(content.title)}</h1>{partial}
<ul class="findings">{found}</ul>
<p class="note">{escape(" ".join(wording.stop_notes(a)))}</p>
{fact_list(facts)}</header>"""


def _plots(pictures: Sequence[Picture], folder: Path) -> str:
    return f'<div class="plots">{"".join(_plot(p, folder) for p in pictures)}</div>' if pictures else ""


def _plot(picture: Picture, folder: Path) -> str:
    data = base64.b64encode((folder / picture.name).read_bytes()).decode("ascii")
    caption = escape(picture.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def _disagreements(content: Content) -> str:
    if not content.disagreements:
        return ""
    pairs = "".join(_disagreement(pair, content.images) for pair in content.disagreements)
    return section(f'<h2>Where exactly one is right</h2><p class="note">{escape(DISAGREEMENT_RULE)}</p>{pairs}')


def _disagreement(pair: Disagreement, images: Mapping[str, list[str]]) -> str:
    parts = []
    for winner, loser, side in ((pair.a, pair.b, pair.only_a), (pair.b, pair.a, pair.only_b)):
        if side:
            parts.append(f"<h3>{escape(winner)} right, {escape(loser)} wrong</h3>")
            parts += [_example(example, images) for example in side]
    return "".join(parts)


def _samples(content: Content) -> str:
    if not content.samples:
        return ""
    examples = "".join(_example(example, content.images) for example in content.samples)
    return section(f'<h2>Sample answers</h2><p class="note">{escape(SAMPLE_RULE)}</p>{examples}')


def _example(example: Example, images: Mapping[str, list[str]]) -> str:
    pictures = "".join(
        f'<img alt="image of the question" src="data:image/png;base64,{data}">'
        for data in images.get(example.question_id, [])
    )
    answers = "".join(_answer(answer) for answer in example.answers)
    note = f"; {escape(example.note)}" if example.note else ""
    kind = f"{escape(example.kind)}, " if example.kind else ""
    return f"""<div class="example"><div>{pictures}</div><div>
<p class="ask">{escape(example.question)}</p>
<p class="note">Right answer: <b>{escape(example.gold)}</b>{note}. {kind}<code>{escape(example.question_id)}</code></p>
<div class="answers">{answers}</div></div></div>"""


def _answer(answer: Any) -> str:
    verdict = "right" if answer.right else "wrong"
    said = "no answer found" if answer.extracted is None else f"read as {answer.extracted}"
    return f"""<div><h4>{escape(answer.label)}, seed {answer.seed}: <span class="{verdict}">{verdict}</span>
<span class="note">({escape(said)})</span></h4><pre>{escape(answer.text) or "(nothing)"}</pre></div>"""


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
