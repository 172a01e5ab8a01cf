"""Ground truths that cannot be graded are refused with the row's name."""

from __future__ import annotations

from typing import Any

import pytest

from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.grader import check_truth


@pytest.mark.parametrize(
    "fields",
    [
        {"answer": ""},
        {"answer": "  "},
        {"answer": "$$"},
        {"answer": "\\frac{1}{"},
        {"answer": "x" * 5000},
        {"answer": "E", "choices": ("1", "2", "3")},
        {"answer": "green", "choices": ("red", "blue")},
        {"answer": "many", "answer_type": "numeric"},
        {"answer": "perhaps", "answer_type": "yes_no"},
        {"answer": "the second", "answer_type": "multiple_choice"},
    ],
)
def test_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="row bad_row: "):
        check_truth(SeedQuestion(id="bad_row", question="?", **fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"answer": "5"},
        {"answer": "red"},
        {"answer": "B", "choices": ("1", "2", "3")},
        {"answer": "2", "choices": ("1", "2", "3")},
        {"answer": "no", "answer_type": "yes_no"},
        {"answer": "\\frac{1}{2}", "answer_type": "numeric"},
        {"answer": "(-\\infty, 4]"},
    ],
)
def test_accepted(fields: dict[str, Any]) -> None:
    check_truth(SeedQuestion(id="good_row", question="?", **fields))
