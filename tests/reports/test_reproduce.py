"""Tables of the papers: their content against the docs, what fits a machine, and runs in child processes."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sharegrpo_rl.cli import run as run_command
from sharegrpo_rl.config.tree import parse_setting
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.reports.options import ReproduceOptions
from sharegrpo_rl.reports.reproduce import (
    find_table,
    machine_obstacle,
    read_tables,
    reproduce,
)
from sharegrpo_rl.runs.examples import find_run_file, list_examples
from sharegrpo_rl.runs.run_file import load_run

PROGRAM = (sys.executable, str(Path(__file__).with_name("stand_in_program.py")))
DOCS = Path(__file__).parents[2] / "docs" / "papers.md"
TABLES = read_tables()
RECIPES = [
    pytest.param(recipe, id=f"{table.name}-{row.slug}-{kind}")
    for table in TABLES.values()
    for row in table.rows
    for kind, recipe in (("full", row.full), ("tiny", row.tiny))
    if recipe
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_resolves(recipe: Any) -> None:
    spec = load_run(find_run_file(recipe.file), recipe.sets)
    assert spec.iterations > 0


def test_every_run_file_of_a_table_is_in_a_table() -> None:
    named = {row.full.file for table in TABLES.values() for row in table.rows if row.full}
    there = {name for name in list_examples() if name.startswith("papers/")}
    assert named <= there
    assert {name for name in there - named if "/fig" not in name} == set()


def test_figures_agree_with_the_documentation() -> None:
    """A row's first figure stands in docs/papers.md beside its file."""
    lines = {m[1]: line for line in DOCS.read_text().splitlines() if (m := re.search(r"`(papers/[^`]+)`", line))}
    checked = 0
    for table in TABLES.values():
        for row in table.rows:
            if row.full and row.paper and row.paper[0] is not None:
                assert f"{row.paper[0]:g}" in lines[row.full.file].replace("0 %", " %"), row
                checked += 1
    assert checked > 25


def test_means_of_the_main_table_are_the_papers_own() -> None:
    for row in TABLES["papers/share_grpo/table1"].rows:
        *parts, mean = row.paper
        if mean is not None and all(p is not None for p in parts):
            assert sum(p for p in parts if p is not None) / 6 == pytest.approx(mean, abs=0.11), row.name


def test_slugs_of_a_table_differ() -> None:
    for table in TABLES.values():
        slugs = [row.slug for row in table.rows]
        assert len(set(slugs)) == len(slugs)


ALONE = ("config.num_learners=0", "config.sharding=ddp", "config.num_env_runners=0", "config.engine=hf")
ONE_GPU = (*ALONE, "config.num_gpus_per_env_runner=1")


def obstacle(memory: float, model: str, *sets: str, gpus: int | None = 8) -> str | None:
    spec = load_run(find_run_file("papers/share_grpo/table2-grpo"), [f"config.model={model}", *sets])
    return machine_obstacle(spec, memory, gpus)


def test_a_row_fits_where_its_plan_does() -> None:
    model = "Qwen/Qwen2.5-VL-7B-Instruct"
    words = obstacle(80e9, model, *ONE_GPU)
    assert words is not None
    assert words.endswith(" GB, 80 GB are here")
    needed = float(words.split()[2])
    assert 150 < needed < 250  # weights, gradients, master weights and moments are 150 GB, the rest is activations
    assert obstacle(1.01e9 * needed, model, *ONE_GPU) is None
    assert obstacle(80e9, "Qwen/Qwen2-VL-2B-Instruct", *ONE_GPU) is None
    adapted = obstacle(10e9, model, *ONE_GPU, "config.lora.r=16")
    assert adapted is not None
    assert float(adapted.split()[2]) < needed / 3


def test_a_row_wants_as_many_gpus_as_it_asks_for() -> None:
    model = "Qwen/Qwen2.5-VL-7B-Instruct"
    assert obstacle(80e9, model) is None
    assert obstacle(80e9, model, gpus=2) == "asks for 8 GPUs, 2 are here"
    assert obstacle(80e9, model, gpus=0) == "asks for 8 GPUs, 0 are here"
    assert obstacle(80e9, model, gpus=None) is None  # of a cluster nobody has asked
    assert obstacle(300e9, model, *ONE_GPU, gpus=0) == "asks for 1 GPU, 0 are here"
    on_cpu = ("config.num_gpus_per_learner=0", "config.num_gpus_per_env_runner=0")
    assert obstacle(300e9, model, *ALONE, *on_cpu, gpus=0) is None


