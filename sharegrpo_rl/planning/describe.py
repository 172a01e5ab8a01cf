"""A plan as text, as a few lines for `--dry-run`, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from sharegrpo_rl.planning.plan import Plan, Request
from sharegrpo_rl.planning.remedies import Changes
from sharegrpo_rl.planning.workload import ALWAYS, GIB, Process

MIB = 2**20


def print_plan(console: Console, name: str, request: Request, plan: Plan, fixes: Mapping[str, list[Changes]]) -> None:
    """Everything: memory by process, what would make it fit, work, time."""

    def say(text: str = "", indent: int = 0) -> None:
        console.print(Padding(text, (0, 0, 0, indent)), markup=False, highlight=False)

    config, total = request.config, request.sizes.total
    train = "all" if plan.trained == total else millions(plan.trained)
    say(f"{name}: {config['model']}, {config['dtype']}, {millions(total)} parameters, {train} in training")
    say(_machine(request, plan))
    for note in plan.notes:
        say(f"note: {note}")
    for process in plan.processes:
        say()
        say(_heading(process))
        console.print(_parts_table(process))
        for note in process.notes:
            say(note, 2)
        for changes in fixes.get(process.kind, []):
            say(f"would fit with  {settings(changes)}", 2)
        if process.kind in fixes and not fixes[process.kind]:
            say("nothing that was tried fits: see docs/scaling.md; a smaller model, or fewer pixels and tokens", 2)
    for problem in plan.problems:
        say()
        say(f"cannot run: {problem}")
    say()
    console.print(_table(work_figures(plan), "work"))
    say()
    _print_seconds(console, plan)


def short_lines(plan: Plan) -> list[str]:
    """One line for each kind of process, and one for time where it is known."""
    lines = []
    for p in plan.processes:
        verdict = {True: ", fits", False: ", DOES NOT FIT", None: ""}[p.fits]
        of = f" of {size(p.available)}" if p.available else ""
        lines.append(f"{f'memory of {p.kind}':<44} {size(p.total):>14}{of}{verdict}")
    if plan.seconds:
        lines.append(f"{'time, a rough estimate':<44} {duration(plan.seconds.run):>14}")
    return lines


def as_json(request: Request, plan: Plan, fixes: Mapping[str, list[Changes]]) -> dict[str, Any]:
    """The plan as plain data; sizes in bytes, times in seconds."""
    seconds, gpu = plan.seconds, request.gpu
    return {
        "model": {
            "name": request.config["model"],
            "parameters": dict(request.sizes.parameters),
            "total": request.sizes.total,
            "trained": plan.trained,
        },
        "gpu": {"name": gpu.name, "memory": gpu.memory} if gpu else None,
        "gpus": plan.gpus,
        "fits": plan.fits,
        "processes": [
            {
                "kind": p.kind,
                "count": p.count,
                "gpus": p.gpus,
                "total": p.total,
                "height": p.height,
                "available": p.available,
                "fits": p.fits,
                "parts": [{"name": x.name, "bytes": x.bytes, "phase": x.phase, "how": x.how} for x in p.parts],
                "notes": list(p.notes),
            }
            for p in plan.processes
        ],
        "remedies": {kind: list(changes) for kind, changes in fixes.items()},
        "problems": list(plan.problems),
        "notes": list(plan.notes),
        "work": work_figures(plan),
        "seconds": None
        if seconds is None
        else {
            "generating": seconds.generating,
            "learning": seconds.learning,
            "iteration": seconds.iteration,
            "run": seconds.run,
            "assumptions": list(seconds.assumptions),
        },
    }


def work_figures(plan: Plan) -> dict[str, int]:
    """Steps and tokens, by name."""
    w = plan.work
    steps = w.minibatches * w.epochs
    pack = w.prompts * w.pack
    figures = {
        "iterations": w.iterations,
        "optimizer steps": steps * w.iterations,
        "prompts an iteration": w.prompts,
        "completions an iteration": w.prompts * w.samples,
        "pairs trained an iteration": w.prompts * w.rows,
        "tokens sampled an iteration": w.prompts * w.samples * w.completion,
        "tokens trained an iteration": w.prompts * w.rows * w.completion * w.epochs,
        "tokens through the learner an iteration": pack * w.epochs,
        "tokens sampled": w.prompts * w.samples * w.completion * w.iterations,
        "tokens through the learner": pack * w.epochs * w.iterations,
    }
    return {name: number for name, number in figures.items() if number}


def settings(changes: Changes) -> str:
    """Changes as they stand in a run file."""
    return ", ".join(f"{key}: {_value(value)}" for key, value in changes.items())


def size(number: int) -> str:
    return f"{number / GIB:.1f} GiB" if number >= GIB else f"{number / MIB:.0f} MiB"


def millions(number: int) -> str:
    return f"{number / 1e9:.2f} billion" if number >= 1e9 else f"{number / 1e6:.2f} million"


def duration(seconds: float) -> str:
    """In the unit that reads best."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _machine(request: Request, plan: Plan) -> str:
    if request.gpu is None:
        return "no GPU to compare with: name one (--gpu h100-80), or give its memory (--gpu-memory 80)"
    verdict = "every process fits" if plan.fits else "it does not fit"
    return f"on {plan.gpus:g} x {request.gpu.name} ({size(request.gpu.memory)} each): {verdict}"


def _heading(p: Process) -> str:
    number, each = (f"{p.count} x ", " each") if p.count > 1 else ("", "")
    place = f", {p.gpus:g} GPU{'s' * (p.gpus != 1)}{each}" if p.gpus else ", on the CPU"
    heading = f"{number}{p.kind}{place}: {size(p.total)}"
    if p.available is None:
        return heading
    verdict = "fits" if p.fits else f"DOES NOT FIT, {size(p.total - p.available)} too much"
    return f"{heading} of {size(p.available)}  {verdict}"


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
    table.add_row("at the height", f"{p.total / unit:.1f}", p.height, "", style="bold")
    return table


def _table(figures: Mapping[str, int], title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="", box=None, padding=(0, 2), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for name, number in figures.items():
        table.add_row(name, f"{number:,}")
    return table


def _print_seconds(console: Console, plan: Plan) -> None:
    s = plan.seconds
    if s is None:
        text = "time: no estimate without a GPU type whose speeds are listed"
    else:
        parts = f"generating {duration(s.generating)}, learning {duration(s.learning)}" if s.generating else "learning"
        text = (
            f"time, a rough estimate: {duration(s.iteration)} an iteration ({parts}), {duration(s.run)} in all. "
            f"Assumed: {'; '.join(s.assumptions)}"
        )
    console.print(text, markup=False, highlight=False)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
