"""The tables of options in the docs are those of the code."""

from __future__ import annotations

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
