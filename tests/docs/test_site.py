"""The documentation site: it builds without a warning, its links lead somewhere, and it loads nothing from outside."""

from __future__ import annotations

import os
import posixpath
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "link": "href",
}
OUTSIDE = re.compile(r"(?:https?:)?//")
STYLE_URL = re.compile(r"""(?:url\(\s*|@import\s+)["']?([^"')\s]+)""")


class Document(HTMLParser):
    """What a page names and loads: its anchors, the links that it offers, the files that it needs to be shown."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.classes: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        self.classes |= set(values.get("class", "").split())
        self.loaded += [values[LOADED[tag]]] if LOADED.get(tag) in values else []
        self.loaded += STYLE_URL.findall(values.get("style", ""))
        self.links += [values["href"]] if tag == "a" and "href" in values else []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it; strict: a warning fails."""
    pytest.importorskip("mkdocstrings", reason="the group `docs` is not installed: uv sync --group docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def documents(site: Path) -> dict[str, Document]:
    """Every page by its path in the site."""
    return {str(path.relative_to(site)): Document(path) for path in sorted(site.rglob("*.html"))}


def targets(site: Path, page: str, links: list[str]) -> Iterator[tuple[str, str, str]]:
    """(link, file, anchor) of the links that stay inside; a folder's file is its index.html."""
    for link in links:
        if re.match(r"[a-z]+:|//", link):
            continue
        path, _, anchor = link.partition("#")
        file = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(path))) if path else page
        is_folder = (site / file).is_dir()
        yield link, posixpath.normpath(f"{file}/index.html") if is_folder else file, unquote(anchor)


def test_every_link_and_anchor_leads_somewhere(site: Path, documents: dict[str, Document]) -> None:
    broken = []
    for page, document in documents.items():
        if page == "404.html":
            continue  # a server shows it at any address: its links begin at the root
        for link, file, anchor in targets(site, page, document.links):
            is_there = (site / file).is_file()
            if not is_there or (anchor and file in documents and anchor not in documents[file].anchors):
                broken.append(f"{page}: {link}")
    assert broken == []
    assert sum(len(document.links) for document in documents.values()) > 1000


def test_nothing_is_loaded_from_outside(site: Path, documents: dict[str, Document]) -> None:
    for page, document in documents.items():
        assert [url for url in document.loaded if OUTSIDE.match(url)] == [], page
        assert "mermaid" not in document.classes, f"{page}: the theme would fetch what draws it"
    for sheet in site.rglob("*.css"):
        assert [url for url in STYLE_URL.findall(sheet.read_text(encoding="utf-8")) if OUTSIDE.match(url)] == [], sheet


def test_what_pages_load_is_there(site: Path, documents: dict[str, Document]) -> None:
    for page, document in documents.items():
        if page != "404.html":
            for link, file, _ in targets(site, page, document.loaded):
                assert (site / file).is_file(), f"{page}: {link}"


def test_the_site_has_the_pages_that_lie_elsewhere(documents: dict[str, Document], site: Path) -> None:
    assert "what-it-does" in documents["index.html"].anchors  # of README.md
    assert "house-rules" in documents["contributing/index.html"].anchors
    assert "changelog/index.html" in documents
    assert "grpo-by-hand" in documents["tutorial/index.html"].anchors
    assert any(url.startswith("data:image/png") for url in documents["tutorial/index.html"].loaded)
    assert {path.relative_to(site).parts[0] for path in site.rglob("*.py")} == {"source"}  # linked from a page


def test_the_reference_shows_every_name_and_what_fields_mean(documents: dict[str, Document], site: Path) -> None:
    for source in (ROOT / "docs" / "reference").glob("*.md"):
        page = f"reference/{source.stem}/index.html"
        names = re.findall(r"^::: (\S+)$", source.read_text(encoding="utf-8"), re.MULTILINE)
        assert names
        for name in names:
            assert name in documents[page].anchors or any(a.startswith(f"{name}.") for a in documents[page].anchors), (
                name
            )
    runs = (site / "reference" / "runs" / "index.html").read_text(encoding="utf-8")
    assert "by default the name in the file" in runs  # TrainOptions.name: an argument of option()
    data = (site / "reference" / "data" / "index.html").read_text(encoding="utf-8")
    assert "a worked reference solution" in data  # SeedQuestion.solution: a comment


def test_the_example_of_a_docstring_is_code(site: Path) -> None:
    page = (site / "reference" / "algorithms" / "index.html").read_text(encoding="utf-8")
    assert '<span class="gp">&gt;&gt;&gt; </span>' in page
    assert "<blockquote>" not in page


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose slug function is a Python name."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def test_fonts_and_scripts_are_the_sites_own() -> None:
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=_Loader)
    assert settings["theme"]["font"] is False
    assert settings["extra_css"] == ["site.css"]
    assert "extra_javascript" not in settings
