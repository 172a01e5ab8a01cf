"""The page of one run, read as text and in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from run_maker import RunMaker

from sharegrpo_rl.cli import run as run_command
from sharegrpo_rl.data.types import Completion, Group, Prompt, PromptPack, Slot
from sharegrpo_rl.envs.registry import make_bank
from sharegrpo_rl.reports.run_report import report_run
from sharegrpo_rl.runs.journal import RolloutLog, group_entry

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NASTY = "</script><script>document.title='taken'</script> & <b>bold</b>"


def make_group(number: int, index: int) -> tuple[Group, list[PromptPack]]:
    """Two variants of three completions; the first of each is right, the last says something nasty and was cut off."""
    bank = make_bank("DrawnShapes-v0", {"max_questions": 200}, "train")
    question = bank[index]
    texts = (question.answer, f"<answer>no {number}</answer>", NASTY)
    ids, logprobs = np.zeros(4, np.int64), np.zeros(4, np.float32)
    said = tuple(tuple(Completion(ids, logprobs, t, truncated=t == NASTY) for t in texts) for _ in range(2))
    accuracy = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    rewards = 0.9 * accuracy + 0.1 * np.array([[1, 1, 0], [1, 1, 0]])
    slots = (Slot(0, 0), Slot(1, 1))
    prompts = (Prompt(np.zeros(1, np.int64)), Prompt(np.ones(1, np.int64)))
    group = Group(number, question.id, index, slots, prompts, said, rewards, {"accuracy": accuracy}, question.subtask)
    flat = tuple(c for row in said for c in row)
    native = [np.array([True] * 3 + [False] * 3), np.array([False] * 3 + [True] * 3)]
    packs = [PromptPack(number, k, prompts[k], flat, rewards.ravel() - 0.4, native[k]) for k in range(2)]
    return group, packs


@pytest.fixture
def run(maker: RunMaker) -> Path:
    """A finished run with rollouts of two iterations, three groups each."""
    path = maker.run("ShareGRPO", sets=("config.num_variants=2",))
    bank = make_bank("DrawnShapes-v0", {"max_questions": 200}, "train")
    log = RolloutLog(path)
    for iteration in (1, 4):
        groups = [make_group(i, 10 * iteration + i) for i in range(3)]
        log.append(iteration, [group_entry(g, bank[g.question_index], p) for g, p in groups])
    return path


def browse(page: Path, filters: str = "") -> str:
    """What stands on the page after its script ran, as a browser's own text of the document."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000"]
    done = subprocess.run(
        [*command, "--dump-dom", f"{page.as_uri()}#{filters}"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def shown(dom: str) -> tuple[str, list[str]]:
    """The count line, and the class of every pair."""
    (count,) = re.findall(r'<p class="note" id="count"[^>]*>(.*?)</p>', dom)
    return unescape(count), re.findall(r'<div class="pair (\w+)">', dom)


def test_the_page_stands_alone(run: Path) -> None:
    page, alarms = report_run(run)
    text = page.read_text()
    assert page == run / "report.html"
    assert not alarms
    assert "Share-GRPO on DrawnShapes-v0, seed 0" in text
    assert "None of 8 rules" in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert "document.title='taken'</script>" not in text  # no model's word ends our script element
    assert text.count("image/svg+xml") >= 4
    images = json.loads(re.findall(r'id="rollout-images"[^>]*>(.*?)</script>', text)[0])
    assert len(images) == 6
    assert all(data.startswith("data:image/png;base64,iVBOR") for pictures in images.values() for data in pictures)


def test_answers_on_which_the_grader_failed_are_listed(run: Path) -> None:
    page, _ = report_run(run)
    assert "Answers on which the grader failed" not in page.read_text()
    lines = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    lines[1]["groups"][0]["slots"][0]["completions"][1]["error"] = "processor time: more than 2 s"
    (run / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    rows[2] |= {"error": "unexpected: ValueError at choices.py:118", "text": "<answer>\u0130</answer>"}
    (run / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = unescape(report_run(run)[0].read_text())
    assert "By kind: 1 processor time, 1 unexpected." in text
    for shown in ("iteration 4", "processor time: more than 2 s", "unexpected: ValueError at choices.py:118"):
        assert shown in text
    assert "<answer>\u0130</answer>" in text


def test_an_unfinished_run_and_one_without_rollouts(maker: RunMaker) -> None:
    page, _ = report_run(maker.run("GRPO", finished=False))
    assert "Not finished" in page.read_text()
    assert "2 of 4 iterations" in page.read_text()
    assert "kept no rollouts" in page.read_text()


def test_alarms_are_on_the_page_and_in_the_terminal(maker: RunMaker, capsys: pytest.CaptureFixture) -> None:
    path = maker.run("GRPO")
    rows = [json.loads(line) for line in (path / "result.json").read_text().splitlines()]
    for row in rows:
        row["env_runners"]["truncated_rate"] = 0.5
    (path / "result.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run_command(["report", str(path), "--out", str(path.parent / "sub" / "page.html")]) == 0
    assert "alarm: truncation: 50.0%" in capsys.readouterr().out
    assert "<dt>truncation</dt>" in (path.parent / "sub" / "page.html").read_text()


def test_changed_data_shows_no_wrong_images(run: Path) -> None:
    text = (run / "rollouts.jsonl").read_text()
    (run / "rollouts.jsonl").write_text(re.sub(r'"question_id": "[^"]*"', '"question_id": "another"', text))
    page, _ = report_run(run)
    assert "the data has changed since the run" in page.read_text()
    assert "iVBOR" not in page.read_text()


def test_wrong_use_is_one_line(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    assert run_command(["report", str(tmp_path / "empty")]) == 2
    assert "no run" in capsys.readouterr().err
    (run / "result.json").write_text("")
    assert run_command(["report", str(run)]) == 2
    assert "no iteration is done" in capsys.readouterr().err
    (run / "rollouts.jsonl").write_text("?\n")
    assert run_command(["report", str(run)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_browser_shows_every_pair_and_takes_nothing_for_code(run: Path) -> None:
    page, _ = report_run(run)
    dom = browse(page)
    count, pairs = shown(dom)
    assert count == "72 of 72 pairs in 6 of 6 groups"
    assert (pairs.count("native"), pairs.count("shared")) == (36, 36)
    assert "<title>Share-GRPO on DrawnShapes-v0, seed 0</title>" in dom
    assert "&lt;b&gt;bold&lt;/b&gt;" in dom
    assert dom.count('alt="image of the question"') == 12


@pytest.mark.parametrize(
    ("filters", "count", "kinds"),
    [
        ("verdict=right&trained=native", "12 of 72 pairs in 6 of 6 groups", {"native"}),
        ("verdict=cut&trained=shared&iteration=4", "6 of 72 pairs in 3 of 6 groups", {"shared"}),
        ("variant=1&from=0.05&to=0.5", "12 of 72 pairs in 6 of 6 groups", {"native", "shared"}),
        ("search=no+2", "8 of 72 pairs in 2 of 6 groups", {"native", "shared"}),
        ("trained=untrained", "0 of 72 pairs in 0 of 6 groups", set()),
    ],
)
def test_a_browser_filters(run: Path, filters: str, count: str, kinds: set[str]) -> None:
    page, _ = report_run(run)
    found, pairs = shown(browse(page, filters))
    assert found == count
    assert set(pairs) == kinds
