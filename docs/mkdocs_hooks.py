"""What the documentation site needs beside mkdocs: pages from files outside docs/, and examples of docstrings as code.

README, CONTRIBUTING and CHANGELOG stay where code hosts look for them, and the tutorial stays a notebook; here they become
pages, with links that lead from page to page. A source file that a page links to is copied into the site.
"""

from __future__ import annotations

import json
import posixpath
import re
from ast import literal_eval
from pathlib import Path
from typing import Any

from griffe import Attribute, Class, Docstring, ExprCall, Extension, Object
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "docs/tutorial.ipynb": "tutorial.md",
}
ORIGINS = {page: origin for origin, page in PAGES.items()}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")
FENCE = re.compile(r"(^```.*?^```$|`[^`\n]*`)", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"  # (?!type:|noqa)(.+)$")
EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\n).*)*", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are written elsewhere."""
    for origin, page in PAGES.items():
        text = (ROOT / origin).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=as_markdown(text) if origin.endswith(".ipynb") else text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead the links of a page to pages, and to copies of the source files that have none."""
    here = page.file.src_uri
    folder = posixpath.dirname(ORIGINS.get(here, f"docs/{here}"))

    def target(link: re.Match[str]) -> str:
        origin = posixpath.normpath(posixpath.join(folder, link[1]))
        uri = PAGES.get(origin) or (origin.removeprefix("docs/") if origin.startswith("docs/") else f"source/{origin}")
        if uri.startswith("source/") and files.get_file_from_path(uri) is None and (ROOT / origin).is_file():
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / origin)))
        return posixpath.relpath(uri, posixpath.dirname(here))

    parts = FENCE.split(markdown)  # text and code in turn
    return "".join(part if i % 2 else LINK.sub(target, part) for i, part in enumerate(parts))


def on_page_content(html: str, page: Page, **kwargs: Any) -> str:
    """Name the entries of a reference page's contents by the last word: the headings have whole paths."""
    for title in page.toc:
        for entry in title.children:
            if entry.title.startswith("sharegrpo_rl."):
                entry.title = entry.title.rpartition(".")[2]
    return html


def as_markdown(notebook: str) -> str:
    """A notebook as a page: its text, its code, and what the code printed and drew."""
    parts = []
    for cell in json.loads(notebook)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        parts += [_output(output) for output in cell.get("outputs", [])]
    return "\n\n".join(parts)


def _output(output: dict[str, Any]) -> str:
    if output.get("name") == "stderr":
        return ""  # notices of libraries
    data = output.get("data", {})
    if "image/png" in data:
        return f"![What the cell above drew](data:image/png;base64,{''.join(data['image/png']).strip()})"
    return f"```text\n{''.join(output.get('text') or data.get('text/plain', [])).rstrip()}\n```"


class Docstrings(Extension):
    """What the package writes in its own way: examples without a heading, and the meaning of a field beside it."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """`>>>` is an example, which Markdown would take for a quotation."""
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(lambda example: f"```pycon\n{example[0]}\n```", obj.docstring.value)

    def on_attribute(self, *, attr: Attribute, **kwargs: Any) -> None:
        """The meaning of an option is an argument of `option(default, meaning)`, that of another field its comment."""
        if isinstance(attr.value, ExprCall) and str(attr.value.function) == "option":
            default, *rest = attr.value.arguments
            attr.value = default
            if rest and isinstance(rest[0], str):
                attr.docstring = Docstring(literal_eval(rest[0]), parent=attr)
        elif attr.docstring is None and attr.lineno is not None and isinstance(attr.parent, Class):
            line = attr.parent.lines_collection[attr.filepath][attr.lineno - 1]
            if comment := COMMENT.search(line):
                attr.docstring = Docstring(comment[1].replace("[", r"\["), parent=attr)  # shapes are no links
