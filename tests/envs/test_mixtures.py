"""Environments over several data sets: each row is read, checked and graded as its own set says."""

import json
from collections import Counter
from pathlib import Path

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from sharegrpo_rl.data.transforms import DEFAULT_TRANSFORMS, TRANSFORMS
from sharegrpo_rl.envs.bank_view import blind_partner
from sharegrpo_rl.envs.registry import check_env_config, make_bank, make_env, make_warm_start_bank
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.evaluate import evaluate
from sharegrpo_rl.evaluation.report import GeneratedText

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def folders(write_set):
    """12 counting rows a split, 6 of geometry, under the names of their folders."""
    return {
        "dots": write_set("dots", "How many dots are there?", subtask="dots"),
        "angles": write_set("angles", "Find x in the diagram.", ["84/5"], 6, subtask="angle"),
    }


@pytest.fixture
def mixed(folders):
    """The env_config of both: counting by its own environment, geometry by the run's and with rewards of its own."""
    return {
        "data": [
            {"data": folders["dots"], "weight": 1, "env": "VisualCounting-v0"},
            {"data": folders["angles"], "weight": 1, "task": "geometry", "rewards": {"accuracy": 2, "format": 1}},
        ]
    }


def every(bank):
    return [bank[index] for index in range(len(bank))]


def test_each_row_has_its_task_and_is_prepared_by_its_own_environment(mixed):
    questions = every(make_bank("GeometryQA-v0", mixed, "train"))
    assert Counter(question.task for question in questions) == {"dots": 12, "geometry": 12}
    for question in questions:
        counting = question.task == "dots"
        assert question.transforms == (tuple(TRANSFORMS) if counting else DEFAULT_TRANSFORMS)
        assert question.answer_type == "numeric"
        assert question.id.startswith(("dots/train", "geometry/train"))
    assert len({question.id for question in questions}) == 24


def test_each_row_is_graded_with_its_sets_rewards(mixed):
    env = make_env("GeometryQA-v0", mixed, rewards={"accuracy": 0.9, "format": 0.1})
    for index in range(len(env.bank)):
        _, info = env.reset(options={"question_index": index})
        full = 1.0 if info["task"] == "dots" else 3.0
        right = f"<think>I look.</think><answer>{env.bank[index].answer}</answer>"
        assert env.step(right)[1] == pytest.approx(full)
        assert env.step("<think>I look.</think><answer>0</answer>")[1] == pytest.approx(
            full - full * 0.9 if full == 1 else 1.0
        )


def test_the_checks_of_the_sets_own_environment_apply(folders, write_set):
    halves = write_set("halves", "How many dots are there?", ["1/2"])
    data = [{"data": folders["dots"]}, {"data": halves, "env": "VisualCounting-v0"}]
    with pytest.raises(UserError, match=r"halves/train\.jsonl.*whole number"):
        make_bank("GeometryQA-v0", {"data": data}, "train")
    assert len(make_bank("GeometryQA-v0", {"data": data}, "train", check=False)) == 24
    with pytest.raises(UserError, match=r"halves/train\.jsonl"):
        make_bank("VisualCounting-v0", {"data": [{"data": folders["dots"]}, {"data": halves}]}, "train")


def test_gymnasium_accepts_a_mixture(mixed):
    env = gymnasium.make("GeometryQA-v0", **mixed)
    check_env(env.unwrapped, skip_render_check=True)
    _, info = env.reset(options={"question_id": "geometry/train3~2"})
    assert (info["task"], info["question_id"]) == ("geometry", "geometry/train3~2")


def test_warm_start_and_reinforcement_learning_divide_the_rows(mixed):
    for skip in (1, 4, 9):
        first = every(make_warm_start_bank("GeometryQA-v0", mixed, skip))
        rest = every(make_bank("GeometryQA-v0", {**mixed, "skip_questions": skip}, "train"))
        assert len(first) + len(rest) == 24
        assert not {q.id for q in first} & {q.id.split("~")[0] for q in rest}
    with pytest.raises(UserError, match=r"env_config\.data\[1\]: all its .*skip_questions"):
        make_bank("GeometryQA-v0", {**mixed, "skip_questions": 20}, "train")
    with pytest.raises(UserError, match="none remains"):
        make_bank("GeometryQA-v0", {**mixed, "skip_questions": 24}, "train")
    with pytest.raises(UserError, match=r"warm_start\.rows"):
        make_warm_start_bank("GeometryQA-v0", mixed, 24)


