"""The configs: keys, types, presets, sizes of groups; and RLlib's own entry points over them."""

import pytest
import yaml
from ray import tune

from sharegrpo_rl.algorithms.model_source import cache_key
from sharegrpo_rl.algorithms.registry import ALGORITHMS, build_config, register_with_tune
from sharegrpo_rl.config import presets, resolve
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.runs.examples import list_examples
from sharegrpo_rl.runs.run_file import load_run


@pytest.mark.parametrize("run", ALGORITHMS)
def test_every_option_is_set_documented_and_legal(run):
    config = ALGORITHMS[run].Config()
    defaults = config.options.defaults()
    for name, field in config.options.fields().items():
        assert getattr(config, name) == defaults[name], name
        assert field.description, name
    assert config.to_options().as_dict() == defaults


@pytest.mark.parametrize(("run", "preset"), [(r, p) for r, table in presets.PRESETS.items() for p in table])
def test_every_key_of_a_preset_is_a_legal_option(run, preset):
    table = presets.PRESETS[run][preset]
    config = build_config(run, "DrawnShapes-v0", {"preset": preset}, 0)
    for key, value in table.items():
        assert getattr(config, key) == value == resolve(run, {key: value}).as_dict()[key], key


PAPER = {
    "num_questions": 512, "minibatch_size": 128, "num_variants": 2, "num_generations": 6, "transform_probability": 0.3,
    "temperature": 0.7, "lr": 1e-6, "ratio_level": "sequence_product", "loss_aggregation": "question_mean", "clip_low": 0.2,
    "clip_high": 0.2, "dual_clip": None, "kl_coeff": 0.0, "pairing": "all", "advantage_levels": "global_local",
    "rewards": {"accuracy": 0.9, "format": 0.1}, "duplicate_rewards": False, "scale_rewards": "std", "top_p": 1.0,
    "advantage_eps": 0.0, "transform_text_position": "after",
}  # fmt: skip
RELEASED = {
    **PAPER, "minibatch_size": 64, "temperature": 1.0, "top_p": 0.99, "ratio_level": "token",
    "loss_aggregation": "token_mean", "clip_high": 0.3, "dual_clip": 3.0, "advantage_eps": 1e-6,
    "duplicate_rewards": True, "single_variant_doubles": True, "transform_text_position": "before",
    "include_original": "sampled", "answer_format": "boxed", "weight_decay": 1e-2, "grad_clip": 1.0,
    "max_prompt_tokens": 2048, "max_completion_tokens": 2048, "min_pixels": 262_144, "max_pixels": 1_048_576,
}  # fmt: skip


@pytest.mark.parametrize(("preset", "table"), [("paper", PAPER), ("released_code", RELEASED)])
def test_presets_of_share_grpo_as_published(preset, table):
    config = build_config("ShareGRPO", "DrawnShapes-v0", {"preset": preset}, 0)
    assert {key: getattr(config, key) for key in table} == table


def test_own_keys_win_over_a_preset():
    config = build_config("ShareGRPO", "DrawnShapes-v0", {"lr": 1e-4, "preset": "paper"}, 0)
    assert (config.lr, config.temperature) == (1e-4, 0.7)
    with pytest.raises(UserError, match="no preset 'papers'"):
        build_config("ShareGRPO", "DrawnShapes-v0", {"preset": "papers"}, 0)


def test_unknown_names_are_user_errors():
    with pytest.raises(UserError, match="num_sample: no such option of ShareGRPO; did you mean num_generations"):
        build_config("ShareGRPO", "DrawnShapes-v0", {"num_sample": 3}, 0)
    with pytest.raises(UserError, match="no algorithm 'PPO'"):
        build_config("PPO", "DrawnShapes-v0", {}, 0)
    with pytest.raises(UserError, match="pairing: no such option of GRPO; it is an option of ShareGRPO"):
        build_config("GRPO", "DrawnShapes-v0", {"pairing": "all"}, 0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", "fast"), ("lr", 0), ("lr", float("nan")), ("num_generations", 0), ("num_generations", 2.5),
        ("num_generations", True),
        ("loss_aggregation", "median"), ("temperature", 0.0), ("top_p", 1.5), ("dual_clip", 1.0), ("num_questions", None),
        ("rewards", [1]), ("clip_low", -0.1), ("num_variants", 65), 
    ],
)  # fmt: skip
def test_wrong_values_are_user_errors(key, value):
    with pytest.raises(UserError, match=key):
        build_config("GRPO", "DrawnShapes-v0", {key: value}, 0)


