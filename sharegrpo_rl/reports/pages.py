"""How every page is made: Jinja templates in `templates/`, one style sheet, tables of plain cells, images as data URIs.

What a model, a data set or a file wrote is escaped in HTML and in Markdown alike; a template that uses a name it was not
given fails.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from numpy.typing import NDArray
from PIL import Image

Pixels: TypeAlias = NDArray[np.uint8]  # [H, W, 3]
Columns: TypeAlias = Mapping[str, Callable[[Any], str]]  # heading -> what makes its cell of an entry
TEMPLATES = Path(__file__).with_name("templates")
NAME_ENDS = re.compile(r"[_./=](?=\w)")
MARKDOWN_SIGNS = re.compile(r"[\\`*_\[\]<&]")


@dataclass(frozen=True)
class Table:
    """Rows of text. The first column names the row; the others are figures, unless `text`."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    text: bool = False


def make_table(title: str, columns: Columns, entries: Sequence[Any], note: str = "", *, text: bool = False) -> Table:
    """A row for each entry."""
    rows = tuple(tuple(cell(entry) for cell in columns.values()) for entry in entries)
    return Table(title, tuple(columns), rows, note, text)


def render(template: str, **content: Any) -> str:
    """The text of a page; the template's suffix, `.html` or `.md`, decides what is escaped.

    `live`: the version of a page that `watch` serves, whose style and scripts are files of their own.
    """
    environment = _html() if template.endswith(".html") else _markdown()
    return environment.get_template(template).render({"live": "", "facts": {}} | content)


def template_text(name: str) -> str:
    """A style sheet or script as it is."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def data_uri(content: bytes, kind: str) -> str:
    """An image as part of a page; kind: `png` or `svg+xml`."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def picture(pixels: Pixels, longest: int = 320, smallest: int = 112) -> str:
    """A PNG as a data URI. The longer side is shrunk to `longest`, or enlarged by a whole factor to at least `smallest`."""
    image = Image.fromarray(pixels)
    image.thumbnail((longest, longest))
    factor = -(-smallest // max(image.size))
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return data_uri(stream.getvalue(), "png")


@cache
def _html() -> Environment:
    environment = _environment()
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    environment.filters["name"] = _breakable
    return environment


@cache
def _markdown() -> Environment:
    environment = _environment(finalize=_escape_markdown)  # finalize comes first, and leaves no HTML to escape
    environment.filters |= {"cell": _markdown_cell, "code": _code_span, "indented": _indented}
    return environment


def _environment(**options: Any) -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )


def _breakable(name: str) -> Markup:
    """A name that a narrow column may break where its parts end: `env_config.data`."""
    return Markup(NAME_ENDS.sub(r"\g<0><wbr>", str(escape(name))))


def _escape_markdown(value: object) -> Markup:
    """One line in which nothing is markup of its own; what is Markup already stays."""
    if isinstance(value, Markup):
        return value
    return Markup(MARKDOWN_SIGNS.sub(r"\\\g<0>", " ".join(str(value).split())))


def _markdown_cell(text: str) -> Markup:
    """Escaped text that does not end its table cell."""
    return Markup(_escape_markdown(text).replace("|", "\\|"))


def _code_span(text: str) -> Markup:
    """Text between more backticks than it holds in a row."""
    text = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return Markup(f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}")


def _indented(text: str) -> Markup:
    """An indented code block."""
    return Markup("\n".join(f"    {line}" for line in text.splitlines() or ["(nothing)"]))
