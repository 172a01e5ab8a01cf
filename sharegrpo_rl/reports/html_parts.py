"""Pieces of the report pages. Everything that a model, a data set or a file wrote is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from sharegrpo_rl.reports.page_style import STYLE
from sharegrpo_rl.reports.tables import Table


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
