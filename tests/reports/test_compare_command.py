"""`compare` on the command line: wrong use, plans of equal completions, child processes. No training here."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sharegrpo_rl.cli import run
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.reports.compare import check_folders, plan_methods, read_target
from sharegrpo_rl.reports.jobs import Job, run_jobs


def refused(capsys, *arguments):
    """The one line that wrong use ends with."""
    assert run(["compare", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


def three(maker, algorithm="GRPO", **changes):
    for seed in range(3):
        maker.run(algorithm, seed, 0.5 + 0.05 * seed, **changes)


def test_finished_runs_are_read_and_reported(maker, tmp_path, capsys):
    three(maker)
    three(maker, "ShareGRPO")
    assert run(["compare", str(maker.folder / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert "wrote" in capsys.readouterr().out
    assert (tmp_path / "out" / "report.html").exists()
    assert not (tmp_path / "out" / "runs").exists()


def test_wrong_use_is_one_clear_line(maker, tmp_path, capsys):
    three(maker)
    runs, out = maker.folder / "runs", tmp_path / "out"
    assert "did you mean accuracy_after" in refused(capsys, runs, "--out", out, "--metric", "acuracy_after")
    line = refused(capsys, runs, "--out", out, "--confidence", "0.99")
    assert "3 seeds are too few for 99 % confidence, which takes 4" in line
    assert "expected a share" in refused(capsys, runs, "--out", out, "--confidence", "95")
    assert "2 seeds are too few" in refused(capsys, maker.file(), "--out", out, "--seeds", "2")
    assert "no finished run" in refused(capsys, maker.file(), "--out", out, "--report-only")
    (tmp_path / "empty").mkdir()
    assert "no run in it" in refused(capsys, tmp_path / "empty", "--out", out)
    assert "same settings" in refused(capsys, maker.file(), maker.file(), "--out", out)
    assert "no method is named 'B'" in refused(capsys, f"A={maker.file()}", "--set", "B:config.lr=1", "--out", out)
    assert "are for run files" in refused(capsys, runs, "--control", "--out", out)
    assert "no such file" in refused(capsys, "nothing-here", "--out", out)
    assert "two methods are called 'A'" in refused(capsys, f"A={runs}", f"A={maker.file('ShareGRPO')}", "--out", out)
    assert not out.exists()


def test_runs_that_are_all_unfinished_cannot_be_compared(maker, tmp_path, capsys):
    maker.run(finished=False)
    assert "no finished run" in refused(capsys, maker.folder / "runs", "--out", tmp_path / "out")


def test_other_questions_are_refused(maker, tmp_path, capsys):
    three(maker)
    three(maker, "ShareGRPO")
    file = maker.folder / "runs" / "sharegrpo-2" / "predictions.jsonl"
    file.write_text(file.read_text().replace('"gold": "', '"gold": "other ', 1))
    line = refused(capsys, maker.folder / "runs", "--out", tmp_path / "out")
    assert "sharegrpo-2 was tested on a different test set" in line


def test_other_settings_of_the_test_are_refused_where_predictions_cannot_tell(maker, tmp_path, capsys):
    three(maker)
    three(maker, "ShareGRPO", predictions=False, sets=("config.evaluation_questions=39",))
    assert "other settings" in refused(capsys, maker.folder / "runs", "--out", tmp_path / "out")


def test_a_damaged_prediction_is_named(maker, tmp_path, capsys):
    three(maker)
    (maker.folder / "runs" / "grpo-1" / "predictions.jsonl").write_text('{"text": 1}\n')
    line = refused(capsys, maker.folder / "runs", "--out", tmp_path / "out")
    assert "predictions.jsonl: line 1" in line


def test_a_seed_counts_once(maker, tmp_path, capsys):
    three(maker)
    maker.run("GRPO", 1, name="again")
    assert "a seed counts once" in refused(capsys, maker.folder / "runs", "--out", tmp_path / "out")


def test_methods_are_cut_to_equal_completions(maker):
    targets = [read_target(f"few={maker.file()}"), read_target(str(maker.file("ShareGRPO")))]
    sets = ["few:config.num_generations=6", "few:config.selection=dynamic_sampling", "config.lr=1e-3"]
    few, sharing, control = (
        plan_methods(targets, sets, None, control=False) + plan_methods(targets[:1], sets[:1], None, control=True)[1:]
    )
    assert few.spec.config["lr"] == sharing.spec.config["lr"] == 1e-3
    assert (few.spec.iterations, few.spec.config["num_generations"]) == (4, 6)
    assert few.spec.stop["completions"] == 96  # selection may sample more than planned
    variants = sharing.spec.config["num_variants"]
    assert sharing.spec.iterations * 4 * variants * 3 == 96
    assert "completions" not in sharing.spec.stop
    assert (control.label, control.control_of) == ("few, permuted rewards", "few")
    assert control.spec.config["shuffle_rewards"] is True
    assert plan_methods(targets[1:], [], 240, control=False)[0].spec.iterations == 240 // (4 * variants * 3)


def test_a_folder_with_other_settings_is_not_touched(maker, tmp_path):
    planned = plan_methods([read_target(str(maker.file()))], [], None, control=False)
    check_folders(planned, [0], maker.folder, {})
    maker.run("GRPO", 0, name=planned[0].folder_name(0), sets=("config.lr=0.5",))
    with pytest.raises(UserError, match=r"config\.lr.*give another --out"):
        check_folders(planned, [0], maker.folder, {})


def sleeper(tmp_path: Path, name: str, code: str) -> Job:
    return Job(name, (sys.executable, "-c", code), tmp_path / "logs" / f"{name}.log")


def test_jobs_run_and_a_failure_keeps_its_last_line(tmp_path):
    said: list[str] = []
    jobs = [
        sleeper(tmp_path, "good", "print(1)"),
        sleeper(tmp_path, "bad", "print('what went wrong'); raise SystemExit(3)"),
    ]
    outcome = run_jobs(jobs, 2, said.append)
    assert outcome.failures == {"bad": "ended with 3: what went wrong"}
    assert outcome.code is None
    assert sum("started" in line for line in said) == 2


def test_a_signal_reaches_the_children_and_starts_no_more(tmp_path):
    """The child notes the signal and saves; the second job never begins."""
    code = (
        "import signal, sys, time, pathlib\n"
        f"mark = pathlib.Path({str(tmp_path)!r})\n"
        "signal.signal(signal.SIGTERM, lambda *_: ((mark / 'saved').touch(), sys.exit(143)))\n"
        "(mark / 'ready').touch()\n"
        "time.sleep(120)\n"
    )
    jobs = [sleeper(tmp_path, "first", code), sleeper(tmp_path, "second", code)]

    def interrupt() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    said: list[str] = []
    outcome = run_jobs(jobs, 1, said.append)
    assert (outcome.code, outcome.failures) == (143, {})
    assert (tmp_path / "saved").exists()
    assert "first: stopped and saved" in said
    assert not any(line.startswith("second") for line in said)


@pytest.mark.skipif(sys.platform != "linux", reason="children outlive a killed parent elsewhere")
def test_children_die_with_a_killed_parent(tmp_path):
    child = f"import os, time, pathlib; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(120)"
    parent = (
        "import sys, pathlib\n"
        "from sharegrpo_rl.reports.jobs import Job, run_jobs\n"
        f"run_jobs([Job('j', (sys.executable, '-c', {child!r}), pathlib.Path({str(tmp_path / 'log')!r}))], 1, print)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.DEVNULL)
    pid = _read_pid(tmp_path / "pid")
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(pid)


def _read_pid(path: Path) -> int:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text()):
            return int(text)
        time.sleep(0.05)
    raise AssertionError("the child never began")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
