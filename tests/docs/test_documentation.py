"""The documentation names only what exists: links, headings, files, run files, options, commands, metrics."""

from __future__ import annotations

import re
import shlex
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from typer.main import get_command

from sharegrpo_rl.cli import app
from sharegrpo_rl.config.presets import ALGORITHM_OPTIONS
from sharegrpo_rl.config.run import TABLES
from sharegrpo_rl.config.tree import parse_setting
from sharegrpo_rl.envs.registry import ENVIRONMENTS
from sharegrpo_rl.runs.examples import find_run_file

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPTIONS = {name for options in ALGORITHM_OPTIONS.values() for name in options.fields()}
NESTED = {name: set(table.fields()) for name, table in TABLES.items()}
NESTED["env_config"] = {name for spec in ENVIRONMENTS.values() for name in spec.options.fields()}
MADE_LATER: set[str] = set()

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def blocks(page: Path, *languages: str) -> list[str]:
    return [code for language, code in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


@cache
def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in plain}


@every_page
def test_relative_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if str(target.relative_to(ROOT)) not in MADE_LATER:
            assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


@every_page
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"\b((?:tuned_examples|tests|docs|sharegrpo_rl)/[\w./-]+\.(?:yaml|py|md))\b", text):
        assert (ROOT / name).exists(), f"{page.name}: {name}"
    rooms = "|".join(p.name for p in (ROOT / "sharegrpo_rl").iterdir() if p.is_dir())
    for name in re.findall(rf"`((?:{rooms})/[\w/]+\.py)", text):
        assert (ROOT / "sharegrpo_rl" / name).exists(), f"{page.name}: {name}"


@every_page
def test_examples_that_are_named_exist(page: Path) -> None:
    folders = "papers/[a-z_]+|share_grpo|grpo|grpo_d|step_grpo|sft"
    for name in re.findall(rf"(?<![\w/])(?:{folders})/\w+-[\w.-]+", page.read_text(encoding="utf-8")):
        find_run_file(name.removesuffix(".yaml").rstrip("."))


@every_page
def test_options_that_are_named_are_known(page: Path) -> None:
    text = prose(page) + "\n".join(blocks(page, "bash", "", "yaml"))
    for dotted in re.findall(
        r"(?<!sharegrpo_rl\.)\b(?:config|warm_start|env_config|lora|model_config)\.[a-z_]+(?:\.[a-z_]+)*\b(?!\()", text
    ):
        path = dotted.removeprefix("config.").split(".")
        if path[-1] in ("py", "json", "yaml"):
            continue  # a file
        assert path[0] in OPTIONS, f"{page.name}: {dotted}"
        if len(path) > 1 and path[0] in NESTED:
            assert path[1] in NESTED[path[0]], f"{page.name}: {dotted}"


@every_page
def test_settings_in_commands_are_read(page: Path) -> None:
    for code in blocks(page, "bash"):
        words = shlex.split(code, comments=True)
        for text in (after for word, after in pairwise(words) if word == "--set"):
            text = re.sub(r"^(?:[^:=]+:|\[NAME:\])", "", text)  # `compare` takes a method's name
            if text != "KEY=VALUE":
                parse_setting(text)


@every_page
def test_commands_and_their_options_exist(page: Path) -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for code in blocks(page, "bash"):
        for line in code.replace("\\\n", " ").splitlines():
            found = re.search(r"\bsharegrpo-rl (\w+)(.*)", line.split(" #")[0])
            if not found:
                continue
            assert found[1] in commands, f"{page.name}: {line}"
            known = {flag for parameter in commands[found[1]].params for flag in parameter.opts}
            for flag in re.findall(r"(?<![\w-])--[a-z-]+", found[2]):
                assert flag in known, f"{page.name}: {line}"


def test_every_page_is_reached_from_the_readme() -> None:
    readme = ROOT / "README.md"
    reached = {
        (readme.parent / link.partition("#")[0]).resolve() for link in LINK.findall(prose(readme)) if "//" not in link
    }
    lists_names = ROOT / "docs" / "reference"  # for the site, which has them in its navigation
    assert {page for page in PAGES if page != readme and page.parent != lists_names} <= reached
    assert ROOT / "docs" / "tutorial.ipynb" in reached


def test_the_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_pages_name_no_machine() -> None:
    for page in PAGES:
        assert not re.search(r"/(?:work|root|home|tmp)/", page.read_text(encoding="utf-8")), page.name


def test_the_map_names_every_room() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = {path.name for path in (ROOT / "sharegrpo_rl").iterdir() if (path / "__init__.py").exists()}
    assert set(re.findall(r"^\| `(\w+)/` \|", table, re.MULTILINE)) == rooms
