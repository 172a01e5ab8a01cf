"""The grader against labelled responses, beside math-verify and mathruler on the same rows.

uv run --with mathruler --with pylatexenc python benchmarks/grader_agreement.py FILE_OR_FOLDER...

--by source and --by kind print further tables, --list every row on which ours is wrong; --alone leaves the others out.

Each file is what `sharegrpo-rl grade` takes; of a folder every `.jsonl` in it is read. Rows without a label or a gold are
left out. Labels that a person judged to be wrong are listed in tests/grader/judged_labels.json by file and row; every
other disagreement counts against whoever disagrees. Prints Markdown tables and one JSON line. mathruler is no dependency:
without it its columns are left out.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sharegrpo_rl.grader import Verdict, errors_by_kind, grade, shared_pool, tagged_answers

JUDGED = Path(__file__).parents[1] / "tests" / "grader" / "judged_labels.json"
MARKED = re.compile(r"<answer>|\\(?:boxed|fbox)\b")
FIELDS = ("choices", "question", "answer_type", "unit", "precision")
GROUPS = (
    "tagged or boxed, public",
    "free prose, public",
    "own attacks",
    "older files, tagged or boxed",
    "older files, free prose",
)
PEER_SECONDS = 5  # math-verify's own limit, of the clock


@dataclass
class Row:
    """A labelled response: whether it is right, our verdict, and by name what the others say."""

    fields: dict[str, Any]
    is_right: bool
    place: str  # file and row
    verdict: Verdict = Verdict(0.0, None, "")
    seconds: float = 0.0
    peers: dict[str, bool] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """The line of the table that it belongs to."""
        form = "tagged or boxed" if MARKED.search(self.fields["response"]) else "free prose"
        if "label_by" in self.fields:
            return f"older files, {form}"
        return "own attacks" if self.source.startswith("own_attack") else f"{form}, public"

    @property
    def source(self) -> str:
        return str(self.fields.get("source") or "unnamed")

    def said(self, grader: str) -> bool:
        """Whether that grader pays the response."""
        return self.verdict.score >= 0.5 if grader == "ours" else self.peers[grader]


def read(paths: Iterable[Path]) -> Iterator[Row]:
    """The labelled rows of files and folders."""
    judged = json.loads(JUDGED.read_text(encoding="utf-8"))
    for path in paths:
        if path.is_dir():
            yield from read(sorted(path.rglob("*.jsonl")))
            continue
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        for number, line in enumerate(lines, 1):
            fields = json.loads(line)
            if fields.get("label") is not None and fields.get("gold") is not None:
                fields["response"] = str(fields["response"])
                is_judged_wrong = str(number) in judged.get(path.stem, {})
                yield Row(fields, bool(fields["label"]) != is_judged_wrong, f"{path.name}:{number}")


def grade_all(rows: Sequence[Row]) -> dict[str, Any]:
    """Grade the rows on two threads, as files are graded; what that cost."""

    def one(row: Row) -> None:
        start = time.perf_counter()
        optional = {name: row.fields.get(name) for name in FIELDS}
        row.verdict = grade(row.fields["response"], str(row.fields["gold"]), **optional)
        row.seconds = time.perf_counter() - start

    shared_pool().shutdown()
    shared_pool().warm_up()
    start, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(one, rows))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shared_pool().shutdown()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    ordered = sorted(row.seconds for row in rows)
    return {
        "rows": len(rows),
        "rows_per_second": round(len(rows) / seconds, 1),
        "cpu_seconds": round(cpu, 2),
        "cpu_seconds_of_children_with_start": round(after.ru_utime - before.ru_utime, 2),
        "requests_to_children": shared_pool().requests,
        "p50_seconds": round(ordered[len(ordered) // 2], 5),
        "p99_seconds": round(ordered[int(0.99 * len(ordered))], 4),
        "slowest_seconds": round(ordered[-1], 3),
        "errors": {kind: n for kind, n in errors_by_kind(row.verdict.error for row in rows).items() if n},
    }


# ---- The others, as their users call them.


def math_verify_says(row: Row) -> bool:
    """math-verify's verdict on the answer part, or on the whole response where it has no tags."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, StringExtractionConfig, parse, verify

    configs = [LatexExtractionConfig(), ExprExtractionConfig(), StringExtractionConfig()]
    gold, answer = str(row.fields["gold"]), _answer_part(row.fields["response"])
    found = [parse(f"${text}$", configs, parsing_timeout=PEER_SECONDS) for text in (gold, answer)]
    found += [parse(text, configs, parsing_timeout=PEER_SECONDS) for text in (gold, answer)]
    (gold_math, answer_math, gold_text, answer_text) = found
    if answer == row.fields["response"]:  # prose: dollars around it mean nothing
        answer_math = []
    return any(
        bool(g and a) and verify(g, a, timeout_seconds=PEER_SECONDS)
        for g in (gold_math, gold_text)
        for a in (answer_math, answer_text)
    )


