"""The contract of an environment, for every one in the registry and the one of the docs: a new task is tested for free."""

import json
import re
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence

import sharegrpo_rl
from sharegrpo_rl.config import user_code
from sharegrpo_rl.envs.registry import (
    ENVIRONMENTS,
    EnvironmentSpec,
    check_env_config,
    environment_spec,
    make_bank,
    make_env,
    make_warm_start_bank,
    register_environment,
)
from sharegrpo_rl.errors import UserError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "environments.md"
OWN = "DrawnClock-v0"  # the task that docs/environments.md writes
BUILT_IN = list(ENVIRONMENTS)
every_environment = pytest.mark.parametrize("env_id", [*BUILT_IN, OWN])


@pytest.fixture(scope="module", autouse=True)
def clock_of_the_docs(tmp_path_factory):
    """The file that the docs show, registered as `--import` does it."""
    (code,) = re.findall(r"^```python\n(# clock\.py\n.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(code.splitlines()) <= 90
    path = tmp_path_factory.mktemp("own") / "clock.py"
    path.write_text(code)
    user_code.import_user_files([path])
    yield
    user_code.IMPORTED.remove(str(path))
    del ENVIRONMENTS[OWN], gymnasium.registry[OWN]


@every_environment
@pytest.mark.filterwarnings("error::UserWarning")
def test_gymnasium_accepts_it(env_id, env_config):
    env = gymnasium.make(env_id, **env_config(env_id))
    check_env(env.unwrapped, skip_render_check=True)
    assert env.unwrapped.id == env_id


@every_environment
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_right_answer_earns_everything_and_ends_the_episode(env_id, split, env_config):
    env = make_env(env_id, env_config(env_id), split=split)
    observation, info = env.reset(seed=1)
    gold = env.bank[info["question_index"]].answer
    again, reward, terminated, truncated, graded = env.step(f"<think>I look.</think><answer>{gold}</answer>")
    assert (reward, terminated, truncated) == (pytest.approx(1.0), True, False)
    assert graded["reward_parts"] == {"accuracy": 1.0, "format": 1.0}
    assert graded["error"] is None
    assert data_equivalence(observation, again)


@every_environment
def test_wrong_answers_and_wrong_forms_earn_less(env_id, env_config):
    env = make_env(env_id, env_config(env_id), rewards={"accuracy": 0.9, "format": 0.1})
    env.reset(seed=1)
    form_only, nothing, empty = env.score(["<think>I look.</think><answer>none of it</answer>", "none of it", ""])
    assert form_only.total == pytest.approx(0.1)
    assert (nothing.total, empty.total) == (0.0, 0.0)


@every_environment
def test_reset_repeats_by_seed_and_its_observations_survive_json(env_id, env_config):
    settings = env_config(env_id)  # written once: data must not change under an environment
    envs = [make_env(env_id, settings) for _ in range(2)]
    shown = [[env.reset(seed=5 if i == 0 else None) for i in range(5)] for env in envs]
    assert data_equivalence(shown[0], shown[1])
    assert len({info["question_id"] for _, info in shown[0]}) > 1
    space = envs[0].observation_space
    observations = [observation for observation, _ in shown[0]]
    again = space.from_jsonable(json.loads(json.dumps(space.to_jsonable(observations))))
    assert all(data_equivalence(one["images"], two["images"]) for one, two in zip(observations, again, strict=True))


@every_environment
def test_its_options_are_documented_and_checked(env_id):
    options = environment_spec(env_id).options
    assert all(field.description for field in options.fields().values())
    with pytest.raises(UserError, match=r"env_config\.max_question: .*max_questions"):
        check_env_config(env_id, {"max_question": 3})
    with pytest.raises(UserError, match=r"env_config\.max_questions: .*whole number"):
        check_env_config(env_id, {"max_questions": "many"})
    with pytest.raises(UserError, match=r"env_config\.max_questions: .*at least 1"):
        check_env_config(env_id, {"max_questions": 0})
    with pytest.raises(UserError, match=r"transform_text_position.*before, after"):
        check_env_config(env_id, {"transform_text_position": "above"})
    with pytest.raises(UserError, match="transforms"):
        check_env_config(env_id, {"transforms": [1]})


@every_environment
def test_unknown_transforms_are_refused_before_any_data_is_opened(env_id):
    with pytest.raises(UserError, match="spin"):
        check_env_config(env_id, {"transforms": ["spin"]})


def test_unknown_kinds_of_drawn_shapes_are_refused_before_anything_is_drawn():
    with pytest.raises(UserError, match=r"countin.*counting"):
        check_env_config("DrawnShapes-v0", {"kinds": ["countin"]})


@every_environment
def test_warm_start_and_reinforcement_learning_divide_the_questions(env_id, env_config):
    config = env_config(env_id) | {"max_questions": 9}
    first = make_warm_start_bank(env_id, config, 4)
    rest = make_bank(env_id, {**config, "skip_questions": 4}, "train")
    whole = make_bank(env_id, config, "train")
    ids = [[bank[i].id for i in range(len(bank))] for bank in (first, rest, whole)]
    assert ids[0] + ids[1] == ids[2]
    assert len(ids[2]) == 9
    with pytest.raises(UserError, match="none remains"):
        make_bank(env_id, {**config, "skip_questions": 9}, "train")
    with pytest.raises(UserError, match=r"warm_start\.rows"):
        make_warm_start_bank(env_id, config, 10)
    assert len(make_bank(env_id, config, "test")) > 9  # the limit is for training


def test_unknown_environments_get_a_suggestion():
    with pytest.raises(UserError, match=r"MultimodalAQ-v0.*MultimodalQA-v0"):
        environment_spec("MultimodalAQ-v0")
    with pytest.raises(UserError, match="known environments"):
        environment_spec("xyzzy")


def test_an_environment_of_ones_own(monkeypatch):
    monkeypatch.setattr("sharegrpo_rl.envs.registry.ENVIRONMENTS", dict(ENVIRONMENTS))
    spec = EnvironmentSpec("MyShapes-v0", "sharegrpo_rl.envs.tasks.drawn_shapes:DrawnShapesEnv", "for a test")
    register_environment(spec)
    try:
        assert gymnasium.make("MyShapes-v0").reset(seed=0)[1]["question_id"].startswith("train")
        with pytest.raises(UserError, match="registered already"):
            register_environment(spec)
    finally:
        del gymnasium.registry["MyShapes-v0"]


def test_importing_the_package_registers_all_and_loads_nothing_heavy():
    code = (
        "import sys, sharegrpo_rl, gymnasium, os;"
        "heavy = {'torch', 'ray', 'transformers', 'PIL', 'datasets', 'pyarrow'} & set(sys.modules);"
        "assert not heavy, heavy;"
        "assert os.environ['RAY_ENABLE_UV_RUN_RUNTIME_ENV'] == '0';"
        f"assert all(i in gymnasium.registry for i in {BUILT_IN!r});"
        "gymnasium.make('DrawnShapes-v0').reset(seed=0);"
        "assert not {'torch', 'ray', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sharegrpo_rl.__version__


def test_pictures_are_writable_copies(env_config):
    observation, _ = make_env("DrawnShapes-v0", {}).reset(seed=0)
    (picture,) = observation["images"]
    assert picture.flags.writeable
    assert picture.dtype == np.uint8
    assert picture.shape == (42, 42, 3)


def test_an_id_that_several_questions_have_names_none(tmp_path: Path) -> None:
    rows = [{"id": "0", "question": f"{i} + 1?", "answer": i + 1} for i in range(2)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    env = make_env("MultimodalQA-v0", {"data": str(tmp_path)})
    with pytest.raises(UserError, match="has 2 questions with the id '0'"):
        env.reset(options={"question_id": "0"})
    env = make_env("MultimodalQA-v0", {"data": str(tmp_path), "columns": {"id": None}})
    assert env.reset(options={"question_id": "train-1"})[0]["question"] == "1 + 1?"


@pytest.mark.parametrize("pixels", [[100], [200, 100], [0, 100], [1, 2, 3]])
def test_noise_is_drawn_between_two_sizes(pixels):
    with pytest.raises(UserError, match=r"noise_pixels: expected the fewest and the most"):
        check_env_config("DrawnShapes-v0", {"noise_pixels": pixels})