def test_max_questions_limits_the_epoch_or_a_set(mixed):
    def train(**config):
        return every(make_bank("GeometryQA-v0", {**mixed, **config}, "train"))

    limited = train(max_questions=8)
    assert [q.id for q in limited] == [q.id for q in train()][:8]
    assert set(Counter(q.task for q in limited).values()) <= {3, 4, 5}
    assert [q.id for q in train(subset_seed=1)] != [q.id for q in train()]
    mixed["data"][0]["max_questions"] = 3
    assert {q.id.split("~")[0] for q in train() if q.task == "dots"} < {f"dots/train{i}" for i in range(12)}
    assert len(make_bank("GeometryQA-v0", {**mixed, "max_questions": 2}, "test")) == 18  # test stays whole


def test_kinds_of_the_run_and_of_a_set(folders):
    def tasks(data, **config):
        return Counter(q.task for q in every(make_bank("MultimodalQA-v0", {"data": data, **config}, "train")))

    plain = [{"data": folders["dots"]}, {"data": folders["angles"]}]
    assert tasks(plain, kinds=["angle", "dots"]) == {"dots": 12, "angles": 6}
    assert tasks([{**plain[0], "kinds": ["dots"]}, plain[1]], kinds=["angle"]) == {"dots": 12, "angles": 6}
    with pytest.raises(UserError, match=r"env_config\.kinds: leaves no question of env_config\.data\[0\]"):
        tasks(plain, kinds=["angle"])
    with pytest.raises(UserError, match=r"env_config\.kinds: the mixture \(train\) has no kind 'angel'"):
        tasks(plain, kinds=["angel", "dots"])
    with pytest.raises(UserError, match=r"env_config\.data\[1\]\.kinds: .*no kind 'dots'"):
        tasks([plain[0], {**plain[1], "kinds": ["dots"]}])


