"""Every Python block of the docs compiles, and those of a page run from top to bottom, as a reader would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN_ON = {
    "docs/open_choices.md": 120,
    "docs/python_api.md": 600,
    "docs/environments.md": 120,
    "docs/rewards.md": 120,
    "docs/extending.md": 120,
}
RUN_ON |= {f"docs/algorithms/{name}.md": 120 for name in ("grpo", "grpo_d", "sft", "share_grpo", "step_grpo")}


def python_of(page: Path) -> str:
    return "\n\n".join(BLOCK.findall(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_compile(page: Path) -> None:
    compile(python_of(page), str(page), "exec")


def test_every_page_with_python_is_run() -> None:
    assert {str(page.relative_to(ROOT)) for page in PAGES if python_of(page)} == set(RUN_ON)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", RUN_ON)
def test_python_blocks_run(name: str, tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text(python_of(ROOT / name))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=RUN_ON[name],
    )
    assert done.returncode == 0, done.stderr[-3000:]
