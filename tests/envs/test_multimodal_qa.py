"""What reset's options do: question, wording, transform with its sentence, swapped images."""

import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from sharegrpo_rl.data.transforms import TRANSFORMS
from sharegrpo_rl.envs.bank_view import blind_partner
from sharegrpo_rl.envs.registry import make_env
from sharegrpo_rl.errors import UserError


@pytest.fixture
def env():
    return make_env("DrawnShapes-v0", {"kinds": ["counting", "color"]}, split="test")


def test_a_question_is_found_by_index_and_by_id(env):
    by_index, info = env.reset(options={"question_index": 17})
    by_id, same = env.reset(options={"question_id": info["question_id"]})
    assert info == same
    assert by_index["question"] == by_id["question"] == env.bank[17].question
    assert info["subtask"] == env.bank[17].subtask


def test_every_wording_can_be_shown(env):
    for variant, text in enumerate(env.bank[3].wordings):
        observation, info = env.reset(options={"question_index": 3, "variant_index": variant})
        assert observation["question"] == text
        assert info["variant_index"] == variant


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"question_index": 10**6}, "question_index"),
        ({"question_index": -1}, "question_index"),
        ({"question_id": "nobody"}, "nobody"),
        ({"question_index": 0, "variant_index": 99}, "variant_index 99"),
        ({"question_index": 0, "transform": "spin"}, "spin"),
        ({"questoin": 3}, "questoin"),
    ],
)
def test_options_that_do_not_fit_are_named(env, options, words):
    with pytest.raises(UserError, match=words):
        env.reset(options=options)


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_a_transform_changes_the_picture_and_says_so_once(env, name):
    plain, info = env.reset(options={"question_index": 4})
    options = {"question_index": 4, "transform": name, "transform_seed": 5, "variant_index": 1}
    changed, told = env.reset(options=options)
    assert changed["question"] == f"{TRANSFORMS[name].sentence} {env.bank[4].wordings[1]}"
    assert not np.array_equal(plain["images"][0], changed["images"][0])
    assert info["image_keys"] != told["image_keys"]
    assert told["transform"] == name
    again, same = env.reset(options=options)
    assert np.array_equal(changed["images"][0], again["images"][0])
    assert told["image_keys"] == same["image_keys"]


def test_only_seeded_transforms_make_a_new_picture_by_another_seed(env):
    def shown(name, seed):
        observation, info = env.reset(options={"question_index": 4, "transform": name, "transform_seed": seed})
        return observation["images"][0].tobytes(), info["image_keys"]

    assert shown("rotate_180", 1) == shown("rotate_180", 2)
    assert all(one != two for one, two in zip(shown("noise_10", 1), shown("noise_10", 2), strict=True))


def test_the_sentence_can_stand_after_the_question():
    env = make_env("DrawnShapes-v0", {"transform_text_position": "after"})
    observation, _ = env.reset(options={"question_index": 0, "transform": "rotate_180"})
    assert observation["question"] == f"{env.bank[0].question} {TRANSFORMS['rotate_180'].sentence}"


def test_blind_shows_the_picture_of_another_question_of_the_kind(env):
    for index in range(40):
        seen, info = env.reset(options={"question_index": index})
        blind, told = env.reset(options={"question_index": index, "blind": True})
        partner = blind_partner(env.bank, index)
        assert partner not in (None, index)
        assert env.bank[partner].subtask == env.bank[index].subtask
        assert told["image_keys"] == tuple(image.fingerprint() for image in env.bank[partner].images)
        assert not np.array_equal(seen["images"][0], blind["images"][0])
        assert (seen["question"], info["question_id"]) == (blind["question"], told["question_id"])


def test_borrowed_pictures_have_every_answer(env):
    partners = [blind_partner(env.bank, index) for index in range(400)]
    answers = [env.bank[partner].answer for partner in partners if env.bank[partner].subtask == "color"]
    assert all(answers.count(answer) > 15 for answer in set(answers))
    assert len(set(partners)) > 330


def test_blind_borrows_from_another_kind_only_where_it_must(make_data):
    same = make_env("MultimodalQA-v0", {"data": str(make_data(number=2))})
    assert blind_partner(same.bank, 0) == 1
    alone = make_env("MultimodalQA-v0", {"data": str(make_data(number=1))})
    assert blind_partner(alone.bank, 0) is None
    assert len(alone.reset(options={"blind": True})[0]["images"]) == 1


def test_several_answers_to_one_question(env):
    env.reset(options={"question_index": 0})
    gold = env.bank[0].answer
    right = f"<think>I look.</think><answer>{gold}</answer>"
    scores = env.score([right, "what?", right], truncated=[False, False, True])
    assert [score.parts["accuracy"] for score in scores] == [1.0, 0.0, 1.0]
    assert [score.parts["format"] for score in scores] == [1.0, 0.0, 0.0]
    assert env.step(right)[1] == scores[0].total


def test_a_step_before_any_question_is_refused(env):
    with pytest.raises(ResetNeeded):
        env.step("3")


def test_rewards_and_format_are_those_of_the_run():
    env = make_env("DrawnShapes-v0", {}, rewards={"accuracy": 2.0}, answer_format="boxed")
    env.reset(options={"question_index": 0})
    assert env.step(f"<think>I look.</think> \\boxed{{{env.bank[0].answer}}}")[1] == pytest.approx(2.0)
    with pytest.raises(UserError, match="prettiness"):
        make_env("DrawnShapes-v0", {}, rewards={"prettiness": 1.0})
