"""`--json`: one document on standard output, whatever else is said; its keys are those that docs/cli.md promises."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from run_maker import RunMaker

from sharegrpo_rl.cli import run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"


def document(capfd: pytest.CaptureFixture, *arguments: object, code: int = 0) -> dict[str, Any]:
    """The one document that a command prints."""
    assert run([*map(str, arguments), "--json"]) == code
    value: dict[str, Any] = json.loads(capfd.readouterr().out)
    return value


def promised(name: str) -> list[str]:
    """The keys of a row of the page's table, the first words in code marks."""
    section = PAGE.read_text(encoding="utf-8").partition("## JSON")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", section, re.MULTILINE))
    return re.findall(r"`(\w+)`", rows[name].partition(";")[0])


def test_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    written = document(capfd, "init", "mine")
    assert list(written) == promised("init")
    assert all((tmp_path / path).exists() for path in written["written"])


def test_lists(capfd: pytest.CaptureFixture) -> None:
    topics = document(capfd, "list")
    assert list(topics) == promised("list")
    assert "share_grpo/drawn_shapes-tiny" in topics["examples"]
    (options,) = document(capfd, "list", "options", "ShareGRPO").values()
    assert list(options["lr"]) == promised("list options NAME")
    assert options["num_variants"]["default"] == 2
    assert options["lora"]["default"] is None


def test_doctor(capfd: pytest.CaptureFixture) -> None:
    found = document(capfd, "doctor")
    assert list(found) == promised("doctor")
    assert found["ready"] is True
    assert "torch" in found["packages"]


def test_dry_runs_are_what_run_files_say(capfd: pytest.CaptureFixture) -> None:
    shown = document(
        capfd, "train", "share_grpo/drawn_shapes-tiny", "--dry-run", "--set", "config.lr=3e-4", "--seed", 7
    )
    assert [key for key in shown if key != "loggers"] == promised("train --dry-run")
    assert (shown["config"]["lr"], shown["seed"], shown["run"]) == (3e-4, 7, "ShareGRPO")
    search = document(capfd, "tune", "share_grpo/drawn_shapes-tiny-search", "--dry-run")
    assert [key for key in search if key != "loggers"] == promised("tune --dry-run")
    assert search["trials"] == 8
    assert search["config"]["clip_high"] == search["space"]["config.clip_high"]


def test_plan(capfd: pytest.CaptureFixture) -> None:
    estimate = document(capfd, "plan", "share_grpo/drawn_shapes-tiny")
    assert list(estimate) == promised("plan")


def test_tables_of_the_papers(capfd: pytest.CaptureFixture) -> None:
    tables = document(capfd, "reproduce")["tables"]
    assert tables["papers/share_grpo/table2"]["paper"] == "R1-ShareVL"
    table = document(capfd, "reproduce", "share_grpo/table2", "--list")
    assert list(table) == promised("reproduce TABLE")
    assert table["rows"][1]["paper"] == {"MathVista": 72.8}


def test_reports_of_finished_runs(maker: RunMaker, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    for seed in range(3):
        folder = maker.run("GRPO", seed, 0.5)
        maker.run("ShareGRPO", seed, 0.7)
    page = document(capfd, "report", folder)
    assert list(page) == promised("report")
    assert Path(page["page"]).exists()
    compared = document(capfd, "compare", maker.folder / "runs", "--out", tmp_path / "out")
    assert list(compared) == promised("compare")
    assert compared["report"] == json.loads((tmp_path / "out" / "report.json").read_text())


def test_what_user_code_prints_goes_to_standard_error(tmp_path: Path) -> None:
    noisy = tmp_path / "noisy.py"
    noisy.write_text("import os\nprint('said in Python')\nos.write(1, b'said below it\\n')\n")
    program = [sys.executable, "-m", "sharegrpo_rl.cli", "list", "losses", "--json", "--import", str(noisy)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert "clipped" in json.loads(done.stdout)["losses"]
    assert "said in Python" in done.stderr
    assert "said below it" in done.stderr
