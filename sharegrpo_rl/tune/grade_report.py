"""`grade`: verdicts of the rewards' grader on a file of responses, one line each."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sharegrpo_rl.rewards.grade_file import grade_file


def print_grades(file: Path, extract: str, as_json: bool) -> None:
    """Print a line a row in input order and the summary last; UserError names file and row where one is malformed."""
    for entry in grade_file(file, extract):
        sys.stdout.write((json.dumps(entry, ensure_ascii=False) if as_json else _plain(entry)) + "\n")


def _plain(entry: dict) -> str:
    if "summary" in entry:
        return ", ".join(f"{name} {value}" for name, value in entry["summary"].items())
    return f"row {entry['row']}: {entry['score']:g}  {entry['extracted'] or '(no answer)'}  {entry['reason']}"
