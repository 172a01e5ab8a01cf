"""`report.md`: the report's text, tables and pictures; answers of models stand in indented blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sharegrpo_rl.reports import tables, wording
from sharegrpo_rl.reports.examples import DISAGREEMENT_RULE, SAMPLE_RULE, Example
from sharegrpo_rl.reports.pages import Content
from sharegrpo_rl.reports.plots import Picture
from sharegrpo_rl.reports.tables import Table


def render(content: Content) -> str:
    """The whole Markdown text."""
    a = content.analysis
    parts = [f"# {_plain(content.title)}", *_partial(a), _bullets(wording.findings(a)), _bullets(wording.stop_notes(a))]
    parts += [_table(tables.final_table(a)), _pictures(content.pictures[:1])]
    if a["comparisons"]:
        parts += [_table(tables.pair_table(a)), _pictures(content.pictures[1:2])]
    rest = content.pictures[2:] if a["comparisons"] else content.pictures[1:]
    for table in tables.present(
        tables.question_table(a),
        tables.wall_time_table(a),
        tables.kind_table(a),
        tables.signal_table(a),
        tables.zero_gradient_table(a),
    ):
        parts.append(_table(table))
    parts += ["## Curves", _pictures(rest), *_disagreements(content), *_samples(content)]
    for table in (tables.run_table(a), tables.settings_table(a), tables.version_table(a)):
        parts.append(_table(table))
    parts += ["## How the figures were made", _bullets([*wording.method_notes(a), *content.notes])]
    if content.command:
        parts.append(f"```bash\n{' '.join(content.command.split())}\n```")
    return "\n\n".join(part for part in parts if part) + "\n"


def _partial(analysis: Mapping[str, Any]) -> list[str]:
    notes = wording.partial_notes(analysis)
    return [f"**Partial results.** {_plain('; '.join(notes))}."] if notes else []


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_plain(line)}" for line in lines)


def _table(table: Table) -> str:
    lines = [f"## {_plain(table.title)}"]
    if table.note:
        lines += ["", _plain(table.note)]
    if table.rows:
        lines += ["", _row(table.header), "|---" * len(table.header) + "|", *(_row(row) for row in table.rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    """One line in which nothing is markup of its own."""
    text = " ".join(text.split())
    for sign in "\\`*_[]<":
        text = text.replace(sign, f"\\{sign}")
    return text


def _pictures(pictures: Sequence[Picture]) -> str:
    return "\n\n".join(f"![{_plain(p.caption)}]({p.name})\n\n{_plain(p.caption)}" for p in pictures)


def _disagreements(content: Content) -> list[str]:
    if not content.disagreements:
        return []
    parts = ["## Where exactly one is right", _plain(DISAGREEMENT_RULE)]
    for pair in content.disagreements:
        for winner, loser, side in ((pair.a, pair.b, pair.only_a), (pair.b, pair.a, pair.only_b)):
            if side:
                parts.append(f"### {_plain(winner)} right, {_plain(loser)} wrong")
                parts += [_example(example) for example in side]
    return parts


def _samples(content: Content) -> list[str]:
    if not content.samples:
        return []
    return ["## Sample answers", _plain(SAMPLE_RULE), *(_example(example) for example in content.samples)]


def _example(example: Example) -> str:
    note = f" ({_plain(example.note)})" if example.note else ""
    lines = [f"**{_plain(example.question)}** Right answer: {_plain(example.gold)}.{note} `{example.question_id}`"]
    for answer in example.answers:
        verdict = "right" if answer.right else "wrong"
        lines += ["", f"{_plain(answer.label)}, seed {answer.seed}, {verdict}:", ""]
        lines += [f"    {line}" for line in (answer.text.splitlines() or ["(nothing)"])]
    return "\n".join(lines)
