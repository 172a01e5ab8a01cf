"""An estimate as text, as a few lines for `--dry-run`, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from sharegrpo_rl.planning.estimate import EstimateRequest, Process, RunEstimate, Storage
from sharegrpo_rl.planning.gpus import GIB, MIB
from sharegrpo_rl.planning.memory import ALWAYS
from sharegrpo_rl.planning.remedies import Changes
from sharegrpo_rl.planning.seconds import Seconds
from sharegrpo_rl.statistics.formatting import memory_size


def print_estimate(
    console: Console,
    name: str,
    request: EstimateRequest,
    estimate: RunEstimate,
    proposals: Mapping[str, list[Changes]],
) -> None:
    """Everything: memory by process, what would make it fit, work, time."""

    def say(text: str = "", indent: int = 0) -> None:
        console.print(Padding(text, (0, 0, 0, indent)), markup=False, highlight=False)

    config, total = request.config, request.sizes.total
    train = "all" if estimate.trained == total else _count(estimate.trained)
    say(f"{name}: {config['model']}, {config['dtype']}, {_count(total)} parameters, {train} in training")
    if request.gpu is None:
        say("no GPU to compare with: name one (--gpu h100-80), or give its memory (--gpu-memory 80)")
    else:
        verdict = "every process fits" if estimate.fits else "it does not fit"
        say(f"on {estimate.gpus:g} x {request.gpu.name} ({memory_size(request.gpu.memory)} each): {verdict}")
    for note in estimate.notes:
        say(f"note: {note}")
    for process in estimate.processes:
        say()
        say(_heading(process))
        console.print(_parts_table(process))
        for note in process.notes:
            say(note, 2)
        for changes in proposals.get(process.kind, []):
            say(f"would fit with  {', '.join(f'{key}: {_value(value)}' for key, value in changes.items())}", 2)
        if proposals.get(process.kind) == []:
            say("nothing that was tried fits: see docs/scaling.md; a smaller model, or fewer pixels and tokens", 2)
    for problem in estimate.problems:
        say()
        say(f"cannot run: {problem}")
    for deadline in estimate.deadlines:
        say()
        say(f"too short a deadline: {deadline}")
    say()
    work = Table(title="work", title_justify="left", title_style="", box=None, padding=(0, 2), show_header=False)
    work.add_column(no_wrap=True)
    work.add_column(justify="right", no_wrap=True)
    for figure, number in work_figures(estimate).items():
        work.add_row(figure, f"{number:,}")
    console.print(work)
    say()
    console.print(_storage(estimate.storage), markup=False, highlight=False)
    say()
    console.print(_time(estimate.seconds), markup=False, highlight=False)


def short_lines(estimate: RunEstimate) -> list[str]:
    """One line for each kind of process, and one for time where it is known."""
    lines = []
    for p in estimate.processes:
        verdict = {True: ", fits", False: ", DOES NOT FIT", None: ""}[p.fits]
        available = f" of {memory_size(p.available)}" if p.available else ""
        lines.append(f"{f'memory of {p.kind}':<44} {memory_size(p.total):>14}{available}{verdict}")
    if estimate.seconds:
        lines.append(f"{'time, a rough estimate':<44} {_duration(estimate.seconds.run):>14}")
    return lines


def as_json(request: EstimateRequest, estimate: RunEstimate, proposals: Mapping[str, list[Changes]]) -> dict[str, Any]:
    """The estimate as plain data; sizes in bytes, times in seconds."""
    gpu = request.gpu
    return {
        "model": {
            "name": request.config["model"],
            "parameters": dict(request.sizes.parameters),
            "total": request.sizes.total,
            "trained": estimate.trained,
        },
        "gpu": {"name": gpu.name, "memory": gpu.memory} if gpu else None,
        "gpus": estimate.gpus,
        "fits": estimate.fits,
        "processes": [
            {
                "kind": p.kind,
                "count": p.count,
                "gpus": p.gpus,
                "total": p.total,
                "height": p.peak_phase,
                "available": p.available,
                "fits": p.fits,
                "parts": [vars(part) for part in p.parts],
                "notes": list(p.notes),
            }
            for p in estimate.processes
        ],
        "remedies": {kind: list(changes) for kind, changes in proposals.items()},
        "problems": list(estimate.problems),
        "deadlines": list(estimate.deadlines),
        "notes": list(estimate.notes),
        "work": work_figures(estimate),
        "seconds": vars(estimate.seconds) if estimate.seconds else None,
        "storage": vars(estimate.storage),
    }


def work_figures(estimate: RunEstimate) -> dict[str, int]:
    """Steps and tokens, by name."""
    w = estimate.work
    steps, packs = w.minibatches * w.epochs, w.prompts * w.pack
    figures = {
        "iterations": w.iterations,
        "optimizer steps": steps * w.iterations,
        "prompts an iteration": w.prompts,
        "completions an iteration": w.prompts * w.samples,
        "pairs trained an iteration": w.prompts * w.rows,
        "tokens sampled an iteration": w.prompts * w.samples * w.completion,
        "tokens trained an iteration": w.prompts * w.rows * w.completion * w.epochs,
        "tokens through the learner an iteration": packs * w.epochs,
        "tokens sampled": w.prompts * w.samples * w.completion * w.iterations,
        "tokens through the learner": packs * w.epochs * w.iterations,
    }
    return {name: number for name, number in figures.items() if number}


def _heading(p: Process) -> str:
    number, each = (f"{p.count} x ", " each") if p.count > 1 else ("", "")
    where = f", {p.gpus:g} GPU{'s' * (p.gpus != 1)}{each}" if p.gpus else ", on the CPU"
    heading = f"{number}{p.kind}{where}: {memory_size(p.total)}"
    if p.available is None:
        return heading
    verdict = "fits" if p.fits else f"DOES NOT FIT, {memory_size(p.total - p.available)} too much"
    return f"{heading} of {memory_size(p.available)}  {verdict}"


def _parts_table(p: Process) -> Table:
    unit, name = (GIB, "GiB") if p.total >= GIB else (MIB, "MiB")
    table = Table(box=None, padding=(0, 2), show_header=True, header_style="dim")
    table.add_column("part", no_wrap=True)
    table.add_column(name, justify="right", no_wrap=True)
    table.add_column("while", no_wrap=True)
    table.add_column("")
    for part in p.parts:
        amount = f"{part.bytes / unit:.1f}" if part.bytes >= 0.05 * unit else "< 0.1"
        table.add_row(part.name, amount, "" if part.phase == ALWAYS else part.phase, part.how)
    table.add_row("peak", f"{p.total / unit:.1f}", p.peak_phase, "", style="bold")
    return table


def _storage(storage: Storage) -> str:
    lines = [f"disk: {memory_size(storage.checkpoint)} a checkpoint, up to {storage.checkpoints} at a time"]
    if storage.commit:
        lines.append(f"{memory_size(storage.commit)} a commit of the learners, up to {storage.commits}")
    return (
        f"{'; '.join(lines)}\nhost memory while the model is loaded: {memory_size(storage.loading)}, all nodes together"
    )


def _time(seconds: Seconds | None) -> str:
    if seconds is None:
        return "time: no estimate without a GPU type whose speeds are listed"
    phases = "learning"
    if seconds.generating:
        phases = f"generating {_duration(seconds.generating)}, learning {_duration(seconds.learning)}"
    if seconds.syncing >= 1:
        phases += f", weight sync {_duration(seconds.syncing)}"
    return (
        f"time, a rough estimate: {_duration(seconds.iteration)} an iteration ({phases}), "
        f"{_duration(seconds.run)} in all. Assumed: {'; '.join(seconds.assumptions)}"
    )


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} billion" if number >= 1e9 else f"{number / 1e6:.2f} million"


def _duration(seconds: float) -> str:
    """In the unit that reads best."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _value(value: Any) -> str:
    """As a run file has it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
