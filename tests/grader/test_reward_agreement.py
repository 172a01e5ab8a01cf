"""Agreement with labelled real responses; each disagreement was judged by hand and stands in judged_labels.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.grader import Verdict, shared_pool, truth_fault
from sharegrpo_rl.grader import grade as grade_response

pytestmark = pytest.mark.timeout(3_600)  # thousands of grades, on a machine however busy
DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "grader"
JUDGED = json.loads(Path(__file__).with_name("judged_labels.json").read_text(encoding="utf-8"))
OURS = JUDGED.pop("unclear or ours")
FILES = ["gllava_geoqa", "mathv_responses", "mathverify_pairs", "mathvista_responses", "qwen25math_cot", "r1v_logs"]
FIELDS = ("choices", "question", "answer_type", "unit", "precision")


def rows_of(name: str) -> list[dict[str, Any]]:
    path = DATA / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"{path.name} is not at hand")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def grade(row: dict[str, Any], extract: Any = "auto") -> Verdict:
    return grade_response(
        row["response"], str(row["gold"]), extract=extract, **{name: row.get(name) for name in FIELDS}
    )


@pytest.mark.parametrize("name", FILES)
def test_every_disagreement_with_a_label_was_judged(name: str) -> None:
    disagreements = set()
    for i, row in enumerate(rows_of(name), 1):
        verdict = grade(row)
        assert verdict.error is None, (name, i, verdict)
        if row["label"] is not None and (verdict.score >= 0.5) != row["label"]:
            disagreements.add(str(i))
    assert disagreements == set(JUDGED.get(name, {})) | set(OURS.get(name, {}))


def test_cases_that_demand_a_box() -> None:
    for row in rows_of("nemo_geo3k_reward_cases"):
        assert (grade(row, "boxed").score >= 0.5) == row["label"]


def test_every_gold_is_accepted_and_equals_itself() -> None:
    for row in rows_of("gold_strings"):
        if row["gold"] in (None, ""):
            continue
        gold, choices = str(row["gold"]), tuple(row.get("choices") or ())
        question = SeedQuestion(id="row", question="", answer=gold, choices=choices)
        assert truth_fault(question) is None, row
        assert grade({**row, "response": f"<think>so</think><answer>{gold}</answer>"}).score == 1, row


def test_few_rows_of_the_mix_need_computer_algebra() -> None:
    rows = [row for name in FILES for row in rows_of(name)][::2][:1000]
    before = shared_pool().requests
    for row in rows:
        grade(row)
    assert shared_pool().requests - before < 0.05 * len(rows)
