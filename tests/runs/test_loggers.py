"""W&B and MLflow through Ray's callbacks: the real clients, without a network."""

from __future__ import annotations

import importlib.util
import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from rich.console import Console
from stand_in_algorithm import RUN_FILE, StandIn

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.runs.loggers import RunLoggers
from sharegrpo_rl.runs.run_file import TrainOptions, check_loggers, load_run
from sharegrpo_rl.runs.train import train


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(RUN_FILE)
    return path


def go(file: Path, storage: Path, *sets: str) -> tuple[int, str]:
    text = io.StringIO()
    console = Console(file=text, width=120)
    options = TrainOptions(storage_path=storage, name="one")
    return train(load_run(file, sets), options, console, build=StandIn), text.getvalue()


def test_one_key_fills_in_the_rest(run_file: Path) -> None:
    spec = load_run(run_file, ["loggers.wandb.project=mine", "loggers.mlflow.tracking_uri=file:x"])
    assert spec.loggers == {
        "wandb": {"project": "mine", "group": None, "entity": None, "mode": "online"},
        "mlflow": {"experiment_name": "sharegrpo_rl", "tracking_uri": "file:x"},
    }
    assert load_run(run_file).loggers == {}
    assert load_run(run_file, ["loggers.wandb=null"]).loggers == {}
    assert check_loggers({"mlflow": {}})["mlflow"]["experiment_name"] == "sharegrpo_rl"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("loggers.wanb.project=x", "did you mean wandb"),
        ("loggers.wandb.projekt=x", "did you mean project"),
        ("loggers.wandb=yes", "expected a table"),
        ("loggers.wandb.mode=sometimes", "not one of online, offline"),
        ("loggers.wandb.api_key=secret", "no such key"),
        ("loggers=wandb", "loggers is a table"),
    ],
)
def test_wrong_settings_are_told(run_file: Path, setting: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_run(run_file, [setting])
    assert words in str(caught.value)


def test_a_missing_package_and_a_missing_key_are_told_first(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(UserError, match=r"loggers\.mlflow: the package mlflow-skinny is not installed"):
        go(run_file, tmp_path / "runs", "loggers.mlflow={}".replace("={}", ".experiment_name=x"))
    assert not (tmp_path / "runs").exists()


def test_without_loggers_nothing_happens() -> None:
    loggers = RunLoggers({}, print)
    loggers.start(Path("nowhere"), {})
    loggers.row({"training_iteration": 1})
    loggers.end()
    assert not ray.is_initialized()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="needs the extra mlflow")
def test_mlflow_has_every_row(run_file: Path, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db" if importlib.util.find_spec("sqlalchemy") else (tmp_path / "ml").as_uri()
    try:
        code, _ = go(run_file, tmp_path, f"loggers.mlflow.tracking_uri={uri}")
    finally:
        ray.shutdown()
    assert code == 0
    client = MlflowClient(uri)
    (found,) = client.search_runs([client.get_experiment_by_name("sharegrpo_rl").experiment_id])
    assert found.info.run_name == "one"
    assert found.info.status == "FINISHED"
    assert found.data.params["lr"] == str(load_run(run_file).config["lr"])
    history = client.get_metric_history(found.info.run_id, "groups/reward_density")
    rows = [json.loads(line) for line in (tmp_path / "one" / "result.json").read_text().splitlines()]
    assert [(m.step, m.value) for m in history] == [
        (r["training_iteration"], pytest.approx(r["groups"]["reward_density"])) for r in rows
    ]


def leveldb_records(content: bytes) -> Iterator[bytes]:
    """The records of LevelDB's log format, in which W&B keeps an offline run behind a header of 7 bytes."""
    block, whole, place = 32768, b"", 0
    while place + 7 <= len(content):
        if block - (place + 7) % block < 7:
            place += block - (place + 7) % block  # the header counts as part of the first block
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs the extra wandb")
def test_wandb_keeps_an_offline_run(run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb.proto import wandb_internal_pb2

    monkeypatch.delenv("WANDB_MODE", raising=False)
    try:
        code, text = go(run_file, tmp_path, "loggers.wandb.mode=offline")
    finally:
        ray.shutdown()
    assert code == 0
    assert "not everything was sent" not in text
    (file,) = (tmp_path / "one").rglob("*.wandb")
    seen = []
    for data in leveldb_records(file.read_bytes()[7:]):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            seen.append({item.key or "/".join(item.nested_key): item.value_json for item in record.history.item})
    rows = [json.loads(line) for line in (tmp_path / "one" / "result.json").read_text().splitlines()]
    assert len(seen) == len(rows) == 8
    for line, row in zip(seen, rows, strict=True):
        assert float(line["groups/reward_density"]) == pytest.approx(row["groups"]["reward_density"])
    assert (tmp_path / "one" / "logged_as.txt").read_text()