def test_models_of_unknown_size() -> None:
    assert obstacle(1e6, "tiny") is None
    assert obstacle(1e6, "nobody/anything-7b") is None  # only the hub knows
    assert obstacle(1e12, "runs/missing/export") == "its model is not here: runs/missing/export"


# ---- runs

TABLE = """
paper: A paper
measured_by: a judge
tables:
  one:
    title: Something
    figures: [Bench]
    rows:
      - {{name: Big, paper: [50.25], base: x/Big-7B}}
      - {{name: GRPO, paper: [60], file: {file}, set: [config.num_generations=3], tiny: {{file: {file}}}}}
      - {{name: Huge, paper: [70], file: {file}, set: [config.model=Qwen/Qwen2.5-VL-72B-Instruct]}}
      - {{name: Quoted, paper: [null]}}
"""
RUN_FILE = """
stand_in:
  run: ShareGRPO
  env: DrawnShapes-v0
  stop: {training_iteration: 3}
  config: {num_questions: 2, num_generations: 2, evaluation_questions: 20}
"""


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "run.yaml").write_text(RUN_FILE)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "mine.yaml").write_text(TABLE.format(file=tmp_path / "run.yaml"))
    return {"table": "mine/one", "out": tmp_path / "out"}


def go(**options: Any) -> tuple[int, str]:
    text = io.StringIO()
    console = Console(file=text, width=200)
    tables = options["out"].with_name("tables")
    code = reproduce(ReproduceOptions(**options), console, tables_folder=tables, memory=100e9, gpus=8, program=PROGRAM)
    return code, text.getvalue()


def cells(text: str, row: str) -> list[str]:
    """A row of the last table that names it."""
    line = [line for line in text.splitlines() if f"| {row} " in line][-1]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.slow
def test_rows_that_fit_are_run_and_figures_stay_apart(options: dict[str, Any], tmp_path: Path) -> None:
    code, text = go(**options, seeds=2)
    assert code == 0
    assert re.search(r"needs about \d,\d{3} GB, 100 GB are here", text)
    runs = sorted(p.name for p in (tmp_path / "out" / "runs").iterdir())
    assert runs == ["papers-mine-one-grpo-0", "papers-mine-one-grpo-1"]
    summaries = [json.loads((tmp_path / "out" / "runs" / n / "summary.json").read_text()) for n in runs]
    assert all(s["completions"] == 3 * 2 * 2 * 3 for s in summaries)  # the row's own setting was laid over the file
    after = [100 * s["accuracy_after"] for s in summaries]
    mean = f"{sum(after) / 2:.1f} ({min(after):.1f} to {max(after):.1f})"
    assert cells(text, "GRPO") == ["GRPO", "60", "20.0 (20.0 to 20.0)", mean, "2"]
    assert cells(text, "Huge") == ["Huge", "70", "-", "-", "-"]
    assert cells(text, "Quoted") == ["Quoted", "-", "-", "-", "-"]
    ours = json.loads((tmp_path / "out" / "papers-mine-one.json").read_text())
    assert ours["GRPO"]["accuracy_after"] == [s["accuracy_after"] for s in summaries]
    assert "60" not in json.dumps(ours)
    assert (tmp_path / "out" / "papers-mine-one.md").read_text().strip() in text


def test_a_figure_of_curves_has_our_means_and_none_of_its_own(options: dict[str, Any], tmp_path: Path) -> None:
    table = (
        "{title: Curves, figures: [], ours: [reward_density, valid_advantage_ratio], rows: [{name: GRPO, paper: [], "
    )
    with (tmp_path / "tables" / "mine.yaml").open("a") as file:
        file.write(f"  curves: {table}file: {tmp_path / 'run.yaml'}}}]}}\n")
    code, text = go(**{**options, "table": "mine/curves"})
    assert code == 0
    summary = json.loads(next((tmp_path / "out" / "runs").rglob("summary.json")).read_text())
    shown = [f"{100 * summary[key]:.1f}" for key in ("reward_density", "valid_advantage_ratio")]
    assert cells(text, "GRPO") == ["GRPO", *shown, "1"]
    assert "our run: valid-advantage ratio" in text
    assert "without formulas" in text
    assert "greedy accuracy" not in text


