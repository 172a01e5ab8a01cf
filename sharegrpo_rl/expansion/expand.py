"""`expand`: every question of a data set through a language model, and a new data set of what passed the checks."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import sharegrpo_rl
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.expansion.dataset_folder import (
    KEY_STEPS,
    NOTES,
    PROVENANCE,
    REJECTED,
    VARIANTS,
    Added,
    appearing,
    check_out,
    journal_path,
    write_files,
)
from sharegrpo_rl.expansion.endpoint import Asker
from sharegrpo_rl.expansion.prompts import KEY_STEPS_VERSION, REWRITE_VERSION, SOLVE_VERSION
from sharegrpo_rl.expansion.question import Outcome, Wanted, expand_question
from sharegrpo_rl.expansion.session import Journal, Session
from sharegrpo_rl.expansion.source import Source, SourceFile, open_source

# ---- What `expand` is told, checked before anything is read.

DEFAULT_KEY_ENV = "OPENAI_API_KEY"


@dataclass(frozen=True)
class ExpandOptions:
    """Options of one `expand`; those of `wanted` and the model decide the replies, the others only how they are got."""

    data: str
    out: Path
    wanted: Wanted
    split: str = "train"
    limit: int | None = None
    columns: dict[str, str | None] = field(default_factory=dict)
    hub_config: str | None = None
    endpoint: str | None = None
    model: str | None = None
    key_env: str = DEFAULT_KEY_ENV
    local: str | None = None
    concurrency: int = 8
    requests_per_minute: float | None = None
    timeout: float = 120.0
    retries: int = 4

    def __post_init__(self) -> None:
        if (self.endpoint is None) == (self.local is None):
            raise UserError("name one model: --endpoint URL --model NAME, or --local MODEL_FOLDER")
        if self.endpoint is not None and not (self.model or "").strip():
            raise UserError(f"--endpoint {self.endpoint}: say which of its models to ask, with --model NAME")
        if self.local is not None and self.model is not None:
            raise UserError("--model belongs to --endpoint; a local model is named by its folder alone")
        if self.wanted.variants == 0 and not self.wanted.key_steps:
            raise UserError("--variants 0 without --key-steps leaves nothing to do")


def column_choices(pairs: Sequence[str]) -> dict[str, str | None]:
    """`question=my_column` and the like as {field: column}; UserError for another form."""
    chosen: dict[str, str | None] = {}
    for pair in pairs:
        name, equals, column = pair.partition("=")
        if not (name and equals and column):
            raise UserError(f"--column {pair}: write FIELD=NAME, such as question=my_column")
        chosen[name] = column
    return chosen


def make_asker(options: ExpandOptions) -> Asker:
    """The endpoint or the local model; UserError where either is no good at first sight."""
    if options.local is not None:
        from sharegrpo_rl.expansion.local import LocalModel

        return LocalModel(options.local)
    from sharegrpo_rl.expansion.endpoint import Endpoint

    if options.key_env != DEFAULT_KEY_ENV and options.key_env not in os.environ:
        raise UserError(f"--key-env {options.key_env}: no such variable is set; set it, or leave the option out")
    assert options.endpoint is not None
    assert options.model is not None
    return Endpoint(
        options.endpoint,
        options.model,
        os.environ.get(options.key_env, ""),
        timeout=options.timeout,
        retries=options.retries,
        requests_per_minute=options.requests_per_minute,
        key_env=options.key_env,
    )


# ---- How far the questions are, on standard error: a bar on a terminal, a line now and then elsewhere.

_SECONDS_BETWEEN_LINES = 10.0


class QuestionCounter:
    """Told of each question that is done, with how many variants were kept and rejected of it."""

    def __init__(self, console: Console, total: int, bar: Progress | None) -> None:
        self._console, self._bar, self._total = console, bar, total
        self._task = bar.add_task("expand", total=total, text="") if bar else None
        self._done = self._kept = self._rejected = 0
        self._last = time.monotonic()

    def done(self, kept: int, rejected: int) -> None:
        """One question more."""
        self._done, self._kept, self._rejected = self._done + 1, self._kept + kept, self._rejected + rejected
        text = f"{self._kept} kept, {self._rejected} rejected"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, text=text)
        elif time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            self._console.print(f"{self._done} of {self._total} questions, {text}", highlight=False, soft_wrap=True)


@contextmanager
def counting(console: Console, total: int) -> Iterator[QuestionCounter]:
    """A counter of `total` questions; the bar goes away at the end."""
    if not console.is_terminal:
        yield QuestionCounter(console, total, None)
        return
    columns = (MofNCompleteColumn(), BarColumn(bar_width=24), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield QuestionCounter(console, total, bar)


Outcomes = dict[tuple[Path, int], Outcome]  # by file and row
Place = tuple[SourceFile, int]


def expand(options: ExpandOptions, console: Console) -> str:
    """Write the new data set and return a line that sums it up; UserError where that cannot be done, nothing written."""
    began = time.monotonic()
    source = open_source(options.data, options.split, options.limit, options.columns, options.hub_config)
    digest = source.check()
    asker = make_asker(options)
    settings = _settings(options, asker, digest)
    check_out(options.out, settings)
    journal = Journal(journal_path(options.out))
    try:
        session = Session(asker, journal)
        outcomes = asyncio.run(_ask_all(session, source, options, console))
    except KeyboardInterrupt:
        console.print("stopped; the replies so far are kept: run the same command again to go on", highlight=False)
        raise
    finally:
        journal.close()
    counts = _counts(source, outcomes, options)
    counts |= {"requests": session.asked, "reused_replies": session.reused}
    with appearing(options.out) as folder:
        write_files(source, _added(source, outcomes, options), folder)
        _write_notes(folder / NOTES, source, outcomes, _provenance(options, asker, source, settings, counts))
    return _summary(options, counts, time.monotonic() - began)


async def _ask_all(session: Session, source: Source, options: ExpandOptions, console: Console) -> Outcomes:
    outcomes: Outcomes = {}
    places = [(file, row) for file in source.files if file.expanded for row in range(file.rows)]
    remaining = iter(places)
    with counting(console, len(places)) as counter:
        workers = min(options.concurrency, len(places))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(_work(session, source, remaining, options, outcomes, counter))
        except BaseExceptionGroup as failed:
            raise _first(failed) from None
        finally:
            await session.asker.close()
    return outcomes


async def _work(
    session: Session,
    source: Source,
    remaining: Iterator[Place],
    options: ExpandOptions,
    outcomes: Outcomes,
    counter: QuestionCounter,
) -> None:
    """Take questions until there is none left."""
    for file, number in remaining:
        row = source.row(file, number)
        outcome = await expand_question(session, row.question, row.text, row.own, options.wanted)
        outcomes[file.target, number] = outcome
        counter.done(len(outcome.variants), len(outcome.rejected))


def _first(failed: BaseException) -> BaseException:
    """The first cause within a group; the others are of the same kind."""
    while isinstance(failed, BaseExceptionGroup):
        failed = failed.exceptions[0]
    return failed


def _settings(options: ExpandOptions, asker: Asker, digest: str) -> dict[str, Any]:
    """What decides the replies, apart from the rows: with the same settings a data set may be made again in its place."""
    return {
        "model": asker.identity,
        **asdict(options.wanted),
        "prompts": [REWRITE_VERSION, KEY_STEPS_VERSION, SOLVE_VERSION],
        "split": options.split,
        "limit": options.limit,
        "columns": options.columns,
        "source_digest": digest,
    }


def _provenance(
    options: ExpandOptions, asker: Asker, source: Source, settings: dict[str, Any], counts: dict[str, Any]
) -> dict[str, Any]:
    return {
        "made_by": f"sharegrpo_rl {sharegrpo_rl.__version__}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": source.name,
        "asked": asker.name,
        "settings": settings,
        "counts": counts,
    }


def _added(source: Source, outcomes: Outcomes, options: ExpandOptions) -> dict[Path, list[Added]]:
    """The new columns of each row: the row's own rewordings, then the new ones."""
    return {
        file.target: [
            _new_columns(row.question, row.own, outcomes[file.target, row.number], options) for row in source.read(file)
        ]
        for file in source.files
        if file.expanded
    }


