"""`report.html`: one self-contained page. Everything that a model, a data set or a file wrote is escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from sharegrpo_rl.reports import tables, wording
from sharegrpo_rl.reports.content import Content
from sharegrpo_rl.reports.examples import DISAGREEMENT_RULE, SAMPLE_RULE, Disagreement, Example
from sharegrpo_rl.reports.html_parts import document, fact_list, folded, item_list, section, table
from sharegrpo_rl.reports.plots import Picture

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
