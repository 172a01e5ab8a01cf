"""Published benchmarks by name: how their rows are read, which split is meant, what accuracy is broken down by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharegrpo_rl.data.benchmarks.cells import is_blank, text_list, text_of
from sharegrpo_rl.data.benchmarks.rows import (
    ReadRow,
    ai2d,
    counting,
    math_verse,
    math_vision,
    math_vista,
    mm_star,
    mmmu,
    pope,
    question_and_truth,
    tsv_row,
    we_math,
)
from sharegrpo_rl.data.columns import nested_value
from sharegrpo_rl.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Layout:
    """A benchmark's public format."""

    name: str
    read: ReadRow
    categories: Mapping[str, tuple[str, ...]]  # name in reports -> columns tried; the first with one value is the kind
    splits: tuple[str, ...] = ("test",)  # in the order in which they are looked for
    row_splits: tuple[str, ...] = ()  # keep only rows whose own `split` column is one of these
    metric: str = "accuracy"
    hub: tuple[str, ...] = ()  # names on the hub that are known to have this layout
    files: tuple[str, ...] = ()  # beginnings of VLMEvalKit's file names
    lmms_task: str | None = None
    hub_config: str | None = None  # the configuration on the hub that is meant where none is named

    def values(self, row: Mapping[str, Any], where: str) -> dict[str, list[str]]:
        """The row's values under each category; it may have several under one (POPE, MathVista's skills)."""
        values = {}
        for name, columns in self.categories.items():
            cells = (nested_value(row, column) for column in columns)
            if (cell := next((cell for cell in cells if not is_blank(cell)), None)) is not None:
                values[name] = _values(cell, f"{where}: {name}", split=self.name == "pope")
        return values


def _values(value: Any, where: str, *, split: bool) -> list[str]:
    if isinstance(value, list | tuple) or (isinstance(value, str) and value.startswith("[")):
        return list(text_list(value, where))
    parts = text_of(value).split(",") if split else [text_of(value)]
    return [part.strip() for part in parts if part.strip()]


_TASK = ("task", "metadata.task")
_ALL = (
    Layout(
        "vlmevalkit",
        tsv_row,
        {"category": ("category",), "l2-category": ("l2-category",), "split": ("split",)},
    ),
    Layout(
        "mathvista",
        math_vista,
        {
            "task": _TASK,
            "skills": ("skills", "metadata.skills"),
            "question_type": ("question_type",),
            "category": ("category", "metadata.category"),
            "source": ("source", "metadata.source"),
        },
        splits=("testmini",),
        hub=("AI4Math/MathVista",),
        files=("MathVista",),
        lmms_task="mathvista_testmini_format",
    ),
    Layout(
        "mmstar",
        mm_star,
        {"category": ("category",), "l2-category": ("l2_category", "l2-category")},
        splits=("val", "test"),
        hub=("Lin-Chen/MMStar",),
        files=("MMStar",),
        lmms_task="mmstar",
    ),
    Layout(
        "mmmu",
        mmmu,
        {
            "subject": ("category",),
            "discipline": ("l2-category",),
            "subfield": ("subfield",),
            "difficulty": ("topic_difficulty",),
            "question_type": ("question_type",),
        },
        splits=("validation",),
        row_splits=("validation",),
        hub=("MMMU/MMMU", "lmms-lab/MMMU"),
        files=("MMMU",),
        lmms_task="mmmu_val",
    ),
    Layout(
        "mathverse",
        math_verse,
        {
            "version": ("problem_version",),
            "subject": ("metadata.subject",),
            "subfield": ("metadata.subfield",),
            "question_type": ("question_type",),
        },
        splits=("testmini",),
        hub=("AI4Math/MathVerse",),
        hub_config="testmini",
        files=("MathVerse",),
        lmms_task="mathverse_testmini",
    ),
    Layout(
        "mathvision",
        math_vision,
        {"subject": ("subject", "category"), "level": ("level",)},
        splits=("test",),
        hub=("MathLLMs/MathVision",),
        files=("MathVision",),
        lmms_task="mathvision_test",
    ),
    Layout(
        "ai2d",
        ai2d,
        {"category": ("category",)},
        hub=("lmms-lab/ai2d",),
        files=("AI2D",),
        lmms_task="ai2d",
    ),
    Layout(
        "pope",
        pope,
        {"category": ("category",)},
        metric="pope",
        hub=("lmms-lab/POPE",),
        files=("POPE",),
        lmms_task="pope",
    ),
    Layout(
        "wemath",
        we_math,
        {"step": ("key",), "concept": ("knowledge concept",)},
        splits=("testmini",),
        metric="wemath",
        hub=("We-Math/We-Math",),
        files=("WeMath",),
        lmms_task="wemath_testmini",
    ),
    Layout("geoqa", question_and_truth, {}, splits=("test", "train"), hub=("leonardPKU/GEOQA_R1V_Train_8K",)),
    Layout("clevr", counting, {}, splits=("test", "train"), hub=("leonardPKU/clevr_cogen_a_train",)),
    Layout("superclevr", counting, {}, splits=("test", "train")),
)
LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in _ALL}


def find_layout(name: str) -> Layout:
    """The layout of that name; UserError with the closest one where there is none."""
    if name not in LAYOUTS:
        hint = did_you_mean(name, LAYOUTS, f"known: {', '.join(LAYOUTS)}")
        raise UserError(f"benchmark: there is no layout {name!r}; {hint}")
    return LAYOUTS[name]


def recognized(data: str) -> str | None:
    """The layout of a known hub name or of a TSV file, by VLMEvalKit's file names; None for other data."""
    for layout in _ALL:
        if data in layout.hub:
            return layout.name
    path = Path(data)
    if path.suffix != ".tsv":
        return None
    named = [layout.name for layout in _ALL if path.name.startswith(layout.files)]
    return named[0] if named else "vlmevalkit"
