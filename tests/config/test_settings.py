"""`--set`: dotted paths and typed values laid over a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sharegrpo_rl.config import GRPOOptions, resolve
from sharegrpo_rl.config.option import check
from sharegrpo_rl.config.tree import apply_settings, find_search_space, parse_setting
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.runs.run_file import TrainOptions


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("config.lr=1e-5", ("config", "lr"), 1e-5),
        ("stop.training_iteration=2", ("stop", "training_iteration"), 2),
        ("config.env_config.data=/a/b=c", ("config", "env_config", "data"), "/a/b=c"),
        ("config.env_config.kinds=[counting, color]", ("config", "env_config", "kinds"), ["counting", "color"]),
        ("config.warm_start=null", ("config", "warm_start"), None),
        ("run=GRPO", ("run",), "GRPO"),
        ("config.model=no", ("config", "model"), "no"),
        ("config.env_config.data='a #b'", ("config", "env_config", "data"), "a #b"),
    ],
)
def test_a_setting_is_a_path_and_a_typed_value(text: str, path: tuple[str, ...], value: object) -> None:
    setting = parse_setting(text)
    assert (setting.path, setting.value) == (path, value)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("config.lr", "KEY=VALUE"),
        ("=3", "KEY=VALUE"),
        ("config..lr=3", "KEY=VALUE"),
        ("lr=3", "config.lr"),
        ("config=3", "config.KEY"),
        ("config.lr=[1", "--set config.lr"),
        ("config.lr=!!python/name:os.system", "tag"),
        ("config.env_config.data=/tmp/my #1", "quotes"),
    ],
)
def test_a_malformed_setting_says_so(text: str, word: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_setting(text)
    assert word in str(caught.value)


def test_settings_are_laid_over_a_copy_and_later_ones_win() -> None:
    tree = {"run": "GRPO", "config": {"env_config": {"data": "a", "columns": {}}, "lora": None}}
    texts = ["config.env_config.data=b", "config.lora.r=8", "config.env_config.data=c", "stop.training_iteration=3"]
    result = apply_settings(tree, [parse_setting(t) for t in texts])
    assert result["config"] == {"env_config": {"data": "c", "columns": {}}, "lora": {"r": 8}}
    assert result["stop"] == {"training_iteration": 3}
    assert tree["config"]["lora"] is None
    assert tree["config"]["env_config"]["data"] == "a"


def test_a_path_through_a_value_is_refused() -> None:
    with pytest.raises(UserError, match=r"config\.lr is 3"):
        apply_settings({"config": {"lr": 3}}, [parse_setting("config.lr.x=1")])


def test_search_spaces_are_found_anywhere() -> None:
    assert find_search_space({"lr": {"grid_search": [1, 2]}}) == ("config.lr", "grid_search")
    assert find_search_space({"lora": {"r": {"choice": [8, 16]}}}) == ("config.lora.r", "choice")
    assert find_search_space({"rewards": {"accuracy": 1.0}, "lr": 3}) is None


@pytest.mark.parametrize("address", ["s3://bucket/runs", "gs://b", "hdfs://host/x", "file:///tmp/x"])
def test_an_address_is_no_folder_to_write_to(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"storage_path: .* is the address of a bucket or server; name a folder"):
        check(TrainOptions, {"storage_path": Path(address)})
    with pytest.raises(UserError, match=f"commit_folder: {address} is the address"):
        check(GRPOOptions, {"commit_folder": address})
    assert check(TrainOptions, {"storage_path": Path("runs")}).storage_path == Path("runs")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "heads"),
    [
        ({"engine": "vllm"}, (3, 1)),
        ({"engine": "vllm", "model_config": {"hidden_size": 128, "num_layers": 1}}, (4, 1)),
        ({"engine": "vllm", "model_config": {"num_heads": 2, "num_kv_heads": 2}}, (2, 2)),
        ({"engine": "vllm", "model_config": {"hidden_size": 80}}, (4, 2)),  # has no heads of 32
        ({"engine": "hf"}, (4, 2)),
        ({}, (4, 2)),
    ],
)
def test_a_tiny_model_has_heads_that_its_engine_takes(settings: dict[str, Any], heads: tuple[int, int]) -> None:
    sizes = resolve("ShareGRPO", settings).tiny_model
    assert (sizes.num_heads, sizes.num_kv_heads) == heads
    assert resolve("ShareGRPO", resolve("ShareGRPO", settings).as_dict()).tiny_model == sizes
