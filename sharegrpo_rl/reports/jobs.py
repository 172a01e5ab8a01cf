"""Commands as child processes, several at a time: they stop when we are stopped, and die when we are killed."""

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

from sharegrpo_rl.runs.process import Interruption
from sharegrpo_rl.statistics.formatting import number

PROGRAM = (sys.executable, "-m", "sharegrpo_rl.cli")
POLL_SECONDS = 0.2
PR_SET_PDEATHSIG = 1  # of Linux' prctl: the signal that a child gets when its parent dies


@dataclass(frozen=True)
class Job:
    """One command, its name, and the file that takes its output."""

    name: str
    command: tuple[str, ...]
    log: Path


@dataclass
class Outcome:
    """How the jobs ended: name -> why it failed; `code` is set where a signal stopped everything."""

    failures: dict[str, str] = field(default_factory=dict)
    code: int | None = None


def training_job(
    file: Path,
    folder: Path,
    seed: int,
    sets: Sequence[str],
    logs: Path,
    import_files: Sequence[Path] = (),
    program: Sequence[str] = PROGRAM,
) -> Job:
    """`train` of a run file into a folder, resuming what is there."""
    command = [*program, "train", str(file), "--name", folder.name, "--storage-path", str(folder.parent)]
    command += ["--seed", str(seed), "--resume", "auto"]
    command += [word for text in sets for word in ("--set", text)]
    command += [word for path in import_files for word in ("--import", str(path))]
    return Job(folder.name, tuple(command), logs / f"{folder.name}.log")


def run_jobs(jobs: Sequence[Job], max_parallel: int, say: Callable[[str], None]) -> Outcome:
    """Run all jobs. A first signal lets the running ones save and starts no more; a second one kills them."""
    outcome = Outcome()
    waiting, running = deque(jobs), list[_Running]()
    stopping = False
    with Interruption() as interruption:
        try:
            while waiting or running:
                if interruption.code is not None:
                    waiting.clear()
                    if not stopping:
                        _signal_all(running, signal.SIGTERM)
                        stopping = True
                while waiting and len(running) < max_parallel:
                    job = waiting.popleft()
                    say(f"{job.name}: started ({len(waiting)} waiting)")
                    running.append(_Running(job, _start(job), time.monotonic()))
                ended = [r for r in running if r.process.poll() is not None]
                running = [r for r in running if r not in ended]
                for child in ended:
                    _record(child, outcome, say, stopping=stopping)
                if running:
                    time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            outcome.code = 130
        finally:
            _signal_all(running, signal.SIGKILL)
            for child in running:
                child.process.wait()
        outcome.code = outcome.code or interruption.code
    return outcome


@dataclass(frozen=True)
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    started: float


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
    """Called in the child, which would otherwise train on unseen and keep its folder locked."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _record(child: _Running, outcome: Outcome, say: Callable[[str], None], *, stopping: bool) -> None:
    name, code = child.job.name, child.process.returncode
    if code == 0:
        say(f"{name}: finished after {number(time.monotonic() - child.started)} s")
    elif stopping and code in (130, 143):
        say(f"{name}: stopped and saved")
    else:
        outcome.failures[name] = f"ended with {code}: {_last_line(child.job.log)}"
        say(f"{name}: {outcome.failures[name]} (full output: {child.job.log})")


def _signal_all(running: Sequence[_Running], signal_number: int) -> None:
    for child in running:
        if child.process.poll() is None:
            os.kill(child.process.pid, signal_number)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((text for line in reversed(lines) if (text := line.strip())), "no output")
