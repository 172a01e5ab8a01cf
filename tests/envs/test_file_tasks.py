"""Environments over data sets: choice of rows, defaults, and what is refused when they load."""

import json
from pathlib import Path

import pytest

from sharegrpo_rl.data.transforms import DEFAULT_TRANSFORMS, TRANSFORMS
from sharegrpo_rl.envs.registry import make_bank, make_env
from sharegrpo_rl.errors import UserError

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


def bank(env_id, data, split="train", **config):
    return make_bank(env_id, {"data": str(data), **config}, split)


def test_a_data_set_must_be_named():
    with pytest.raises(UserError, match=r"env_config\.data"):
        make_bank("MathQA-v0", {}, "train")


def test_a_subset_is_drawn_by_seed_and_kept_in_file_order(make_data):
    data = make_data(number=40)

    def ids(**config):
        rows = bank("VisualCounting-v0", data, **config)
        return [int(rows[i].id.removeprefix("train")) for i in range(len(rows))]

    one, again, other = ids(max_questions=10), ids(max_questions=10), ids(max_questions=10, subset_seed=1)
    assert one == again == sorted(one)
    assert one != other
    assert ids(max_questions=10, skip_questions=4) == one[4:]
    assert len(bank("VisualCounting-v0", data, "test", max_questions=10, skip_questions=4)) == 40


def test_kinds_choose_rows(make_data):
    data = make_data()
    lines = (data / "train.jsonl").read_text().splitlines()
    rows = [{**json.loads(line), "subtask": "dots" if i % 3 else "lines"} for i, line in enumerate(lines)]
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(bank("MultimodalQA-v0", data, kinds=["lines"])) == 4
    with pytest.raises(UserError, match=r"'dot'.*dots, lines"):
        bank("MultimodalQA-v0", data, kinds=["dot"])
    with pytest.raises(UserError, match="no subtask"):
        bank("MultimodalQA-v0", data, "test", kinds=["dots"])


@pytest.mark.parametrize(
    ("env_id", "answer", "words"),
    [
        ("VisualCounting-v0", "2.5", "whole number"),
        ("VisualCounting-v0", "yes", "whole number"),
        ("GeometryQA-v0", "long", "numeric"),
        ("MathQA-v0", "", "empty"),
        ("MultimodalQA-v0", "  ", "empty"),
    ],
)
def test_bad_ground_truths_are_found_when_loading(make_data, env_id, answer, words):
    data = make_data(answers=["1", "2", answer])
    with pytest.raises(UserError, match=words) as caught:
        bank(env_id, data)
    assert "train2" in str(caught.value)
    assert "train.jsonl" in str(caught.value)
    make_bank(env_id, {"data": str(data)}, "train", check=False)


def test_broken_images_are_found_when_loading(make_data):
    data = make_data()
    picture = data / "images" / "train7.png"
    picture.write_bytes(picture.read_bytes()[:40])
    with pytest.raises(UserError, match=r"train7\.png"):
        bank("VisualCounting-v0", data)


def test_counting_may_be_turned_unless_the_text_speaks_of_places(make_data):
    assert bank("VisualCounting-v0", make_data())[0].transforms == tuple(TRANSFORMS)
    placed = bank("VisualCounting-v0", make_data(question="How many dots are left of the line?"))
    assert placed[0].transforms == DEFAULT_TRANSFORMS


def test_transforms_are_noise_unless_asked_for(make_data):
    data = make_data()
    assert bank("MultimodalQA-v0", data)[0].transforms == DEFAULT_TRANSFORMS
    assert bank("MultimodalQA-v0", data, transforms=["flip_vertical"])[0].transforms == ("flip_vertical",)
    env = make_env("MultimodalQA-v0", {"data": str(data)})
    assert set(env.dropped_transforms(0)) == set(TRANSFORMS) - set(DEFAULT_TRANSFORMS)
    assert all("env_config.transforms" in why for why in env.dropped_transforms(0).values())


def test_dropped_transforms_name_the_word(make_data):
    env = make_env("VisualCounting-v0", {"data": str(make_data(question="How many dots are left of the line?"))})
    assert "'left'" in env.dropped_transforms(0)["flip_horizontal"]
    assert "noise_10" not in env.dropped_transforms(0)


def test_answer_types_are_filled_in(make_data):
    data = make_data()
    assert bank("VisualCounting-v0", data)[0].answer_type == "numeric"
    assert bank("MathQA-v0", data)[0].answer_type is None


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not beside this repository")
@pytest.mark.parametrize(
    ("env_id", "name", "kinds"),
    [("VisualCounting-v0", "counting_clevr", []), ("GeometryQA-v0", "geometry_formalgeo7k", [])],
)
def test_real_data_sets_pass_the_task_made_for_them(env_id, name, kinds):
    rows = bank(env_id, REAL / name, "test", kinds=kinds)
    assert len(rows) >= 300
    assert rows[0].images
