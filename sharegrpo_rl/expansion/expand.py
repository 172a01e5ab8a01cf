"""`expand`: every question of a data set through a language model, and a new data set of what passed the checks."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import sharegrpo_rl
from sharegrpo_rl.errors import UserError, require_extra
from sharegrpo_rl.expansion.dataset_folder import (
    KEY_STEPS,
    NOTES,
    PROVENANCE,
    REJECTED,
    VARIANTS,
    NewColumns,
    appearing,
    check_out,
    journal_path,
    write_files,
)
from sharegrpo_rl.expansion.options import DEFAULT_KEY_ENV, ExpandOptions
from sharegrpo_rl.expansion.prompts import KEY_STEPS_VERSION, REWRITE_VERSION, SOLVE_VERSION
from sharegrpo_rl.expansion.question import Outcome, Rejection, expand_question
from sharegrpo_rl.expansion.session import LanguageModel, ReplyJournal, Session
from sharegrpo_rl.expansion.source import Source, SourceRow, open_source
from sharegrpo_rl.statistics.formatting import clock

Outcomes = dict[tuple[Path, int], Outcome]  # by file and row
_SECONDS_BETWEEN_LINES = 10.0


def expand(options: ExpandOptions, console: Console) -> str:
    """Write the new data set and return a line that sums it up; UserError where that cannot be done, nothing written."""
    began = time.monotonic()
    source = open_source(options.data, options.split, options.limit, options.columns, options.hub_config)
    digest = source.check()
    model = _language_model(options)
    # Together with the rows these decide the replies: with the same settings a data set may be made again in its place.
    settings = {
        "model": model.identity,
        **options.deciding(),
        "prompts": [REWRITE_VERSION, KEY_STEPS_VERSION, SOLVE_VERSION],
        "split": options.split,
        "limit": options.limit,
        "columns": options.columns,
        "source_digest": digest,
    }
    check_out(options.out, settings)
    try:
        with ReplyJournal.open(journal_path(options.out)) as journal:
            session = Session(model, journal)
            outcomes = asyncio.run(_ask_all(session, source, options, console))
    except KeyboardInterrupt:
        console.print("stopped; the replies so far are kept: run the same command again to continue", highlight=False)
        raise
    counts = _counts(outcomes, options) | {"requests": session.asked, "reused_replies": session.reused}
    provenance = {
        "made_by": f"sharegrpo_rl {sharegrpo_rl.__version__}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": source.name,
        "asked": model.name,
        "settings": settings,
        "counts": counts,
    }
    columns = {
        file.target: [_new_columns(row, outcomes[file.target, row.number], options) for row in source.read(file)]
        for file in source.files
        if file.expanded
    }
    with appearing(options.out) as folder:
        write_files(source, columns, folder)
        _write_notes(folder / NOTES, source, outcomes, provenance)
    return _summary(options, counts, time.monotonic() - began)


def _language_model(options: ExpandOptions) -> LanguageModel:
    """The endpoint or the local model; UserError if either is unusable from the start."""
    if options.local is not None:
        from sharegrpo_rl.expansion.local import LocalModel

        return LocalModel(options.local)
    require_extra("expand", "--endpoint")
    from sharegrpo_rl.expansion.endpoint import Endpoint

    if options.key_env != DEFAULT_KEY_ENV and options.key_env not in os.environ:
        raise UserError(f"--key-env {options.key_env}: no such variable is set; set it, or leave the option out")
    return Endpoint(
        options.endpoint or "",
        options.model or "",
        os.environ.get(options.key_env, ""),
        timeout=options.timeout,
        retries=options.retries,
        requests_per_minute=options.requests_per_minute,
        key_env=options.key_env,
    )


async def _ask_all(session: Session, source: Source, options: ExpandOptions, console: Console) -> Outcomes:
    outcomes: Outcomes = {}
    rows = [(file, number) for file in source.files if file.expanded for number in range(file.rows)]
    remaining = iter(rows)
    with _progress(console, len(rows)) as report:

        async def work() -> None:
            for file, number in remaining:
                outcome = await expand_question(session, source.row(file, number), options)
                outcomes[file.target, number] = outcome
                report(outcome)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(options.concurrency, len(rows))):
                    group.create_task(work())
        except BaseExceptionGroup as failed:
            first: BaseException = failed
            while isinstance(first, BaseExceptionGroup):  # the others are of the same kind
                first = first.exceptions[0]
            raise first from None
        finally:
            await session.model.close()
    return outcomes


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[Outcome], None]]:
    """What to call after each question: it moves a bar on a terminal, and elsewhere prints a line now and then."""
    done = kept = rejected = 0
    last_line = time.monotonic()

    def report(outcome: Outcome) -> None:
        nonlocal done, kept, rejected, last_line
        done, kept, rejected = done + 1, kept + len(outcome.variants), rejected + len(outcome.rejected)
        text = f"{kept} kept, {rejected} rejected"
        if console.is_terminal:
            bar.update(task, completed=done, text=text)
        elif time.monotonic() - last_line >= _SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            console.print(f"{done} of {total} questions, {text}", highlight=False, soft_wrap=True)

    columns = (MofNCompleteColumn(), BarColumn(bar_width=24), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task("expand", total=total, text="")
    with bar if console.is_terminal else nullcontext():
        yield report


def _new_columns(row: SourceRow, outcome: Outcome, options: ExpandOptions) -> NewColumns:
    """The row's own rewordings, then the new ones; key steps if requested."""
    columns: dict[str, Any] = {VARIANTS: [*row.rewordings, *outcome.variants]}
    if options.key_steps:
        columns[KEY_STEPS] = [list(step) for step in outcome.key_steps or row.question.key_steps] or None
    return columns


