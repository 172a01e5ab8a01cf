"""Search files: spaces, the `tune:` block, trials and their work; messages name file or --set, the key and the remedy."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.cli import run
from sharegrpo_rl.config import GRPOOptions, SFTOptions
from sharegrpo_rl.config.metrics import known_metrics
from sharegrpo_rl.config.search import SearchKey, find_search_keys, with_values
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.runs.run_file import load_run, resolve_run
from sharegrpo_rl.search.file import MAX_COMBINATIONS, SearchSpec, describe_search, load_search

PROJECT = Path(__file__).resolve().parents[2]
GOOD = """
mine:
  run: ShareGRPO
  env: DrawnShapes-v0
  stop: {training_iteration: 4}
  config:
    lr: {loguniform: [1e-5, 1e-3]}
    num_questions: 8
    num_generations: {grid_search: [4, 6]}
    rewards: {accuracy: 1.0, format: {grid_search: [0, 0.25]}}
    minibatch_size: {quniform: [4, 8, 4]}
    env_config: {kinds: {choice: [[counting], [color]]}}
  tune: {metric: env_runners/reward_mean, num_samples: 3}
"""
PLAIN = """
mine:
  run: GRPO
  env: DrawnShapes-v0
  stop: {training_iteration: 4}
  config: {num_questions: 8}
