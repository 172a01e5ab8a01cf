"""Run files: keys, types, presets, suggestions, group sizes; messages name file or --set, the key and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sharegrpo_rl.config.names import ELSEWHERE, OLD_NAMES, PEER_NAMES
from sharegrpo_rl.config.presets import ALGORITHM_OPTIONS, PRESETS
from sharegrpo_rl.config.tree import load_yaml
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.runs.examples import check_data
from sharegrpo_rl.runs.run_file import RunSpec, describe_run, load_run

GOOD = """
mine:
  run: ShareGRPO
  env: DrawnShapes-v0
  stop: {training_iteration: 4}
  config:
    lr: 1e-5
    num_questions: 8
    minibatch_size: 4
    warm_start: {rows: 64, steps: 2}
    env_config: {kinds: [counting]}
"""


def write(tmp_path: Path, text: str, name: str = "run.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def load(tmp_path: Path, text: str = GOOD, *sets: str) -> RunSpec:
    return load_run(write(tmp_path, text), sets)


def refusal(tmp_path: Path, text: str, *sets: str) -> str:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text, *sets)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_config(text: str) -> str:
    """The good file with one more line under config."""
    return GOOD + f"    {text}\n"


def test_every_option_is_resolved_and_typed(tmp_path: Path) -> None:
    spec = load(tmp_path)
    assert (spec.name, spec.run, spec.env, spec.iterations) == ("mine", "ShareGRPO", "DrawnShapes-v0", 4)
    assert set(spec.config) == set(ALGORITHM_OPTIONS["ShareGRPO"].fields())
    assert spec.config["lr"] == 1e-5
    assert spec.config["num_generations"] == 6
    assert spec.config["warm_start"]["steps"] == 2
    assert spec.config["warm_start"]["wordings"] == "first"
    assert spec.config["env_config"]["image_size"] == 42
    assert spec.config["total_steps"] == 8  # 4 iterations of 2 minibatches


def test_set_goes_over_file_goes_over_preset(tmp_path: Path) -> None:
    name, table = next(iter(PRESETS["ShareGRPO"].items()))
    assert load(tmp_path, with_config(f"preset: {name}")).config["lr"] == 1e-5
    without_lr = with_config(f"preset: {name}").replace("    lr: 1e-5\n", "")
    spec = load(tmp_path, without_lr)
    assert {key: spec.config[key] for key in table if key not in ("lr", "num_questions", "minibatch_size")} == {
        key: value for key, value in table.items() if key not in ("lr", "num_questions", "minibatch_size")
    }
    assert load(tmp_path, without_lr, "config.lr=3e-4", "config.num_epochs=2").config["lr"] == 3e-4


def test_settings_change_every_part(tmp_path: Path) -> None:
    spec = load(tmp_path, GOOD, "run=GRPO", "stop.training_iteration=2", "config.warm_start=null", "config.lora.r=4")
    assert (spec.run, spec.iterations, spec.config["warm_start"]) == ("GRPO", 2, None)
    assert spec.config["lora"] == {"r": 4, "alpha": 32.0, "dropout": 0.0, "target_modules": ["language"]}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("num_sample: 6", ["config.num_sample", "num_generations"]),
        ("num_samples: 6", ["num_samples", "write num_generations: 6"]),
        ("importance_sampling_level: sequence", ["importance_sampling_level", "write ratio_level: sequence"]),
        ("kl_in: reward", ["kl_in", "write kl_in_reward: true"]),
        ("gradient_checkpointing: true", ["gradient_checkpointing", "write activation_checkpointing: full"]),
        ("checkpoint_keep: products", ["checkpoint_keep", "write activation_checkpointing: selective"]),
        ("loss_agg_mode: seq-mean-token-sum", ["loss_agg_mode", "write loss_aggregation: question_mean"]),
        ("advantage_std: population", ["advantage_std", "write scale_rewards: population_std"]),
        ("beta: 0.1", ["beta", "kl_coeff"]),
        ("epsilon_high: 0.3", ["clip_high"]),
        ("learning_rate: 1e-5", ["is called lr here"]),
        ("rollout: {n: 6, temperature: 1.0}", ["rollout.n is num_generations", "rollout.temperature is temperature"]),
        ("actor: {clip_ratio_high: 0.3}", ["clip_ratio_high is clip_high"]),
        ("max_steps: 100", ["stop.training_iteration"]),
        ("seed: 3", ["--seed"]),
        ("lora_r: 8", ["lora.r"]),
        ("xyzzy_plugh: 8", ["xyzzy_plugh", "list options"]),
        ("temperature: hot", ["temperature", "'hot'"]),
        ("temperature: .nan", ["temperature", "finite"]),
        ("top_p: 0", ["top_p"]),
        ("num_epochs: 1.5", ["num_epochs", "a whole number"]),
        ("num_epochs: true", ["num_epochs"]),
        ("ratio_level: word", ["ratio_level", "sequence_product"]),
        ("preset: papper", ["preset", "papper"]),
        ("rewards: {accurracy: 1.0}", ["rewards.accurracy", "accuracy"]),
        ("rewards: {accuracy: much}", ["rewards.accuracy", "much"]),
        ("rewards: {accuracy: 0}", ["rewards", "nothing to learn"]),
        ("lora: {rr: 8}", ["config.lora.rr", "did you mean r?"]),
        ("lora: {r: 0}", ["config.lora.r", "at least 1"]),
        ("lora: {target_modules: [tongue]}", ["lora.target_modules", "tongue"]),
        ("model_config: {hidden_sizes: 8}", ["model_config.hidden_sizes", "hidden_size"]),
        ("model_config: {hidden_size: 90, num_heads: 4}", ["hidden_size", "90"]),
        ("model_config: {num_heads: 4, num_kv_heads: 3}", ["num_kv_heads"]),
        ("lr_schedule: {grid_search: [constant, linear]}", ["grid_search", "tune"]),
        ("num_generations: 1", ["num_generations", "group of one"]),
    ],
)
def test_a_wrong_line_is_named_with_its_remedy(tmp_path: Path, line: str, words: list[str]) -> None:
    message = refusal(tmp_path, with_config(line))
    assert message.startswith(str(tmp_path / "run.yaml"))
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("config.num_sample=6", ["--set", "num_sample", "num_generations"]),
        ("config.lr=banana", ["--set", "lr", "banana"]),
        ("config.lr=-1", ["--set", "lr"]),
        ("config.num_generations=0", ["--set", "num_generations"]),
        ("config.num_generations=1", ["--set", "num_generations"]),
        ("config.minibatch_size=9", ["minibatch_size", "num_questions"]),
        ("config.warm_start.step=3", ["warm_start.step", "steps"]),
        ("config.warm_start.wordings=second", ["warm_start.wordings", "first, all"]),
        ("config.env_config.kind=[counting]", ["env_config.kind", "kinds"]),
        ("config.env_config.image_size=3", ["env_config.image_size", "14"]),
        ("config.env_config.max_questions=many", ["env_config.max_questions"]),
        ("env=DrawnShape-v0", ["--set", "DrawnShape-v0", "DrawnShapes-v0"]),
        ("run=ShareGPRO", ["--set", "ShareGPRO", "ShareGRPO"]),
        ("run=", ["run"]),
        ("stop.training_iteration=0", ["training_iteration"]),
        ("stop.training_iteration=1.5", ["training_iteration"]),
        ("stop.iterations=5", ["stop.iterations", "training_iteration"]),
        ("stop.completions=0", ["stop.completions", "at least 1"]),
        ("stop.training_iteration=null", ["training_iteration", "missing"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_remedy(tmp_path: Path, setting: str, words: list[str]) -> None:
    message = refusal(tmp_path, GOOD, setting)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "expected"),
        ("[1, 2]", "expected"),
        ("run: GRPO\nenv: x\n", "at the top"),
        ("a: {run: GRPO}\nb: {run: GRPO}\n", "2 runs"),
        ("a: 3\n", "must be a table"),
        ("../a: {run: GRPO}\n", "cannot name"),
        ("a: {run: GRPO, lr: 3}\n", "config.lr"),
        ("a: {run: GRPO, stopp: 3}\n", "stop"),
        ("a: {env: DrawnShapes-v0}\n", "run: missing"),
        ("a: {run: GRPO}\n", "env: missing"),
        ("a: {run: GRPO, env: DrawnShapes-v0, stop: 3}\n", "stop: expected a table"),
        (
            "a: {run: GRPO, env: DrawnShapes-v0, stop: {training_iteration: 1}, config: [1]}\n",
            "config: expected a table",
        ),
        (
            "a: {run: GRPO, env: DrawnShapes-v0, stop: {training_iteration: 1}, config: {pairing: all}}\n",
            "option of ShareGRPO",
        ),
    ],
)
def test_the_shape_of_a_file_is_checked(tmp_path: Path, text: str, word: str) -> None:
    assert word in refusal(tmp_path, text)


def test_a_group_of_one_is_refused_for_every_algorithm(tmp_path: Path) -> None:
    for run in ("GRPO", "ShareGRPO", "GRPOD"):
        for variants in (1, 2):
            sets = [f"run={run}", "config.num_generations=1", f"config.num_variants={variants}"]
            assert "num_generations" in refusal(tmp_path, GOOD, *sets)


def test_what_dry_run_prints_is_a_run_file_again(tmp_path: Path) -> None:
    spec = load(tmp_path, GOOD)
    text = describe_run(spec, seed=3)
    assert "seed 3" in text
    assert "ShareGRPO" in text
    again = load_run(write(tmp_path, text, "again.yaml"))
    assert again == spec
    assert yaml.safe_load(text)["mine"]["config"]["num_generations"] == 6
    assert load_yaml(text, "x") == spec.as_tree()


def test_batch_arithmetic_counts_pairs(tmp_path: Path) -> None:
    text = describe_run(load(tmp_path), 0)
    counts = {
        line.rsplit(maxsplit=1)[0].lstrip("# "): line.rsplit(maxsplit=1)[1]
        for line in text.splitlines()
        if line.startswith("# ")
    }
    assert counts["completions an iteration"] == str(8 * 2 * 6)
    assert counts["prompt packs an iteration"] == str(8 * 2)
    assert counts["pairs of prompt and completion an iteration"] == str(8 * 2 * 2 * 6)
    assert counts["optimizer steps"] == "8"


def test_names_of_other_trainers_lead_to_options_that_exist() -> None:
    options = {name for table in ALGORITHM_OPTIONS.values() for name in table.fields()}
    for theirs, ours in PEER_NAMES.items():
        assert ours.split(".")[0] in options, theirs
        assert theirs not in options
    for theirs, ours in OLD_NAMES.items():
        assert ours in options, theirs
        assert theirs not in options
    assert not set(ELSEWHERE) & options


MIXTURE = """
mine:
  run: GRPO
  env: MathQA-v0
  stop: {training_iteration: 4}
  config:
    env_config:
      data:
        - {data: no/such/counting_clevr, weight: 2, env: VisualCounting-v0}
        - {data: no/such/folder, weight: 1, task: mine, rewards: {accuracy: 1}}
"""


def test_a_mixture_resolves_without_any_data(tmp_path: Path) -> None:
    spec = load(tmp_path, MIXTURE)
    printed = load_yaml(describe_run(spec, 0), "dry run")["mine"]["config"]["env_config"]
    assert printed["data"][0] == {"data": "no/such/counting_clevr", "weight": 2, "env": "VisualCounting-v0"}
    assert printed["data"][1]["rewards"] == {"accuracy": 1}
    with pytest.raises(UserError, match=r"env_config\.data\[0\]\.data: there is no no/such/counting_clevr.*comes from"):
        check_data(spec.config["env_config"])


def test_what_is_wrong_with_a_mixture_names_its_entry_and_who_gave_it(tmp_path: Path) -> None:
    said = refusal(tmp_path, MIXTURE.replace("weight: 1", "wait: 1"))
    assert said.startswith(str(tmp_path))
    assert "config.env_config.data[1].wait: unknown key; did you mean weight?" in said
    said = refusal(tmp_path, MIXTURE, "config.env_config.data=[{data: a, weight: 0}]")
    assert said.startswith("--set: config.env_config.data[0].weight: 0 must be above 0")
