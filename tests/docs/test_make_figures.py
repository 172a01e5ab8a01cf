"""The learning curve is drawn from the files of finished runs, seeds and algorithms apart."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import get_args
from xml.etree.ElementTree import parse

import numpy as np
import pytest
from PIL import Image

from sharegrpo_rl import grader
from sharegrpo_rl.grader import Kind
from sharegrpo_rl.grader.math_worker import CPU_SECONDS


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    pytest.importorskip("matplotlib", reason="matplotlib is in the dev group")
    return load_script("make_figures")


def finished_run(folder: Path, algorithm: str, start: float) -> Path:
    """The two files that the curve is read from, as a run of four iterations writes them."""
    folder.mkdir()
    rows = [
        {"training_iteration": i, "env_runners": {"num_completions": 10, "reward_mean": start + 0.1 * i}}
        for i in range(1, 5)
    ]
    rows[1]["evaluation"] = {"accuracy": start + 0.1}
    (folder / "result.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {"algorithm": algorithm, "accuracy_before": start, "accuracy_after": start + 0.3}
    (folder / "summary.json").write_text(json.dumps(summary | {"blind_accuracy_after": 0.2, "test_questions": 50}))
    return folder


def test_points_of_a_run(script: ModuleType, tmp_path: Path) -> None:
    run = script.Run.read(finished_run(tmp_path / "a", "GRPO", 0.3))
    assert run.greedy() == pytest.approx({0.0: 0.3, 20.0: 0.4, 40.0: 0.6})
    np.testing.assert_allclose(run.completions(), [0, 10, 20, 30, 40])
    np.testing.assert_allclose(run.reward(), [0.4, 0.45, 0.5, 0.55])  # means over the last iterations


def test_curve_is_written(script: ModuleType, tmp_path: Path) -> None:
    folders = [
        finished_run(tmp_path / f"{name}-{seed}", name, 0.3 + 0.05 * seed)
        for name in ("ShareGRPO", "GRPO")
        for seed in (0, 1)
    ]
    out = tmp_path / "images" / "curve.png"
    script.draw_curve([script.Run.read(folder) for folder in folders], out)
    with Image.open(out) as picture:
        assert picture.width > 1000


def test_the_graders_picture_names_every_kind_and_is_the_one_in_the_docs(script: ModuleType, tmp_path: Path) -> None:
    kinds = [kind for _, kind, _ in script.DECIDED_BY]
    assert sorted(kinds) == sorted(set(get_args(Kind)) - {"none"})
    text = " ".join((*script.FOUND, *script.ENDS, *(module for _, _, module in script.DECIDED_BY)))
    for module in re.findall(r"\w+\.py", text):
        assert (Path(grader.__file__).parent / module).exists()
    assert f"at most {CPU_SECONDS:g} s" in text
    script.draw_grader(tmp_path / "grader.svg")
    shown = [
        [element.text for element in parse(path).iter("{http://www.w3.org/2000/svg}text")]
        for path in (tmp_path / "grader.svg", script.IMAGES / "grader.svg")
    ]
    assert shown[0] == shown[1]
    assert len(shown[0]) > 3 * len(kinds)


def test_an_unfinished_run_is_refused(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="not a finished run"):
        script.Run.read(tmp_path)