def _write_notes(folder: Path, source: Source, outcomes: Outcomes, provenance: dict[str, Any]) -> None:
    folder.mkdir()
    text = json.dumps(provenance, ensure_ascii=False, indent=2)
    (folder / PROVENANCE).write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    with (folder / REJECTED).open("w", encoding="utf-8", errors="backslashreplace") as out:
        for entry in _rejected(source, outcomes):
            out.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _rejected(source: Source, outcomes: Outcomes) -> Iterator[dict[str, Any]]:
    files = {file.target: file for file in source.files}
    for (target, number), outcome in sorted(outcomes.items()):
        rejections = list(outcome.rejected)
        if outcome.unanswered is not None:
            rejections.append(Rejection("reply", "", "unanswered", outcome.unanswered))
        if rejections:
            question_id = source.row(files[target], number).question.id
            for rejection in rejections:
                yield {"file": target.as_posix(), "row": number, "id": question_id, **asdict(rejection)}


def _counts(outcomes: Outcomes, options: ExpandOptions) -> dict[str, Any]:
    checks = Counter(rejection.check for outcome in outcomes.values() for rejection in outcome.rejected)
    counts: dict[str, Any] = {
        "questions": len(outcomes),
        "variants": sum(len(outcome.variants) for outcome in outcomes.values()),
        "questions_with_all": sum(len(o.variants) >= options.variants for o in outcomes.values()),
        "questions_with_none": sum(not outcome.variants for outcome in outcomes.values()),
        "unanswered": sum(outcome.unanswered is not None for outcome in outcomes.values()),
        "rejected": dict(checks.most_common()),
    }
    if options.key_steps:
        counts["questions_with_key_steps"] = sum(bool(outcome.key_steps) for outcome in outcomes.values())
    return counts


def _summary(options: ExpandOptions, counts: dict[str, Any], seconds: float) -> str:
    questions, parts = counts["questions"], []
    if options.variants:
        parts += [
            f"{counts['variants']} of {questions * options.variants} variants for {questions} questions",
            f"{counts['questions_with_all']} have all {options.variants}, {counts['questions_with_none']} have none",
        ]
    if options.key_steps:
        parts.append(f"{counts['questions_with_key_steps']} of {questions} questions have key steps")
    rejected = ", ".join(f"{check} {count}" for check, count in counts["rejected"].items())
    parts.append(f"rejected {sum(counts['rejected'].values())}{f' ({rejected})' if rejected else ''}")
    if counts["unanswered"]:
        parts.append(f"unanswered {counts['unanswered']} (run the same command again to ask for them)")
    parts.append(f"{counts['requests']} requests, {counts['reused_replies']} replies reused, {clock(seconds)}")
    return f"wrote {options.out}: " + "; ".join(parts)
