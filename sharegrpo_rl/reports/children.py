"""Runs in child processes, several at a time: stopped with us, and read again after a kill."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sharegrpo_rl.runs.train import Interruption

PROGRAM = (sys.executable, "-m", "sharegrpo_rl.cli")
POLL_SECONDS = 0.2
PR_SET_PDEATHSIG = 1  # of Linux' prctl: the signal that a child gets when its parent dies


@dataclass(frozen=True)
class Job:
    """One command, what it is called, and where its output goes."""

    name: str
    command: tuple[str, ...]
    log: Path


def training_job(
    file: Path,
    folder: Path,
    seed: int,
    sets: Sequence[str],
    logs: Path,
    import_files: Sequence[Path] = (),
    program: Sequence[str] = PROGRAM,
) -> Job:
    """`train` of a run file into a folder, going on with what is there."""
    command = [*program, "train", str(file), "--name", folder.name, "--storage-path", str(folder.parent)]
    command += ["--seed", str(seed), "--resume", "auto"]
    command += [word for text in sets for word in ("--set", text)]
    command += [word for path in import_files for word in ("--import", str(path))]
    return Job(folder.name, tuple(command), logs / f"{folder.name}.log")


@dataclass
class Outcome:
    """How the jobs ended: name -> the last line of a failed one; `code` is set where a signal stopped everything."""

    failures: dict[str, str] = field(default_factory=dict)
    code: int | None = None


def run_jobs(jobs: Sequence[Job], at_a_time: int, say: Callable[[str], None]) -> Outcome:
    """Run all jobs. A first signal lets the running ones save and starts no more; a second one kills them."""
    outcome = Outcome()
    waiting, running = deque(jobs), dict[str, tuple[Job, subprocess.Popen[bytes], float]]()
    told = False
    with Interruption() as interruption:
        try:
            while waiting or running:
                if interruption.code is not None:
                    waiting.clear()
                    if not told:
                        _signal_all(running, signal.SIGTERM)
                        told = True
                while waiting and len(running) < at_a_time:
                    job = waiting.popleft()
                    say(f"{job.name}: started ({len(waiting)} waiting)")
                    running[job.name] = (job, _start(job), time.monotonic())
                _collect(running, outcome, say, stopping=told)
                if running:
                    time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            outcome.code = 130
        finally:
            _signal_all(running, signal.SIGKILL)
            for _, process, _ in running.values():
                process.wait()
        outcome.code = outcome.code or interruption.code
    return outcome


def _collect(
    running: dict[str, tuple[Job, subprocess.Popen[bytes], float]],
    outcome: Outcome,
    say: Callable[[str], None],
    *,
    stopping: bool,
) -> None:
    for name, (job, process, began) in list(running.items()):
        if (code := process.poll()) is None:
            continue
        del running[name]
        seconds = time.monotonic() - began
        if code == 0:
            say(f"{name}: finished after {seconds:,.0f} s")
        elif stopping and code in (130, 143):
            say(f"{name}: stopped and saved")
        else:
            outcome.failures[name] = f"ended with {code}: {_last_line(job.log)}"
            say(f"{name}: {outcome.failures[name]} (all of it in {job.log})")


def _start(job: Job) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        return subprocess.Popen(
            job.command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches us alone; we pass it on once
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )


def _die_with_parent() -> None:
    """Run in the child: without us it would train on unseen and keep its folder locked."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _signal_all(running: dict[str, tuple[Job, subprocess.Popen[bytes], float]], number: int) -> None:
    for _, process, _ in running.values():
        if process.poll() is None:
            os.kill(process.pid, number)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "no output")
