"""The wheel carries the tuned examples: installed beside nothing else of ours, it trains from an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PAPER_TABLES = PROJECT / "sharegrpo_rl" / "reports" / "paper_tables"  # read by `reproduce`
TEMPLATES = PROJECT / "sharegrpo_rl" / "reports" / "templates"  # of every page
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("needs uv to build a wheel")
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [uv, "build", "-q", "--wheel", "--out-dir", str(out), str(PROJECT)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    return path


def test_every_example_is_in_the_wheel(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    packed = {name for name in names if name.startswith("sharegrpo_rl/tuned_examples/") and name.endswith(".yaml")}
    ours = {f"sharegrpo_rl/{path.relative_to(PROJECT)}" for path in (PROJECT / "tuned_examples").rglob("*.yaml")}
    assert packed == ours
    tables = {f"sharegrpo_rl/reports/paper_tables/{p.name}" for p in PAPER_TABLES.glob("*.yaml")}
    assert tables <= set(names)
    assert tables
    templates = {f"sharegrpo_rl/reports/templates/{p.name}" for p in TEMPLATES.iterdir()}
    assert templates <= set(names)
    assert templates


def test_an_installed_wheel_trains_an_example_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    python = _clean_environment(wheel, tmp_path / "venv")
    empty = tmp_path / "empty"
    empty.mkdir()
    settings = ["stop.training_iteration=1", "config.warm_start.steps=2", "config.warm_start.rows=64"]
    settings += ["config.num_questions=2", "config.evaluation_questions=6", "config.env_config.max_questions=200"]
    arguments = ["train", "share_grpo/drawn_shapes-tiny", "--name", "one", *(w for s in settings for w in ("--set", s))]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    program = [str(python), "-m", "sharegrpo_rl.cli"]
    done = subprocess.run(
        [*program, *arguments], cwd=empty, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((empty / "runs" / "one" / "summary.json").read_text())["iterations"] == 1
    where = subprocess.run(
        [str(python), "-c", "import sharegrpo_rl; print(sharegrpo_rl.__file__)"],
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert str(tmp_path) in where.stdout


def _clean_environment(wheel: Path, folder: Path) -> Path:
    """A new environment with the wheel; the libraries it needs are borrowed from this one instead of downloaded again."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    uv = shutil.which("uv")
    assert uv is not None
    install = [uv, "pip", "install", "-q", "--no-deps", "--python", str(python), str(wheel)]
    subprocess.run(install, check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A plain path line: the .pth files of the other folder, and so its editable install of ours, are not read.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python