"""


def load(tmp_path: Path, text: str = GOOD, *sets: str) -> SearchSpec:
    path = tmp_path / "search.yaml"
    path.write_text(text)
    return load_search(path, sets)


def refusal(tmp_path: Path, text: str, *sets: str) -> str:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text, *sets)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def counts(text: str) -> dict[str, str]:
    """The counts that a dry run prints, those of all trials under `all NAME`."""
    found, part = {}, ""
    for line in text.splitlines():
        if line in ("# a trial", "# all trials"):
            part = "all " if line == "# all trials" else ""
        elif match := re.fullmatch(r"# (\S.*?) {2,}(\S.*)", line):
            found[part + match[1]] = match[2]
    return found


def test_spaces_are_found_anywhere_under_config(tmp_path: Path) -> None:
    spec = load(tmp_path)
    assert [(key.key, key.word, key.arguments) for key in spec.space] == [
        ("config.lr", "loguniform", (1e-5, 1e-3)),
        ("config.num_generations", "grid_search", (4, 6)),
        ("config.rewards.format", "grid_search", (0, 0.25)),
        ("config.minibatch_size", "quniform", (4, 8, 4)),
        ("config.env_config.kinds", "choice", (["counting"], ["color"])),
    ]
    assert (spec.grid_points, spec.trials) == (4, 12)
    assert spec.options["mode"] == "max"


def test_a_trial_is_the_run_with_those_values(tmp_path: Path) -> None:
    values = {("config", "num_generations"): 6, ("config", "rewards", "format"): 0.25, ("config", "lr"): 3e-4}
    trial = load(tmp_path).trial(values)
    by_hand = {"lr": 3e-4, "num_questions": 8, "num_generations": 6, "rewards": {"accuracy": 1.0, "format": 0.25}}
    by_hand |= {"minibatch_size": 4, "env_config": {"kinds": ["counting"]}}
    tree = {"run": "ShareGRPO", "env": "DrawnShapes-v0", "stop": {"training_iteration": 4}, "config": by_hand}
    assert trial == resolve_run("mine", tree)
    assert trial.config["total_steps"] == 8


def test_what_the_dry_run_prints_is_a_search_file_again(tmp_path: Path) -> None:
    spec = load(tmp_path)
    text = describe_search(spec)
    again = load(tmp_path, text)
    assert (again.base, again.options) == (spec.base, spec.options)
    assert {key.path: (key.word, key.arguments) for key in again.space} == {
        key.path: (key.word, key.arguments) for key in spec.space
    }
    assert sorted(describe_search(again).splitlines()) == sorted(text.splitlines())  # the order of keys may differ
    (tree,) = yaml.safe_load(text).values()
    assert tree["run"] == "ShareGRPO"
    assert repr(tree["config"]["rewards"]["format"]) == "{'grid_search': [0.0, 0.25]}"  # typed by the option


def test_a_search_over_presets_leaves_their_keys_to_them(tmp_path: Path) -> None:
    text = PLAIN.replace("{num_questions: 8}", "{preset: {grid_search: [null, dr_grpo, gspo]}}")
    spec = load(tmp_path, text)
    again = load(tmp_path, describe_search(spec))
    for value in (None, "dr_grpo", "gspo"):
        assert spec.trial({("config", "preset"): value}) == again.trial({("config", "preset"): value})
    assert spec.trial({("config", "preset"): "gspo"}).config["ratio_level"] == "sequence"
    assert "ratio_level" in describe_search(spec).split("own values: ")[1].splitlines()[0]


def test_the_work_of_all_trials_is_that_of_each_one(tmp_path: Path) -> None:
    spec = load(tmp_path, GOOD, "config.num_variants={choice: [1, 3]}")
    printed = counts(describe_search(spec))
    least = most = 0
    for samples, _ in product([4, 6], range(2 * 3)):
        drawn = [
            spec.trial({("config", "num_generations"): samples, ("config", "num_variants"): v}).options.work(4)
            for v in (1, 3)
        ]
        least += min(c.completions for c in drawn)
        most += max(c.completions for c in drawn)
    assert printed["all completions"] == f"{least:,} .. {most:,}"
    assert printed["completions"] == f"{4 * 8 * 4:,} .. {4 * 8 * 3 * 6:,}"
    assert printed["optimizer steps"] == "4 .. 8"
    assert printed["all optimizer steps"] == "48 .. 96"


def test_equal_trials_print_one_number(tmp_path: Path) -> None:
    text = PLAIN.replace("{num_questions: 8}", "{num_questions: 8, kl_coeff: {grid_search: [0, 0.01, 0.02]}}")
    spec = load(tmp_path, text)
    printed = counts(describe_search(spec))
    assert printed["completions"] == str(4 * 8 * 8)
    assert printed["all completions"] == str(3 * 4 * 8 * 8)
    assert "config.kl_coeff: each of 3: 0.0, 0.01, 0.02" in describe_search(spec)
    assert spec.base.config["total_steps"] == 4
    assert yaml.safe_load(describe_search(spec))["mine"]["config"]["total_steps"] == 4


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lr: {grid_search: [1e-5, fast]}", ["config.lr: expected a number", "'fast'"]),
        ("lr: {choice: [-1.0, 1e-4]}", ["config.lr", "too small"]),
        ("num_generations: {grid_search: [4, 1]}", ["num_generations: 1", "group of one", "config.num_generations = 1"]),
        ("num_generations: {uniform: [4, 8]}", ["config.num_generations", "whole numbers", "quniform"]),
        ("num_generations: {quniform: [4, 8, 0.5]}", ["config.num_generations", "whole numbers"]),
        ("num_generations: {quniform: [4, 9, 2]}", ["config.num_generations", "multiple of its step"]),
        ("num_generations: {quniform: [4, 8, 0]}", ["config.num_generations", "above 0"]),
        ("num_generations: {quniform: [4, 8]}", ["config.num_generations", "[low, high, step]"]),
        ("temperature: {uniform: [1.0, 0.5]}", ["config.temperature", "low must be below high"]),
        ("temperature: {uniform: [0, 1]}", ["config.temperature", "above 0"]),
        ("temperature: {uniform: [0.5, .inf]}", ["config.temperature", "finite"]),
        ("temperature: {uniform: 3}", ["config.temperature: uniform needs a list"]),
        ("lr: {loguniform: [0, 1e-3]}", ["config.lr", "low above 0"]),
        ("lr: {grid_search: []}", ["config.lr", "no value"]),
        ("lr: {grid_search: [1, 1.0]}", ["config.lr", "twice"]),
        ("lr: {grid_search: [1e-5], choice: [1e-4]}", ["config.lr", "next to 'choice'"]),
        ("lr: {grid_search: [{choice: [1e-5]}]}", ["config.lr", "choice inside grid_search"]),
        ("lr: {randint: [1, 3]}", ["config.lr", "randint", "quniform"]),
        ("lr: {sample_from: 'lambda spec: 1'}", ["config.lr", "sample_from is not for run files"]),
        ("env_config: {kinds: [counting, {choice: [color, form]}]}", ["config.env_config.kinds", "inside a list"]),
        ("env_config: {image_size: {uniform: [28, 56]}}", ["config.env_config.image_size", "whole number"]),
        ("env_config: {image_size: {grid_search: [42, 7]}}", ["config.env_config.image_size: 7", "14"]),
        ("warm_start: {grid_search: [null, {step: 3}]}", ["config.warm_start.step", "steps"]),
        ("rewards: {accurracy: {grid_search: [1.0]}}", ["config.rewards.accurracy", "accuracy"]),
        ("preset: {grid_search: [dr_grpo, papper]}", ["config.preset", "papper"]),
        ("minibatch_size: {grid_search: [4, 9]}", ["minibatch_size: 9", "num_questions"]),
        ("num_sample: {grid_search: [4]}", ["config.num_sample", "num_generations"]),
        ("kl_coeff: {grid_search: [0, 0.04]}, kl_schedule: {choice: [constant, v_shape]}, total_steps: 9",
         ["config.kl_coeff", "kl_coeff = 0.04", "kl_schedule = 'v_shape'"]),
        ("lr: 1e-4", ["config: no search space", "train"]),
    ],
)  # fmt: skip
def test_a_wrong_space_is_named_with_its_remedy(tmp_path: Path, line: str, words: list[str]) -> None:
    message = refusal(tmp_path, PLAIN.replace("{num_questions: 8}", f"{{num_questions: 8, {line}}}"))
    assert message.startswith(str(tmp_path / "search.yaml"))
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("tune.metric=evaluation/acuracy", ["--set: tune.metric", "evaluation/accuracy"]),
        ("tune.metric=env_runners/reward_parts/brevity", ["tune.metric"]),
        ("tune.mode=most", ["tune.mode", "max, min"]),
        ("tune.num_samples=0", ["tune.num_samples", "at least 1"]),
        ("tune.num_samples=1.5", ["tune.num_samples", "a whole number"]),
        ("tune.scheduler=asah", ["tune.scheduler", "asha"]),
        ("tune.searcher=optuna", ["tune.searcher", "config.num_generations", "choice"]),
        ("tune.max_concurrent=0", ["tune.max_concurrent"]),
        ("tune.budget=60", ["tune.budget", "60"]),
        ("tune.budget={}", ["tune.budget", "seconds"]),
        ("tune.budget.second=60", ["tune.budget.second", "seconds"]),
        ("tune.budget.seconds=0", ["tune.budget.seconds"]),
        ("tune.grace=1", ["tune.grace", "no such key"]),
        ("tune.num_sample=1", ["tune.num_sample", "num_samples"]),
        ("config.lr={grid_search: [a]}", ["--set: config.lr"]),
        ("config.lr={grid_search: [1e-5", ["--set config.lr"]),
        ("run={grid_search: [GRPO, ShareGRPO]}", ["--set: run: grid_search outside config"]),
        ("stop.training_iteration={choice: [1, 2]}", ["stop.training_iteration", "outside config"]),
        ("tune=3", ["--set tune=3"]),
        ("tuen.mode=min", ["tuen"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_remedy(tmp_path: Path, setting: str, words: list[str]) -> None:
    message = refusal(tmp_path, GOOD, setting)
    for word in words:
        assert word in message


def test_a_scheduler_needs_a_metric_on_the_way(tmp_path: Path) -> None:
    sets = ["tune.scheduler=asha", "tune.metric=evaluation/accuracy"]
    assert "config.evaluation_interval" in refusal(tmp_path, GOOD, *sets)
    assert load(tmp_path, GOOD, *sets, "config.evaluation_interval=2").options["scheduler"] == "asha"


def test_an_algorithm_that_samples_nothing_has_no_such_metric(tmp_path: Path) -> None:
    text = PLAIN.replace("GRPO", "SFT").replace("{num_questions: 8}", "{lr: {grid_search: [1e-4, 1e-3]}}")
    assert "tune.metric" in refusal(tmp_path, text, "tune.metric=env_runners/reward_mean")
    assert "tune.budget.completions" in refusal(tmp_path, text, "tune.budget.completions=5")
    spec = load(tmp_path, text, "tune.metric=learners/default_policy/policy_loss", "tune.mode=min")
    assert counts(describe_search(spec))["all taught targets"] == str(2 * 4 * 32)


@pytest.mark.parametrize(
    ("text", "word"),
    [("mine: {run: GRPO, metric: x}\n", "tune.metric"), ("mine: {run: GRPO, env: DrawnShapes-v0, tune: 3}\n", "table")],
)
def test_the_shape_of_the_block_is_checked(tmp_path: Path, text: str, word: str) -> None:
    assert word in refusal(tmp_path, text)


def test_train_refuses_a_search_and_names_the_command(tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(GOOD)
    with pytest.raises(
        UserError,
        match=re.escape(
            f"config.lr: loguniform is a search space and this command takes one"
            f" setting; see the search with `sharegrpo-rl tune {path} --dry-run`"
        ),
    ):
        load_run(path)
    one = ["config.lr=1e-4", "config.num_generations=4", "config.rewards.format=0.25", "config.minibatch_size=4"]
    one += ["config.env_config.kinds=[color]"]
    with pytest.raises(UserError, match=r"tune: settings of a search.*tune=null"):
        load_run(path, one)
    assert load_run(path, [*one, "tune=null"]).config["rewards"] == {"accuracy": 1.0, "format": 0.25}


def test_the_command_shows_the_search_and_train_refuses_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(GOOD)
    assert run(["tune", str(path), "--dry-run", "--set", "tune.num_samples=2"]) == 0
    assert "# 8 trials: 4 grid points x 2" in capsys.readouterr().out
    assert run(["train", str(path)]) == 2
    assert f"tune {path} --dry-run" in capsys.readouterr().err


def test_many_combinations_are_checked_value_by_value(tmp_path: Path) -> None:
    many = ", ".join(f"{key}: {{choice: [{', '.join(str(v / 100) for v in range(1, 31))}]}}"
                     for key in ("clip_low", "clip_high"))  # fmt: skip
    spec = load(tmp_path, PLAIN.replace("{num_questions: 8}", f"{{{many}}}"))
    assert MAX_COMBINATIONS < 30 * 30
    assert "each value by itself" in describe_search(spec)
    assert "too many" not in describe_search(spec)  # none of them changes the work


def test_every_metric_is_documented() -> None:
    page = (PROJECT / "docs" / "metrics.md").read_text()
    for metric in known_metrics(GRPOOptions()) + known_metrics(SFTOptions()):
        assert f"`{metric.rsplit('/', 1)[-1]}`" in page, metric


leaves = st.one_of(st.integers(), st.floats(allow_nan=False), st.text(max_size=3), st.none())
keys = st.text("abcd", min_size=1, max_size=3)


@given(st.dictionaries(keys, st.recursive(leaves, lambda inner: st.dictionaries(keys, inner), max_leaves=8)))
def test_values_replace_spaces_and_nothing_else(tree: dict[str, Any]) -> None:
    """Put a space at every leaf: each is found at its path, and putting the leaves back restores the tree."""
    paths: dict[tuple[str, ...], Any] = {}

    def collect(value: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                collect(inner, (*path, key))
        else:
            paths[path] = value

    collect(tree, ())
    searched = with_values(tree, {path: {"choice": [value]} for path, value in paths.items()})
    found = [key for key in find_search_keys(searched, ("config",))]
    assert {key.path[1:]: key.arguments for key in found} == {path: (value,) for path, value in paths.items()}
    assert with_values(searched, paths) == tree


def test_bounds_of_a_range_are_typed() -> None:
    assert SearchKey(("config", "x"), "quniform", (2, 8, 2)).values == (2, 8)
    assert [type(v) for v in SearchKey(("config", "x"), "quniform", (2, 8, 2)).values] == [int, int]
    assert [type(v) for v in SearchKey(("config", "x"), "uniform", (2, 8)).values] == [float, float]
