"""Write a comparison: report.json, report.md, report.html and the pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharegrpo_rl.reports import markdown, page
from sharegrpo_rl.reports.analysis import analyse
from sharegrpo_rl.reports.checks import check_methods
from sharegrpo_rl.reports.content import Content
from sharegrpo_rl.reports.examples import DISAGREEMENT_RULE, SAMPLE_RULE, disagreements, sample_rollouts
from sharegrpo_rl.reports.methods import Method
from sharegrpo_rl.reports.plots import draw_all
from sharegrpo_rl.reports.question_images import question_images
from sharegrpo_rl.reports.scores import Settings
from sharegrpo_rl.reports.wording import findings, method_notes, partial_notes, stop_notes
from sharegrpo_rl.tune.result_log import as_json
from sharegrpo_rl.tune.run_folder import storage_errors, write_atomically


def write_report(methods: Sequence[Method], settings: Settings, out: Path, command: str = "") -> dict[str, Any]:
    """Check, analyse, draw, write; returns the content of report.json. UserError where there is nothing to compare.

    `command` makes the report again; it is shown as it is.
    """
    check_methods(methods, settings.metric, settings.confidence)
    analysis = analyse(methods, settings)
    shown = [m for m in methods if m.runs]
    samples = sample_rollouts(shown)
    differing = disagreements(shown, analysis["comparisons"])
    ids = [e.question_id for e in samples]
    ids += [e.question_id for pair in differing for e in (*pair.only_a, *pair.only_b)]
    finished = next(run for m in methods for run in m.finished)
    images, problem = question_images(finished, list(dict.fromkeys(ids))) if ids else ({}, "")
    notes = [problem] if problem else []
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        pictures = draw_all(shown, analysis, out)
        content = Content(make_title(methods, analysis), analysis, pictures, samples, differing, images, notes, command)
        report = as_json(
            {
                "title": content.title,
                "partial": bool(partial_notes(analysis)),
                "partial_notes": partial_notes(analysis),
                "findings": findings(analysis),
                "stopped": stop_notes(analysis),
                **analysis,
                "pictures": [vars(p) for p in pictures],
                "sample_rule": SAMPLE_RULE,
                "disagreement_rule": DISAGREEMENT_RULE,
                "disagreements": [
                    {
                        "a": d.a,
                        "b": d.b,
                        **{side: [e.question_id for e in getattr(d, side)] for side in ("only_a", "only_b")},
                    }
                    for d in differing
                ],
                "notes": [*method_notes(analysis), *notes],
                "command": command,
            }
        )
        write_atomically(out / "report.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
        write_atomically(out / "report.md", markdown.render(content))
        write_atomically(out / "report.html", page.render(content, out))
    return report


def make_title(methods: Sequence[Method], analysis: dict[str, Any]) -> str:
    """`Share-GRPO and GRPO on DrawnShapes-v0`."""
    names = [m.label for m in methods if m.control_of is None]
    joined = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    data = analysis["test_set"]["data"]
    place = Path(data).name if isinstance(data, str) else analysis["test_set"]["env"]
    return f"{joined} on {place}"
