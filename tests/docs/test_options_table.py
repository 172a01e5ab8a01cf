"""The tables of options in the docs are those of the code."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("make_options_table")


def test_committed_tables_are_current(script: ModuleType) -> None:
    assert script.stale_pages(write=False) == [], "run: uv run python docs/make_options_table.py"


def test_every_block_of_the_docs_is_generated(script: ModuleType) -> None:
    pages = script.DOCS.rglob("*.md")
    begun = {line for page in pages for line in page.read_text().splitlines() if line.startswith("<!-- begin ")}
    assert begun == {f"<!-- begin {name} -->" for name in script.BLOCKS}


def test_a_value_is_written_as_a_run_file_has_it(script: ModuleType) -> None:
    assert script.shown({"accuracy": 0.9, "on": True, "none": None, "list": [1, "a"], "text": ""}) == (
        "{accuracy: 0.9, on: true, none: null, list: [1, a], text: ''}"
    )


def test_a_page_without_the_block_is_refused(script: ModuleType) -> None:
    with pytest.raises(ValueError, match="no block"):
        script.filled("text", "options-grpo", "table")


def test_every_value_of_a_preset_has_its_source(script: ModuleType) -> None:
    """docs/algorithms/presets.md: the keys and values of the code, each with the place that it comes from."""
    text = (script.DOCS / "algorithms" / "presets.md").read_text()
    for algorithm, presets in script.PRESETS.items():
        for name, settings in presets.items():
            _, _, part = text.partition(f"### `{algorithm}: {name}`\n")
            rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \| (.+) \|$", part.partition("\n#")[0], re.MULTILINE)
            assert [(key, value) for key, value, _ in rows] == [(k, script.shown(v)) for k, v in settings.items()], name
            assert all("not verified" in where or re.search(r"\d|ours|the same", where) for _, _, where in rows), name
