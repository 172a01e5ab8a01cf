"""The wheel carries the tuned examples: installed beside nothing else of ours, it trains from an empty folder.

The sdist builds the same wheel, and the wheel trains on every Python in `SHAREGRPO_TEST_PYTHONS`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PAPER_TABLES = PROJECT / "sharegrpo_rl" / "reports" / "paper_tables"  # read by `reproduce`
TEMPLATES = PROJECT / "sharegrpo_rl" / "reports" / "templates"  # of every page
pytestmark = pytest.mark.slow


# Interpreters as `uv venv --python` takes them: versions or paths. Nothing else runs the test over Pythons: it installs
# the newest releases that the metadata allows, gigabytes where uv's cache is empty, and another project's release must
# not fail a commit of ours. `make wheels` sets it.
PYTHONS = os.environ.get("SHAREGRPO_TEST_PYTHONS", "").split()


def _uv() -> str:
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("needs uv to build and install a wheel")
    return uv


def _build(out: Path, *options: str) -> Path:
    command = [_uv(), "build", "-q", *options, "--out-dir", str(out), str(PROJECT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build(tmp_path_factory.mktemp("wheel"), "--wheel")


def test_the_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    def contents(path: Path) -> dict[str, int]:
        return {file.filename: file.CRC for file in zipfile.ZipFile(path).infolist()}

    assert contents(_build(tmp_path)) == contents(wheel)  # without options: an sdist, and the wheel from that
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [Path(name).parts[1:] for name in archive.getnames()]
    top = {parts[0] for parts in names}
    assert {"sharegrpo_rl", "tuned_examples", "pyproject.toml", "README.md", "LICENSE"} <= top
    made = {"PKG-INFO", ".gitignore"}  # by hatchling: it builds from an sdist with the same file rules
    assert top - made <= {"sharegrpo_rl", "tuned_examples", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"}
    assert not [parts for parts in names if "__pycache__" in parts]
    assert sdist.stat().st_size < 2e6


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
    _trains(_clean_environment(wheel, tmp_path / "venv"), tmp_path)


@pytest.mark.skipif(not PYTHONS, reason="installs into new environments: SHAREGRPO_TEST_PYTHONS is not set")
@pytest.mark.timeout(1800)  # the download included
@pytest.mark.parametrize("interpreter", PYTHONS)
def test_a_wheel_with_the_newest_libraries_it_allows_trains_on(interpreter: str, wheel: Path, tmp_path: Path) -> None:
    find = [_uv(), "python", "find", "--no-project", "--no-python-downloads", interpreter]
    if subprocess.run(find, cwd=tmp_path, capture_output=True).returncode:
        pytest.skip(f"uv finds no Python {interpreter} here; SHAREGRPO_TEST_PYTHONS also takes paths")
    folder = tmp_path / "venv"
    subprocess.run([_uv(), "venv", "-q", "--python", interpreter, str(folder)], cwd=tmp_path, check=True)
    python = folder / "bin" / "python"
    # From a folder without pyproject.toml: with it, uv would read the clone's constraints and date.
    subprocess.run([_uv(), "pip", "install", "-q", "--python", str(python), str(wheel)], cwd=tmp_path, check=True)
    _trains(python, tmp_path)


def _trains(python: Path, folder: Path) -> None:
    """The README's first command, shortened, in an empty folder under `folder`, with the wheel's own package."""
    empty = folder / "empty"
    empty.mkdir()
    settings = ["stop.training_iteration=1", "config.warm_start.steps=2", "config.warm_start.rows=64"]
    settings += ["config.num_questions=2", "config.evaluation_questions=6", "config.env_config.max_questions=200"]
    train = ["train", "share_grpo/drawn_shapes-tiny", "--name", "one", *(w for s in settings for w in ("--set", s))]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"XDG_CACHE_HOME": str(folder / "cache"), "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}

    def run(*arguments: str) -> str:
        command = [str(python), *arguments]
        done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    program = ["-m", "sharegrpo_rl.cli"]
    assert "share_grpo/drawn_shapes-tiny" in run(*program, "list")
    assert "ready to train" in run(*program, "doctor")
    run(*program, *train)
    assert json.loads((empty / "runs" / "one" / "summary.json").read_text())["iterations"] == 1
    assert str(folder) in run("-c", "import sharegrpo_rl; print(sharegrpo_rl.__file__)")


def _clean_environment(wheel: Path, folder: Path) -> Path:
    """A new environment with the wheel; the libraries it needs are borrowed from this one instead of downloaded again."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    install = [_uv(), "pip", "install", "-q", "--no-deps", "--python", str(python), str(wheel)]
    subprocess.run(install, check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A plain path line: the .pth files of the other folder, and so its editable install of ours, are not read.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python