def mathruler_says(row: Row) -> bool:
    """mathruler's verdict on the answer part, or on the box."""
    from mathruler.grader import extract_boxed_content, grade_answer

    response = row.fields["response"]
    answer = _answer_part(response)
    if answer == response or "\\boxed" in answer:
        answer = extract_boxed_content(answer)
    return bool(grade_answer(answer, str(row.fields["gold"])))


def _answer_part(response: str) -> str:
    tagged = tagged_answers(response)
    return tagged[-1] if tagged else response


PEERS: dict[str, Callable[[Row], bool]] = {"math-verify": math_verify_says, "mathruler": mathruler_says}


NEEDED = {"mathruler": ("mathruler", "pylatexenc")}  # which it imports without asking for it


def ask_peers(rows: Sequence[Row], names: Sequence[str]) -> dict[str, int]:
    """Let each of them judge every row; how often each raised, which counts as not paid."""
    raised, disabled = Counter[str](), logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        for name, row in ((name, row) for name in names for row in rows):
            try:
                row.peers[name] = PEERS[name](row)
            except Exception:  # of a library that is measured here: counted and printed
                row.peers[name] = False
                raised[name] += 1
    finally:
        logging.disable(disabled)
    return dict(raised)


# ---- Tables.


def table(
    rows: Sequence[Row], graders: Sequence[str], title: str, names: Sequence[str], of: Callable[[Row], str]
) -> str:
    """For each name the wrong rows that are paid and the right ones that are refused, by each grader."""
    header = [title, "rows", *(f"{g}: {what}" for g in graders for what in ("wrong paid", "right refused"))]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for name in names:
        own = [row for row in rows if of(row) == name]
        if not own:
            continue
        cells = [name, f"{len(own):,}"]
        for grader in graders:
            wrong = [row.said(grader) for row in own if not row.is_right]
            right = [not row.said(grader) for row in own if row.is_right]
            cells += [share(wrong), share(right)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def share(faults: Sequence[bool]) -> str:
    """`3 of 120 (2.5 %)`."""
    return f"{sum(faults)} of {len(faults)} ({100 * sum(faults) / len(faults):.1f} %)" if faults else "-"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+", metavar="FILE_OR_FOLDER")
    parser.add_argument("--by", choices=("source", "kind"), action="append", default=[], help="one more table")
    parser.add_argument("--alone", action="store_true", help="leave the other graders out")
    parser.add_argument("--list", action="store_true", help="print every row on which ours is wrong")
    options = parser.parse_args(arguments)
    rows = list(read(options.paths))
    cost = grade_all(rows)
    peers = [] if options.alone else [name for name in PEERS if all(map(find_spec, NEEDED.get(name, ())))]
    raised = ask_peers(rows, peers)
    graders = ["ours", *peers]
    print(table(rows, graders, "rows", GROUPS, lambda row: row.group))
    if "source" in options.by:
        print("\n" + table(rows, graders, "source", sorted({r.source for r in rows}), lambda row: row.source))
    if "kind" in options.by:
        kinds = sorted({row.verdict.kind for row in rows})
        print("\n" + table(rows, graders, "decided by", kinds, lambda row: row.verdict.kind))
    if options.list:
        print()
        for row in rows:
            if row.said("ours") != row.is_right:
                what = "refused" if row.is_right else "paid"
                print(f"{row.place} {what}: {row.fields['response'][-60:]!r} for {row.fields['gold']!r}: {row.verdict}")
    print("\n" + json.dumps({**cost, "raised": raised}))


if __name__ == "__main__":
    main()
