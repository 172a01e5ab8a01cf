"""The maintainers' page of the grader: the tables that it names exist, and so do the kinds of errors."""

from __future__ import annotations

import re
from pathlib import Path

from sharegrpo_rl import grader
from sharegrpo_rl.grader.key import ERROR_KINDS
from sharegrpo_rl.grader.math_worker import CPU_SECONDS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "grader.md").read_text(encoding="utf-8")


def test_the_tables_that_it_names_exist() -> None:
    named = re.findall(r"`(\w+)` in `grader/(\w+\.py)`", PAGE)
    assert len(named) >= 4
    for name, module in named:
        source = (Path(grader.__file__).parent / module).read_text(encoding="utf-8")
        assert re.search(rf"^{name}\b.*=", source, re.MULTILINE), f"{module} has no {name}"


def test_every_kind_of_error_is_explained() -> None:
    assert tuple(re.findall(r"^\| `([a-z ]+)` \|", PAGE, re.MULTILINE)) == ERROR_KINDS
    assert f"used {CPU_SECONDS:g} s of its process's own time" in PAGE
