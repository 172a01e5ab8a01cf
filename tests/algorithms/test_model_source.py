"""Where a run's model is made and kept: what stands in the way is found before the warm start, not after it."""

import json
from types import SimpleNamespace

import pytest

from sharegrpo_rl.algorithms import model_source
from sharegrpo_rl.algorithms.registry import build_config
from sharegrpo_rl.config import resolve
from sharegrpo_rl.errors import UserError

OPTIONS = {
    "model_config": {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "vision_layers": 1},
    "warm_start": {"rows": 8, "steps": 1, "batch_size": 2},
    "env_config": {"kinds": ["color"], "max_questions": 20},
    "evaluation_questions": 2,
}


@pytest.fixture
def config(monkeypatch):
    """A run whose warm start must not be reached."""
    monkeypatch.setattr(model_source, "warm_start", lambda *arguments: pytest.fail("the warm start was begun"))
    return build_config("GRPO", "DrawnShapes-v0", OPTIONS, 0)


def test_a_cache_that_cannot_be_written_is_named_with_the_remedy(config, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"file/sharegrpo_rl.*cannot be written.*set XDG_CACHE_HOME to another folder"):
        model_source.prepare_model(config)


def test_a_disk_without_room_for_the_model_is_named_with_the_remedy(config, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(model_source.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"cannot be written .*space.*set XDG_CACHE_HOME to another folder"):
        model_source.prepare_model(config)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("split", ["train", "test"])
def test_rows_are_checked_before_the_warm_start_which_takes_the_first_of_them(config, tmp_path, monkeypatch, split):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = [{"question": "How many?", "answer": "2"} for _ in range(20)]
    for name in ("train", "test"):
        bad = [{**rows[0], "image": "none.png"}] if name == split else []
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bad + rows))
    config = build_config("GRPO", "MultimodalQA-v0", {**OPTIONS, "env_config": {"data": str(tmp_path)}}, 0)
    with pytest.raises(UserError, match=rf"{split}\.jsonl line 1, id {split}-0: image none\.png is not there"):
        model_source.prepare_model(config)


@pytest.mark.parametrize("data", ["train", "own.jsonl", "own"])
def test_only_a_warm_start_s_own_data_decides_its_model(tmp_path, monkeypatch, data):
    """Not what lies beside a file, such as the runs, nor a folder that happens to be called train."""
    monkeypatch.chdir(tmp_path)
    for name in ("train", "own", "runs"):
        (tmp_path / name).mkdir()
    (tmp_path / "own.jsonl").write_text("{}")
    options = {**OPTIONS, "warm_start": {**OPTIONS["warm_start"], "data": data}}

    def key():
        return model_source.cache_key(build_config("GRPO", "DrawnShapes-v0", options, 0), {})

    before = key()
    for name in ("train", "runs"):
        (tmp_path / name / "file").write_text("new")
    assert key() == before
    (tmp_path / "own" / "more.jsonl").write_text("{}")
    (tmp_path / "own.jsonl").write_text("{}{}")
    assert (key() == before) is (data == "train")


@pytest.mark.parametrize("algorithm", ["GRPO", "SFT"])
@pytest.mark.parametrize(("frozen", "part"), [("freeze_vision_tower", "vision"), ("freeze_projector", "projector")])
def test_a_frozen_part_takes_no_adapters(algorithm, frozen, part):
    settings = {frozen: True, "lora": {"target_modules": ["language", part]}}
    with pytest.raises(UserError, match=f"{frozen}: true contradicts lora.target_modules, which names {part}"):
        resolve(algorithm, settings).check_together(algorithm)
    resolve(algorithm, {frozen: True, "lora": {}}).check_together(algorithm)


def test_the_fewest_pixels_are_no_more_than_the_most():
    with pytest.raises(UserError, match=r"min_pixels: 4000 is above max_pixels \(3000\)"):
        resolve("GRPO", {"min_pixels": 4000, "max_pixels": 3000}).check_together("GRPO")
    resolve("GRPO", {"min_pixels": 3000, "max_pixels": 3000}).check_together("GRPO")