def _new_columns(question: SeedQuestion, own: tuple[str, ...], outcome: Outcome, options: ExpandOptions) -> Added:
    columns: dict[str, Any] = {VARIANTS: [*own, *outcome.variants]}
    if options.wanted.key_steps:
        steps = outcome.key_steps or question.key_steps
        columns[KEY_STEPS] = [list(step) for step in steps] or None
    return columns


def _write_notes(folder: Path, source: Source, outcomes: Outcomes, provenance: dict[str, Any]) -> None:
    folder.mkdir()
    text = json.dumps(provenance, ensure_ascii=False, indent=2)
    (folder / PROVENANCE).write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    with (folder / REJECTED).open("w", encoding="utf-8", errors="backslashreplace") as out:
        for entry in _rejected(source, outcomes):
            out.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _rejected(source: Source, outcomes: Outcomes) -> Iterator[dict[str, Any]]:
    for (target, number), outcome in sorted(outcomes.items()):
        if not outcome.rejected and outcome.unanswered is None:
            continue
        file = next(file for file in source.files if file.target == target)
        place = {"file": target.as_posix(), "row": number, "id": source.row(file, number).question.id}
        for item in outcome.rejected:
            yield {**place, **asdict(item)}
        if outcome.unanswered is not None:
            yield {**place, "kind": "reply", "text": "", "check": "unanswered", "reason": outcome.unanswered}


def _counts(source: Source, outcomes: Outcomes, options: ExpandOptions) -> dict[str, Any]:
    checks = Counter(item.check for outcome in outcomes.values() for item in outcome.rejected)
    counts: dict[str, Any] = {
        "questions": len(outcomes),
        "variants": sum(len(outcome.variants) for outcome in outcomes.values()),
        "questions_with_all": sum(len(o.variants) >= options.wanted.variants for o in outcomes.values()),
        "questions_with_none": sum(not outcome.variants for outcome in outcomes.values()),
        "unanswered": sum(outcome.unanswered is not None for outcome in outcomes.values()),
        "rejected": dict(checks.most_common()),
    }
    if options.wanted.key_steps:
        counts["questions_with_key_steps"] = sum(bool(outcome.key_steps) for outcome in outcomes.values())
    return counts


def _summary(options: ExpandOptions, counts: dict[str, Any], seconds: float) -> str:
    wanted, parts = options.wanted, []
    if wanted.variants:
        asked = counts["questions"] * wanted.variants
        parts.append(f"{counts['variants']} of {asked} variants for {counts['questions']} questions")
        parts.append(
            f"{counts['questions_with_all']} have all {wanted.variants}, {counts['questions_with_none']} have none"
        )
    if wanted.key_steps:
        parts.append(f"{counts['questions_with_key_steps']} of {counts['questions']} questions have key steps")
    rejected = ", ".join(f"{check} {count}" for check, count in counts["rejected"].items())
    parts.append(f"rejected {sum(counts['rejected'].values())}{f' ({rejected})' if rejected else ''}")
    if counts["unanswered"]:
        parts.append(f"unanswered {counts['unanswered']} (run the same command again to ask for them)")
    parts.append(f"{counts['requests']} requests, {counts['reused_replies']} replies reused, {seconds:.0f} s")
    return f"wrote {options.out}: " + "; ".join(parts)