def test_whole_numbers_become_floats():
    assert build_config("GRPO", "DrawnShapes-v0", {"lr": 1, "temperature": 2}, 0).lr == 1.0


def test_group_sizes_and_learners_are_checked():
    with pytest.raises(
        UserError, match=r"num_generations: 1 makes a group of one.*ShareGRPO needs num_generations of at least 2"
    ):
        build_config("ShareGRPO", "DrawnShapes-v0", {"num_generations": 1}, 0).validate()
    with pytest.raises(UserError, match="cpu_offload: needs sharding: fsdp2"):
        build_config("GRPO", "DrawnShapes-v0", {"num_learners": 1, "cpu_offload": True}, 0).validate()
    with pytest.raises(UserError, match="num_env_runners: SFT samples nothing"):
        build_config("SFT", "DrawnShapes-v0", {"num_learners": 1, "num_env_runners": 1}, 0).validate()
    build_config("GRPO", "DrawnShapes-v0", {"num_generations": 2}, 0).validate()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"num_env_runners": 1, "num_gpus_per_env_runner": 1, "num_gpus_per_learner": 1},
            "num_learners: 0 keeps the learner in the driver, on the first GPU, .* set it to 1",
        ),
        (
            {"engine": "vllm", "num_env_runners": 2, "num_learners": 2, "num_gpus_per_learner": 1},
            "num_gpus_per_env_runner: 0 would put every engine on the first GPU, beside a learner; set it to 1",
        ),
        (
            {"engine": "vllm", "num_gpus_per_env_runner": 1, "vllm": {"tensor_parallel_size": 2}},
            r"num_gpus_per_env_runner: 1 is not vllm.tensor_parallel_size \(2\), the GPUs of an engine; set it to 2",
        ),
        (
            {"num_env_runners": 1, "num_gpus_per_env_runner": 2},
            "num_gpus_per_env_runner: 2, but engine: hf generates on one GPU; set it to 1",
        ),
        (
            {"engine": "vllm", "num_gpus_per_env_runner": 0.5},
            "num_gpus_per_env_runner: 0.5 is less than one GPU, but an engine needs a whole one; set it to 1",
        ),
    ],
)
def test_a_layout_of_gpus_that_contradicts_itself(options, words):
    """Also in `plan`, which has the same list."""
    with pytest.raises(UserError, match=words):
        build_config("GRPO", "DrawnShapes-v0", options, 0).validate()


@pytest.mark.parametrize(
    "options",
    [
        {"num_gpus_per_learner": 1, "num_gpus_per_env_runner": 1},
        {"num_learners": 1, "num_gpus_per_learner": 0.5, "num_env_runners": 1, "num_gpus_per_env_runner": 0.5},
        {"num_learners": 2, "num_gpus_per_learner": 1, "num_env_runners": 2},
        {"num_learners": 1, "num_env_runners": 2, "num_gpus_per_env_runner": 1},
    ],
)
def test_a_layout_of_gpus_that_works(options):
    build_config("GRPO", "DrawnShapes-v0", options, 0).validate()


def test_update_from_dict_checks_keys_and_types():
    config = (
        ALGORITHMS["ShareGRPO"].Config().update_from_dict({"env": "DrawnShapes-v0", "num_generations": 3, "seed": 5})
    )
    assert (config.env, config.num_generations, config.seed) == ("DrawnShapes-v0", 3, 5)
    with pytest.raises(UserError, match="did you mean clip_high"):
        ALGORITHMS["ShareGRPO"].Config().update_from_dict({"clip_hgh": 0.3})
    with pytest.raises(UserError, match="num_generations"):
        ALGORITHMS["ShareGRPO"].Config().update_from_dict({"num_generations": "three"})


def test_update_from_dict_lays_a_preset_first():
    config = ALGORITHMS["ShareGRPO"].Config().update_from_dict({"clip_high": 0.25, "preset": "released_code"})
    assert (config.clip_high, config.dual_clip) == (0.25, 3.0)


def test_search_spaces_pass_through():
    config = ALGORITHMS["ShareGRPO"].Config().update_from_dict({"lr": tune.grid_search([1e-4, 1e-3])})
    assert config.lr == {"grid_search": [1e-4, 1e-3]}


