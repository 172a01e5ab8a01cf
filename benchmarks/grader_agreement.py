"""The grader against labelled real responses: `uv run python benchmarks/grader_agreement.py FOLDER`.

FOLDER holds one JSON object a line in *.jsonl files: response, gold, label and, where known, choices, question,
answer_type, unit, precision. Where a label and the grader disagreed, a person judged; the list of who was right is
tests/rewards/judged_labels.json. Prints a Markdown table by how the answer is given, and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

from sharegrpo_rl.rewards.grading import grade_response
from sharegrpo_rl.rewards.pool import shared_pool

JUDGED = Path(__file__).parents[1] / "tests" / "rewards" / "judged_labels.json"
MARKED = re.compile(r"<answer>|\\(?:boxed|fbox)\b")
FIELDS = ("choices", "question", "answer_type", "unit", "precision")
FORMS = ("tagged or boxed", "free prose")


def count(folder: Path) -> tuple[dict[str, Counter[str]], list[float]]:
    """For each form how many rows, disagreements and judged errors; and the seconds of every row."""
    judged: dict[str, Any] = json.loads(JUDGED.read_text(encoding="utf-8"))
    ours = judged.pop("unclear or ours")
    counts: dict[str, Counter[str]] = {form: Counter() for form in FORMS}
    seconds = []
    for path in sorted(folder.glob("*.jsonl")):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        for number, row in enumerate(map(json.loads, lines), 1):
            if row.get("label") is None or "response" not in row or "gold" not in row:
                continue
            start = time.perf_counter()
            options = {name: row.get(name) for name in FIELDS}
            right = grade_response(row["response"], str(row["gold"]), **options).score >= 0.5
            seconds.append(time.perf_counter() - start)
            form = FORMS[0] if MARKED.search(row["response"]) else FORMS[1]
            label_is_wrong = str(number) in judged.get(path.stem, {})
            truth = row["label"] != label_is_wrong
            at_fault = str(number) in ours.get(path.stem, {})
            counts[form].update(["right" if truth else "wrong"])
            counts[form].update(["disagrees"] if right != row["label"] else [])
            counts[form].update(["rewarded"] if at_fault and right else [])
            counts[form].update(["refused"] if at_fault and not right else [])
    return counts, seconds


def table(counts: dict[str, Counter[str]]) -> str:
    lines = [
        "| answer in | labelled rows | disagree with the label | of these ours or unclear | wrong rewarded | right refused |",
        "|---|---|---|---|---|---|",
    ]
    for form, n in counts.items():
        wrong, right = n["rewarded"] / max(1, n["wrong"]), n["refused"] / max(1, n["right"])
        ours = n["rewarded"] + n["refused"]
        cells = [form, n["wrong"] + n["right"], n["disagrees"], ours, f"{100 * wrong:.2f} %", f"{100 * right:.2f} %"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    shared_pool().warm_up()
    counts, seconds = count(folder)
    print(table(counts))
    ordered = sorted(seconds)
    speed = {"rows": len(ordered), "seconds": sum(ordered), "p99": ordered[int(0.99 * len(ordered))]}
    print(json.dumps({"forms": {form: dict(n) for form, n in counts.items()}, **speed}))


if __name__ == "__main__":
    main()
