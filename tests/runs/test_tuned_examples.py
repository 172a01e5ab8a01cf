"""Every tuned example resolves; rows of a paper's table differ and hold what the paper says; methods stand side by side."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from PIL import Image

from sharegrpo_rl.cli import run
from sharegrpo_rl.config.presets import ALGORITHM_OPTIONS
from sharegrpo_rl.data import loading
from sharegrpo_rl.data.tables import HubTable, looks_like_hub_name
from sharegrpo_rl.envs.registry import make_bank
from sharegrpo_rl.runs.examples import list_examples
from sharegrpo_rl.runs.run_file import load_run
from sharegrpo_rl.search.draws import planned_values
from sharegrpo_rl.search.file import load_search

PROJECT = Path(__file__).resolve().parents[2]
EXAMPLES = list_examples()
PAPERS = [name for name in EXAMPLES if name.startswith("papers/")]
SEARCHES = {"share_grpo/drawn_shapes-tiny-search", "papers/grpo_d/fig4-alpha", "papers/grpo_d/fig6-kl"}
FOLDERS = {"grpo": "GRPO", "share_grpo": "ShareGRPO", "grpo_d": "GRPOD", "step_grpo": "StepGRPO", "sft": "SFT"}


def resolved(name: str) -> tuple[Any, ...]:
    """Everything that decides what an example does, the run's name left out."""
    if name in SEARCHES:
        search = load_search(EXAMPLES[name])
        return search.base.run, search.base.config, search.space, search.options
    spec = load_run(EXAMPLES[name])
    return spec.run, spec.env, spec.stop, spec.config


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_tuned_example_resolves(name: str, capsys: pytest.CaptureFixture) -> None:
    verb = "tune" if name in SEARCHES else "train"
    assert run([verb, name, "--dry-run"]) == 0
    out = capsys.readouterr().out
    (algorithm,) = re.findall(r"^  run: (\w+)$", out, re.MULTILINE)
    assert algorithm in ALGORITHM_OPTIONS
    if not name.startswith("papers/"):
        assert algorithm == FOLDERS[name.split("/")[0]]
    assert "optimizer steps an iteration" in out


def on_the_hub(name: str) -> bool:
    config = (load_search(EXAMPLES[name]).base if name in SEARCHES else load_run(EXAMPLES[name])).config
    return looks_like_hub_name(str(config.get("env_config", {}).get("data", "")))