@pytest.mark.parametrize("run", ALGORITHMS)
def test_a_config_survives_rllibs_dict(run):
    config = build_config(
        run, "DrawnShapes-v0", {"num_questions": 3, "lora": {"r": 4}, "env_config": {"kinds": ["color"]}}, 7
    )
    again = ALGORITHMS[run].Config().update_from_dict(config.to_dict())
    for name in config.options.fields():
        assert getattr(again, name) == getattr(config, name), name
    assert again.seed == 7


def test_warm_start_questions_are_left_to_it():
    config = build_config(
        "GRPO", "DrawnShapes-v0", {"warm_start": {"rows": 30}, "env_config": {"skip_questions": 5}}, 0
    )
    assert config.train_env_config()["skip_questions"] == 35
    config = build_config("GRPO", "DrawnShapes-v0", {"warm_start": {"rows": 30, "data": "elsewhere"}}, 0)
    assert config.train_env_config()["skip_questions"] == 0


def test_names_are_registered_with_tune():
    register_with_tune()
    for name, algorithm in ALGORITHMS.items():
        assert tune.registry.get_trainable_cls(name) is algorithm
        config = algorithm.get_default_config()
        assert type(config) is algorithm.Config
        assert config.algo_class is algorithm
        assert config.options is algorithm.Options is presets.ALGORITHM_OPTIONS[name]


def test_methods_on_drawn_shapes_leave_from_one_model():
    """The cache of warm-started models has one entry for the tuned examples of all methods, but StepGRPO's own."""
    examples = list_examples()
    names = ["share_grpo/drawn_shapes-tiny", "grpo/drawn_shapes-tiny", "grpo/drawn_shapes-tiny-dapo"]
    names += ["grpo_d/drawn_shapes-tiny", "sft/drawn_shapes-tiny", "step_grpo/drawn_shapes-tiny"]
    specs = [load_run(examples[name]) for name in names]
    keys = [cache_key(build_config(spec.run, spec.env, spec.config, 0), {}) for spec in specs]
    assert len(set(keys[:5])) == 1
    assert keys[5] != keys[0]


NESTED = [
    ({"warm_start": {"stepz": 5}}, "warm_start.stepz: no such key; did you mean steps"),
    ({"lora": {"rank": 8}}, "lora.rank: no such key; it is called r here"),
    ({"rewards": {"acuracy": 1}}, "rewards.acuracy: no reward 'acuracy'; did you mean accuracy"),
    ({"model_config": {"hiden": 3}}, "model_config.hiden: no such key; did you mean hidden_size"),
    ({"vllm": {"sleep": 1}}, "vllm.sleep: expected true or false, got 1"),
    (
        {"num_samples": 8},
        "num_samples: no such option of GRPO; it is called num_generations here: write num_generations: 8",
    ),
]


@pytest.mark.parametrize(("settings", "words"), NESTED)
def test_python_refuses_what_yaml_refuses_in_the_same_words(settings, words, tmp_path):
    with pytest.raises(UserError) as in_python:
        ALGORITHMS["GRPO"].Config().training(**settings)
    with pytest.raises(UserError) as in_a_dict:
        ALGORITHMS["GRPO"].Config().update_from_dict(settings)
    run_file = tmp_path / "run.yaml"
    tree = {"run": "GRPO", "env": "DrawnShapes-v0", "stop": {"training_iteration": 1}, "config": settings}
    run_file.write_text(yaml.safe_dump({"mine": tree}))
    with pytest.raises(UserError) as in_yaml:
        load_run(run_file)
    assert words in str(in_python.value)
    assert str(in_python.value) == str(in_a_dict.value)
    assert str(in_yaml.value) == f"{run_file}: config.{in_python.value}"


def test_tables_in_python_get_their_defaults():
    config = ALGORITHMS["StepGRPO"].Config().environment("DrawnShapes-v0").training(warm_start={"steps": 500})
    assert config.train_env_config()["skip_questions"] == config.warm_start["rows"] == 4000


def test_noise_is_drawn_at_the_size_that_the_model_sees():
    config = ALGORITHMS["GRPO"].Config().environment("DrawnShapes-v0").training(min_pixels=784, max_pixels=3136)
    assert config.train_env_config()["noise_pixels"] == [784, 3136]


def test_a_wrong_environment_setting_is_found_before_anything_starts():
    config = ALGORITHMS["GRPO"].Config().environment("DrawnShapes-v0", env_config={"image_siz": 42})
    with pytest.raises(UserError, match=r"env_config\.image_siz: no such key; did you mean image_size"):
        config.validate()
