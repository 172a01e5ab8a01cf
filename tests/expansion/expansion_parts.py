"""Rows and a key that the tests of expansion share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

KEY = "sk-test-3f9a77c1d2e84b"


def question_row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"r{number}",
        "image": "images/a.png",
        "question": f"How many of the {number + 20} dots in the image are red?",
        "answer": "2",
        **changes,
    }


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