@pytest.mark.parametrize("name", [name for name in EXAMPLES if on_the_hub(name)])
def test_an_example_of_hub_data_has_questions_to_test_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sets on the hub have a train split alone, as this stand-in, or the split that the example names."""
    columns = {
        "image": [Image.new("RGB", (40, 30), (i, 0, 0)) for i in range(200)],
        "problem": [f"How many of the {i} items?" for i in range(200)],
        "solution": [f"<answer> {i} </answer>" for i in range(200)],
    }
    rows = HubTable(Dataset.from_dict(columns), "stand-in [train]")
    monkeypatch.setattr(loading, "load_hub", lambda name, config: {"train": rows})
    spec = load_search(EXAMPLES[name]).base if name in SEARCHES else load_run(EXAMPLES[name])
    settings = {k: v for k, v in spec.config["env_config"].items() if k not in ("columns", "kinds")}
    train, test = (make_bank(spec.env, settings, split, check=False) for split in ("train", "test"))
    assert len(test) >= 1
    assert len(train) + len(test) <= 200
    assert {train[i].question for i in range(len(train))}.isdisjoint(test[i].question for i in range(len(test)))


@pytest.mark.parametrize("name", sorted(SEARCHES))
def test_a_search_is_not_trained(name: str, capsys: pytest.CaptureFixture) -> None:
    assert run(["train", name]) == 2
    assert f"tune {EXAMPLES[name]} --dry-run" in capsys.readouterr().err


def test_the_search_example_clips_stops_early_and_shares_its_warm_start() -> None:
    search = load_search(EXAMPLES["share_grpo/drawn_shapes-tiny-search"])
    assert search.trials == 8
    assert {key.key for key in search.space} == {
        f"config.{k}" for k in ("clip_high", "kl_coeff", "num_variants", "num_generations")
    }
    assert search.options["scheduler"] == "asha"
    for values in planned_values(search, 0):
        spec = search.trial(values)
        assert spec.options.work(spec.iterations).optimizer_steps >= 2 * spec.iterations
        assert spec.config["warm_start"] == search.base.config["warm_start"]


def test_two_rows_of_a_table_differ() -> None:
    tables: dict[str, list[str]] = {}
    for name in PAPERS:
        tables.setdefault(name.split("-")[0], []).append(name)
    assert len(tables) == 11
    for rows in tables.values():
        for one, other in combinations(rows, 2):
            assert resolved(one) != resolved(other), f"{one} and {other}"


SHARE = {"run": "ShareGRPO", "num_variants": 2, "num_generations": 6, "transform_probability": 0.3, "selection": "none",
         "advantage_levels": "global_local", "pairing": "all", "kl_coeff": 0.0, "temperature": 0.7, "lr": 1e-6,
         "num_questions": 512, "minibatch_size": 128, "model": "Qwen/Qwen2.5-VL-7B-Instruct"}  # fmt: skip
PLAIN = {"run": "GRPO", "num_variants": 1, "num_generations": 12, "transform_probability": 0.0, "wording": "original",
         "selection": "none", "kl_coeff": 0.0, "temperature": 0.7, "lr": 1e-6, "num_questions": 512, "minibatch_size": 128,
         "model": "Qwen/Qwen2.5-VL-7B-Instruct"}  # fmt: skip
DYNAMIC = {"selection": "dynamic_sampling"}
SHARE_ROWS: dict[str, tuple[str, dict[str, Any]]] = {  # the figures of the paper and what its row says
    "table1-r1_sharevl_7b": ("75.4", SHARE),
    "table1-r1_sharevl_32b": ("77.6", {**SHARE, "model": "Qwen/Qwen2.5-VL-32B-Instruct"}),
    "table2-grpo": ("72.8", PLAIN),
    "table2-offline_global": ("73.9", {**SHARE, "transform_probability": 0.0, "advantage_levels": "global"}),
    "table2-online_global": ("74.8", {**SHARE, "advantage_levels": "global"}),
    "table2-online_global_local": ("75.4", SHARE),
    "table3-grpo_dynamic_sampling": ("65.1", {**PLAIN, **DYNAMIC}),
    "table3-share_grpo": ("66.8", SHARE),
    "table3-share_grpo_dynamic_sampling": ("67.2", {**SHARE, **DYNAMIC}),
    "table4-m2": ("75.4", SHARE),
    "table4-m3": ("75.6", {**SHARE, "num_variants": 3}),
    "table4-m4": ("75.9", {**SHARE, "num_variants": 4}),
    "table5-grpo_n6": ("72.3", {**PLAIN, "num_generations": 6}),
    "table5-grpo_n12": ("72.8", PLAIN),
    "table5-grpo_n24": ("73.0", {**PLAIN, "num_generations": 24}),
    "table5-share_grpo_3_3": ("74.7", {**SHARE, "num_generations": 3}),
    "table5-share_grpo_6_6": ("75.4", SHARE),
}
FEW = {"2b": 100, "7b": 120}
ACCURACY = {  # OThink-MR1, Table 1: GRPO, SFT, GRPO-D
    ("counting", "2b"): ("64.50", "68.50", "76.50"), ("geometry", "2b"): ("30.24", "32.49", "34.35"),
    ("counting", "7b"): ("76.50", "74.50", "78.00"), ("geometry", "7b"): ("42.04", "43.50", "45.49"),
}  # fmt: skip


def check_row(name: str, figure: str, expected: dict[str, Any]) -> dict[str, Any]:
    spec = load_run(EXAMPLES[name])
    settings = {**spec.config, **spec.config["env_config"], "run": spec.run, "env": spec.env}
    assert {key: settings[key] for key in expected} == expected
    assert figure in EXAMPLES[name].read_text().splitlines()[0]
    return settings


@pytest.mark.parametrize("row", SHARE_ROWS)
def test_rows_of_r1_sharevl(row: str) -> None:
    settings = check_row(f"papers/share_grpo/{row}", *SHARE_ROWS[row])
    assert (settings["data"], settings["max_questions"]) == ("HuanjinYao/R1-ShareVL-52K", 52000)
    assert settings["columns"]["variants"] == "new_questions"
    if settings["transform_probability"]:
        assert {"rotate_180", "flip_vertical", "noise_50"} <= set(settings["transforms"])


@pytest.mark.parametrize(("task", "size"), ACCURACY)
def test_rows_of_othink_mr1(task: str, size: str) -> None:
    counting = task == "counting"
    data = {"env": "VisualCounting-v0", "data": "leonardPKU/clevr_cogen_a_train", "max_questions": FEW[size]}
    if not counting:
        data = {"env": "GeometryQA-v0", "data": "leonardPKU/GEOQA_R1V_Train_8K", "max_questions": None}
    data["model"] = f"Qwen/Qwen2-VL-{size.upper()}-Instruct"
    reward = {"rewards": {"accuracy": 1.0, "format": 1.0}, "num_generations": 8, "kl_estimator": "k3"}
    constant = {**reward, "run": "GRPO", "kl_schedule": "constant", "kl_coeff": 0.04 if counting else 0.01}
    low, high = (0.04, 0.1) if counting else (0.0, 0.02)
    dynamic = {**reward, "run": "GRPOD", "kl_schedule": "v_shape", "kl_min": low, "kl_max": high, "kl_turn": 0.3}
    methods = {"grpo": constant, "sft": {"run": "SFT"}, "grpo_d": dynamic}
    for (method, expected), figure in zip(methods.items(), ACCURACY[task, size], strict=True):
        check_row(f"papers/grpo_d/table1-{task}-{size}-{method}", figure, {**data, **expected})


def test_sweeps_of_othink_mr1() -> None:
    for name, key, values in (
        ("fig4-alpha", "config.rewards.format", (0.0, 0.25, 0.5, 0.75, 1.0)),
        ("fig6-kl", "config.kl_coeff", (0.0, 0.01, 0.02, 0.03, 0.04, 0.05)),
    ):
        (found,) = load_search(EXAMPLES[f"papers/grpo_d/{name}"]).space
        assert (found.key, found.word, found.arguments) == (key, "grid_search", values)
    for name in ("fig1-grpo", "fig1-sft"):
        assert load_run(EXAMPLES[f"papers/grpo_d/{name}"]).config["evaluation_interval"] == 100


@pytest.mark.parametrize("name", PAPERS)
def test_a_paper_s_file_says_what_it_is(name: str) -> None:
    text = EXAMPLES[name].read_text()
    for word in ("# Known", "Ours: ", "# verified: not run", "# Needs "):
        assert word in text
    assert f"`{name}`" in (PROJECT / "docs" / "papers.md").read_text()


@pytest.mark.parametrize("name", [name for name in EXAMPLES if f"share_{name}" in EXAMPLES])
def test_pairs_of_examples_sample_and_step_equally_much(name: str) -> None:
    """GRPO stands beside Share-GRPO: equal completions, optimizer steps, model, warm start and evaluation."""
    plain, share = load_run(EXAMPLES[name]), load_run(EXAMPLES[f"share_{name}"])
    counts = [spec.options.work(spec.iterations).counts() for spec in (plain, share)]
    for key in ("completions", "optimizer steps", "iterations"):
        assert counts[0][key] == counts[1][key]
    method = {"num_variants", "num_generations", "wording", "transform_probability"}
    assert {key for key, value in plain.config.items() if share.config[key] != value} <= method


TWINS = ["grpo/drawn_shapes-tiny", "grpo/drawn_shapes-tiny-dapo", "grpo_d/drawn_shapes-tiny", "sft/drawn_shapes-tiny"]


@pytest.mark.parametrize("name", [*TWINS, "step_grpo/drawn_shapes-tiny"])
def test_methods_on_drawn_shapes_sample_and_step_equally_much(name: str) -> None:
    spec, share = load_run(EXAMPLES[name]), load_run(EXAMPLES["share_grpo/drawn_shapes-tiny"])
    ours, theirs = (s.options.work(s.iterations).counts() for s in (spec, share))
    assert ours["optimizer steps"] == theirs["optimizer steps"] == 120
    assert ours.get("completions", ours.get("taught targets")) == theirs["completions"] == 23040
    for key in ("lr_schedule", "evaluation_interval", "evaluation_questions", "env_config", "warm_start"):
        assert spec.config[key] == share.config[key]
