"""The grader against labelled real responses: `uv run python benchmarks/grader_agreement.py FILE...`.

Each FILE is what `sharegrpo-rl grade` takes; rows without a label are left out. The labels that a person judged to be
wrong are listed in tests/grader/judged_labels.json by file and row; every other disagreement counts against the grader.
Prints a Markdown table by how the answer is given, and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from sharegrpo_rl.grader import grade_file, shared_pool

JUDGED = Path(__file__).parents[1] / "tests" / "grader" / "judged_labels.json"
MARKED = re.compile(r"<answer>|\\(?:boxed|fbox)\b")
FORMS = ("tagged or boxed", "free prose")


def count(paths: Iterable[Path]) -> tuple[dict[str, Counter[str]], list[float]]:
    """For each form how many rows, disagreements and errors; and the seconds of every row."""
    judged = json.loads(JUDGED.read_text(encoding="utf-8"))
    counts: dict[str, Counter[str]] = {form: Counter() for form in FORMS}
    seconds: list[float] = []
    for path in paths:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        verdicts = grade_file(path)
        for number, row in enumerate(rows, 1):
            start = time.perf_counter()
            right = next(verdicts)["score"] >= 0.5
            seconds.append(time.perf_counter() - start)
            if row.get("label") is None:
                continue
            tally = counts[FORMS[0] if MARKED.search(row["response"]) else FORMS[1]]
            truth = row["label"] != (str(number) in judged.get(path.stem, {}))
            tally["right" if truth else "wrong"] += 1
            tally["disagrees"] += right != row["label"]
            tally["rewarded"] += right and not truth
            tally["refused"] += truth and not right
    return counts, seconds


def table(counts: dict[str, Counter[str]]) -> str:
    lines = [
        "| answer in | labelled rows | disagree with the label | label not judged wrong | wrong rewarded | right refused |",
        "|---|---|---|---|---|---|",
    ]
    for form, n in counts.items():
        wrong, right = n["rewarded"] / max(1, n["wrong"]), n["refused"] / max(1, n["right"])
        errors = n["rewarded"] + n["refused"]
        cells = [form, n["wrong"] + n["right"], n["disagrees"], errors, f"{100 * wrong:.2f} %", f"{100 * right:.2f} %"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    files = parser.parse_args().files
    shared_pool().warm_up()
    counts, seconds = count(files)
    print(table(counts))
    ordered = sorted(seconds)
    speed = {"rows": len(ordered), "seconds": sum(ordered), "p99": ordered[int(0.99 * len(ordered))]}
    print(json.dumps({"forms": {form: dict(n) for form, n in counts.items()}, **speed}))


if __name__ == "__main__":
    main()
