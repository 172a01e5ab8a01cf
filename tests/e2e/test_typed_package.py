"""The types of the package as its users see them: programs of the docs pass mypy's strict mode, wrong ones do not."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PAGES = ("extending", "rewards", "environments", "python_api")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Of libraries: some functions of Ray, transformers and datasets have no types.
SETTINGS = "[mypy]\nstrict = true\nuntyped_calls_exclude = ray, transformers\n"
WRONG = """
from torch import Tensor

from sharegrpo_rl.algorithms import GRPO, Group, GRPOConfig, LossInputs, register_algorithm, register_loss, register_selection
from sharegrpo_rl.config import GRPOOptions, option
from sharegrpo_rl.config.registry import register_reward
from sharegrpo_rl.grader import grade
from sharegrpo_rl.runs.run_file import TrainOptions


@register_algorithm("Wrong")
class Wrong(GRPO):
    class Options(GRPO.Options):
        factor: float = option(1.0)

    options: Options

    def advantages(self, rewards: Tensor) -> str:  # wrong: override
        self.options.faktor  # wrong: attr-defined
        return ""


@register_loss("wrong_loss")  # wrong: type-var
def wrong_loss(batch: LossInputs, options: GRPOOptions) -> float:
    batch.logprob  # wrong: attr-defined
    return 0.0


@register_selection("wrong_selection")  # wrong: type-var
def wrong_selection(groups: list[Group], options: GRPOOptions) -> int:
    return len(groups)


@register_reward("wrong_reward")  # wrong: type-var
def wrong_reward(completions: list[str], **columns: object) -> list[str]:
    return completions


config: GRPOConfig = 1  # wrong: assignment
config.build_algo().sampled_grups()  # wrong: attr-defined
grade("1", "1").scores  # wrong: attr-defined
TrainOptions(storage_paht="runs")  # wrong: call-arg
"""
pytestmark = pytest.mark.slow


@pytest.mark.timeout(900)
def test_programs_of_the_docs_are_typed_and_wrong_ones_are_found(tmp_path: Path) -> None:
    for page in PAGES:
        text = (PROJECT / "docs" / f"{page}.md").read_text(encoding="utf-8")
        (tmp_path / f"{page}.py").write_text("\n\n".join(BLOCK.findall(text)))
    (tmp_path / "wrong.py").write_text(WRONG)
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    programs = [f"{page}.py" for page in PAGES]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-pretty", "--hide-error-context", *programs, "wrong.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    found = {
        (file, int(line), code)
        for file, line, code in re.findall(r"^(\S+):(\d+): error: .*\[(\S+)\]$", done.stdout, re.M)
    }
    expected = {
        ("wrong.py", number, line.partition("# wrong: ")[2])
        for number, line in enumerate(WRONG.splitlines(), 1)
        if "# wrong: " in line
    }
    assert found - expected == set(), done.stdout
    assert expected - found == set(), done.stdout


def test_wheel_and_source_distribution_say_that_they_are_typed(tmp_path: Path) -> None:
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("needs uv to build")
    done = subprocess.run([uv, "build", "-q", "--out-dir", str(tmp_path), str(PROJECT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    (source,) = tmp_path.glob("*.tar.gz")
    assert "sharegrpo_rl/py.typed" in zipfile.ZipFile(wheel).namelist()
    with tarfile.open(source) as packed:
        assert any(name.endswith("/sharegrpo_rl/py.typed") for name in packed.getnames())
