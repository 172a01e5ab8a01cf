"""The tutorial runs from top to bottom, and what it stores is small and says nothing of the machine that made it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "tutorial.ipynb"


@pytest.fixture
def cells() -> list[dict[str, Any]]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_it_is_small_and_names_no_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 200_000
    assert not re.search(r"/(?:work|root|home|tmp|usr)/", text)


def test_cells_are_short_and_compile(cells: list[dict[str, Any]]) -> None:
    for cell in cells:
        source = "".join(cell["source"])
        assert source.count("\n") < 35
        if cell["cell_type"] == "code":
            compile(source, cell["id"], "exec")


def test_stored_outputs_are_of_one_whole_run(cells: list[dict[str, Any]]) -> None:
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "execute_result", "display_data"}
    assert all(output.get("name") != "stderr" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2  # the question, the curve


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_runs(load_script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    pytest.importorskip("nbclient", reason="the group `docs` is not installed: uv sync --group docs")
    pytest.importorskip("ipykernel", reason="the group `docs` is not installed: uv sync --group docs")
    notebook = load_script("make_tutorial").run_notebook(NOTEBOOK, tmp_path)
    printed = "".join(output.text for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output)
    rewards = [float(value) for value in re.findall(r"^step \d+: reward (\S+),", printed, re.MULTILINE)]
    assert len(rewards) == 8
    assert rewards[-1] > rewards[0] + 0.05  # GRPO by hand
    assert "GRPO" in printed
    assert "ShareGRPO" in printed
    assert list(tmp_path.iterdir()) == []  # nothing is left where it runs