@pytest.mark.slow
def test_finished_rows_are_not_run_again(options: dict[str, Any], tmp_path: Path) -> None:
    go(**options)
    summary = tmp_path / "out" / "runs" / "papers-mine-one-grpo-0" / "summary.json"
    before = summary.stat().st_mtime_ns
    code, text = go(**options)
    assert (code, "started" in text) == (0, False)
    assert summary.stat().st_mtime_ns == before


@pytest.mark.slow
def test_tiny_twins_have_folders_and_tables_of_their_own(options: dict[str, Any], tmp_path: Path) -> None:
    code, text = go(**options, tiny=True)
    assert code == 0
    assert [p.name for p in (tmp_path / "out" / "runs").iterdir()] == ["papers-mine-one-grpo-tiny-0"]
    assert "tiny twin: after" in text
    assert "says nothing about the paper's" in text
    assert (tmp_path / "out" / "papers-mine-one-tiny.md").exists()


def test_benchmarks_are_asked_of_exports_and_of_the_base(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    code, text = go(**options, benchmarks=["mathvista=data/x.parquet"], base=tmp_path / "base")
    assert code == 0
    assert cells(text, "Big") == ["Big", "50.25", "-", "-", "25.0", "1"]
    assert cells(text, "GRPO")[4] == "25.0"
    file = tmp_path / "out" / "evaluations" / "papers-mine-one-grpo-0-mathvista" / "result.json"
    asked = json.loads(file.read_text())
    assert asked["model"].endswith("papers-mine-one-grpo-0/export")
    assert asked["data"] == "data/x.parquet"


def test_a_row_that_fails_is_told_and_the_others_count(options: dict[str, Any]) -> None:
    code, text = go(**options, sets=["config.lr=1e-3"])
    assert code == 1
    assert "papers-mine-one-grpo-0 ended with 2: error: this one ends badly" in text


def test_nothing_that_fits_is_no_error(options: dict[str, Any], tmp_path: Path) -> None:
    code, text = go(**options, sets=["config.model=Qwen/Qwen2.5-VL-72B-Instruct"])
    assert code == 0
    assert "none fits this machine" in text
    assert "--tiny" in text
    assert not (tmp_path / "out").exists()


def test_rows_can_be_chosen(options: dict[str, Any], tmp_path: Path) -> None:
    assert "not requested" in go(**options, rows=[3])[1]
    with pytest.raises(UserError, match="rows 1 to 4, not 5"):
        go(**options, rows=[5])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["share_grpo/table9"], "no such table"),
        (["share_grpo/table2", "--set", "config.lrr=1"], "config.lrr"),
        (["share_grpo/table2", "--benchmark", "mathvista"], "expected NAME=PATH"),
        (["share_grpo/table2", "--tiny", "--benchmark", "mathvista=x"], "leave out one"),
        (["share_grpo/table2", "--row", "99"], "rows 1 to 5"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture) -> None:
    assert run_command(["reproduce", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_the_lists(capsys: pytest.CaptureFixture) -> None:
    assert run_command(["reproduce"]) == 0
    assert "papers/share_grpo/table2" in capsys.readouterr().out
    assert run_command(["reproduce", "papers/share_grpo/table1", "--list"]) == 0
    out = capsys.readouterr().out
    assert "| 4  |" in out
    assert "GPT-4o" in out
    assert "quoted" in out


def test_settings_of_twins_are_plain_texts() -> None:
    for table in TABLES.values():
        for row in table.rows:
            for text in row.tiny.sets if row.tiny else ():
                parse_setting(text)


def test_find_table_without_the_folder() -> None:
    assert find_table("grpo_d/table1-counting-2b", TABLES).paper == "OThink-MR1"