def test_what_a_set_leaves_out_it_takes_from_the_run(tmp_path):
    for name, column in (("one", "ask"), ("two", "say")):
        rows = [{column: f"What is {i} + 1?", "answer": str(i + 1)} for i in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = [
        {"data": str(tmp_path / "one.jsonl")},
        {"data": str(tmp_path / "two.jsonl"), "columns": {"question": "say"}},
    ]
    config = {"data": data, "columns": {"question": "ask"}, "test_fraction": 0.25}
    banks = [every(make_bank("MathQA-v0", config, split)) for split in ("train", "test")]
    assert [Counter(q.task for q in bank) for bank in banks] == [{"one": 3, "two": 3}, {"one": 1, "two": 1}]


def test_rows_that_name_their_task_keep_it_unless_the_set_is_named(write_set):
    data = write_set("named", "How many?", ["1"], 2, task="counting")
    assert {q.task for q in every(make_bank("MathQA-v0", {"data": [{"data": data}]}, "train"))} == {"counting"}
    named = {"data": [{"data": data, "task": "mine"}]}
    assert {q.task for q in every(make_bank("MathQA-v0", named, "train"))} == {"mine"}
    twice = every(make_bank("MathQA-v0", {"data": [{"data": data}, {"data": data}]}, "train"))
    assert {q.id for q in twice} == {f"named.{n}/train{i}" for n in (0, 1) for i in (0, 1)}


def test_a_file_is_called_by_its_folder_where_its_name_is_a_split(folders):
    data = [{"data": f"{folders['dots']}/train.jsonl"}, {"data": folders["angles"]}]
    assert {q.task for q in every(make_bank("MathQA-v0", {"data": data}, "test"))} == {"dots", "angles"}


def test_borrowed_pictures_come_from_the_same_task(write_set):
    data = [{"data": write_set(name, "How many?", ["1"], 6)} for name in ("one", "two")]
    bank = make_bank("MathQA-v0", {"data": data}, "test")
    for index in range(len(bank)):
        assert bank[blind_partner(bank, index)].task == bank[index].task


def test_dropped_transforms_follow_the_rows_own_set(mixed):
    mixed["data"][1]["transforms"] = ["noise_10", "rotate_180"]
    env = make_env("GeometryQA-v0", mixed)
    for index in range(len(env.bank)):
        dropped = env.dropped_transforms(index)
        assert set(dropped) == (
            set() if env.bank[index].task == "dots" else set(TRANSFORMS) - {"noise_10", "rotate_180"}
        )


def test_evaluation_reports_by_task(mixed):
    env = make_env("GeometryQA-v0", mixed, split="test")
    report = evaluate(env, lambda shown: [GeneratedText("<think>x</think><answer>84/5</answer>", 3)] * len(shown))
    assert report.by_task == {
        "dots": {"accuracy": 0.0, "questions": 12},
        "geometry": {"accuracy": 1.0, "questions": 6},
    }
    assert set(report.by_kind) == {"dots/dots", "geometry/angle"}
    assert report.summary()["by_task"] == report.by_task
    assert {row["task"] for row in report.rows()} == {"dots", "geometry"}
    first = evaluate(env, lambda shown: [GeneratedText("", 1)] * len(shown), limit=9)
    assert 2 <= first.by_task["geometry"]["questions"] <= 4  # in proportion


BAD = [
    ([], r"env_config\.data: the list is empty"),
    (["dots"], r"env_config\.data\[0\]: expected a table"),
    ([{"task": "a"}], r"env_config\.data\[0\]\.data: expected a folder"),
    ([{"data": ["a"]}], r"env_config\.data\[0\]\.data: expected a folder"),
    ([{"data": "a"}, {"data": "b", "weight": 0}], r"env_config\.data\[1\]\.weight: 0 must be above 0"),
    ([{"data": "a"}, {"data": "b", "weight": -1.5}], r"env_config\.data\[1\]\.weight"),
    ([{"data": "a"}, {"data": "b", "weight": "much"}], r"env_config\.data\[1\]\.weight: expected a number or null"),
    ([{"data": "a"}, {"data": "b", "weight": float("inf")}], r"env_config\.data\[1\]\.weight"),
    ([{"data": "a", "weight": 2}, {"data": "b"}], r"env_config\.data\[1\]\.weight: missing"),
    ([{"data": "a", "wieght": 2}], r"env_config\.data\[0\]\.wieght: unknown key; did you mean weight"),
    ([{"data": "a", "skip_questions": 2}], r"env_config\.data\[0\]\.skip_questions: belongs to the whole"),
    ([{"data": "a", "max_questions": 0}], r"env_config\.data\[0\]\.max_questions: .*at least 1"),
    ([{"data": "a", "env": "GeometyQA-v0"}], r"env_config\.data\[0\]\.env: .*did you mean GeometryQA-v0"),
    ([{"data": "a", "env": "DrawnShapes-v0"}], r"env_config\.data\[0\]\.env: DrawnShapes-v0 makes its own"),
    ([{"data": "a", "rewards": {"beauty": 1.0}}], r"env_config\.data\[0\]\.rewards: .*'beauty'"),
    (
        [{"data": "a", "rewards": {"accuracy": "x"}}],
        r"env_config\.data\[0\]\.rewards\.accuracy: expected a number, got 'x'",
    ),
    ([{"data": "a", "rewards": {"accuracy": 0}}], r"env_config\.data\[0\]\.rewards: "),
    ([{"data": "a", "transforms": ["spin"]}], r"env_config\.data\[0\]\.transforms\[0\]: .spin. is not one of rotate"),
    (7, r"env_config\.data: expected text or a list of tables, got 7"),
]


@pytest.mark.parametrize(("data", "words"), BAD)
def test_what_is_wrong_with_a_list_is_said_before_any_data_is_opened(data, words):
    with pytest.raises(UserError, match=words):
        check_env_config("MathQA-v0", {"data": data})


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not beside this repository")
def test_real_data_sets_mix():
    data = [
        {"data": str(REAL / "counting_clevr"), "env": "VisualCounting-v0", "weight": 1},
        {"data": str(REAL / "geometry_formalgeo7k"), "env": "GeometryQA-v0", "weight": 3},
    ]
    bank = make_bank("MultimodalQA-v0", {"data": data}, "train", check=False)
    counts = Counter(int(number) for number, _ in map(bank.source, range(len(bank))))
    assert counts == {0: 1279, 1: 3837}
    assert {bank[index].task for index in range(40)} == {"counting", "geometry"}
