"""Files of a run that a power cut or a broken copy has damaged: an older checkpoint, or one line with the remedy."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from stand_in_algorithm import RUN_FILE, StandIn
from test_train_loop import without_clocks

from sharegrpo_rl.cli import run
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.runs.run_file import TrainOptions, load_run
from sharegrpo_rl.runs.train import train

PROGRAM = Path(__file__).parents[1] / "stand_in_algorithm.py"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 8 iterations with checkpoints 6, 7 and 8."""
    root = tmp_path_factory.mktemp("finished")
    (root / "run.yaml").write_text(RUN_FILE)
    assert go(root)[0] == 0
    return root


@pytest.fixture
def unfinished(finished: Path, tmp_path: Path) -> Path:
    """The same run as it is before its summary."""
    shutil.copytree(finished, tmp_path / "copy")
    (tmp_path / "copy" / "run" / "summary.json").unlink()
    return tmp_path / "copy"


def go(root: Path) -> tuple[int, str]:
    text = io.StringIO()
    spec = load_run(root / "run.yaml", ["config.checkpoints_to_keep=3"])
    code = train(spec, TrainOptions(storage_path=root, name="run"), Console(file=text, width=120), build=StandIn)
    return code, text.getvalue()


def results(root: Path) -> list[dict]:
    return [without_clocks(json.loads(line)) for line in (root / "run" / "result.json").read_text().splitlines()]


def halve(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def fill_with_zeros(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def empty(file: Path) -> None:
    file.write_bytes(b"")


DAMAGES = {
    "half": lambda checkpoint: halve(checkpoint / "state.json"),
    "zeros": lambda checkpoint: fill_with_zeros(checkpoint / "state2.json"),
    "missing": lambda checkpoint: (checkpoint / "state2.json").unlink(),
    "state empty": lambda checkpoint: empty(checkpoint / "run_state.json"),
    "state missing": lambda checkpoint: (checkpoint / "run_state.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_named_and_an_older_one_taken(
    unfinished: Path, finished: Path, damage: Callable[[Path], None]
) -> None:
    damage(unfinished / "run" / "checkpoints" / "000008")
    code, text = go(unfinished)
    assert code == 0
    (line,) = [line for line in text.splitlines() if "damaged checkpoint" in line]
    assert "000008: " in line
    assert "going on from 000007" in line
    assert "after iteration 7" in text
    assert results(unfinished) == results(finished)
    exports = [(root / "run" / "export" / "model.safetensors").read_bytes() for root in (unfinished, finished)]
    assert exports[0] == exports[1]


def test_several_damaged_checkpoints_are_passed_over(unfinished: Path, finished: Path) -> None:
    for name in ("000007", "000008"):
        halve(unfinished / "run" / "checkpoints" / name / "state.json")
    code, text = go(unfinished)
    assert (code, results(unfinished)) == (0, results(finished))
    assert "going on from 000006" in text


def test_without_a_whole_checkpoint_the_folder_and_the_remedy_are_named(unfinished: Path) -> None:
    for checkpoint in (unfinished / "run" / "checkpoints").iterdir():
        halve(checkpoint / "state.json")
    before = results(unfinished)
    with pytest.raises(UserError, match=r"000008: state\.json has .*run/checkpoints reads whole.*--name") as error:
        go(unfinished)
    assert "\n" not in str(error.value)
    assert results(unfinished) == before


def test_checkpoints_from_before_there_were_seals_are_resumed(unfinished: Path) -> None:
    for file in (unfinished / "run" / "checkpoints").glob("*/run_state.json"):
        file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "files"}))
    assert "after iteration 8" in go(unfinished)[1]


def test_cut_weights_are_found_without_a_seal(unfinished: Path) -> None:
    import torch
    from safetensors.torch import save_file

    for checkpoint in (unfinished / "run" / "checkpoints").iterdir():
        save_file({"w": torch.ones(8)}, checkpoint / "model.safetensors")
        file = checkpoint / "run_state.json"
        file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "files"}))
    halve(unfinished / "run" / "checkpoints" / "000008" / "model.safetensors")
    code, text = go(unfinished)
    assert code == 0
    assert "model.safetensors is cut short" in text


@pytest.mark.parametrize("name", ["params.json", "before.json"])
@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"null", b'{"run": "Sha', b"[1]"])
def test_damaged_json_is_one_line_with_the_remedy(unfinished: Path, name: str, content: bytes) -> None:
    file = unfinished / "run" / name
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: empty or damaged.*another name") as error:
        go(unfinished)
    assert "\n" not in str(error.value)
    assert len(results(unfinished)) == 8


def test_rollouts_of_zeros_are_one_line_with_the_remedy(unfinished: Path) -> None:
    file = unfinished / "run" / "rollouts.jsonl"
    file.write_bytes(bytes(100) + b"\n" + file.read_bytes())
    with pytest.raises(UserError, match=r"rollouts\.jsonl line 1: .*remove the file"):
        go(unfinished)
    file.unlink()
    assert go(unfinished)[0] == 0


def test_results_without_params_are_not_begun_anew(unfinished: Path) -> None:
    (unfinished / "run" / "params.json").unlink()
    with pytest.raises(UserError, match=r"no params\.json"):
        go(unfinished)
    assert len(results(unfinished)) == 8


def test_params_that_a_kill_left_empty_before_any_result_are_written_anew(finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished / "run.yaml", tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "params.json").touch()
    assert go(tmp_path)[0] == 0


def test_the_program_ends_with_code_2_and_one_line(unfinished: Path, capsys: pytest.CaptureFixture) -> None:
    empty(unfinished / "run" / "params.json")
    assert run(["train", str(unfinished / "run.yaml"), "--storage-path", str(unfinished), "--name", "run"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "params.json: empty or damaged" in line


def with_data(root: Path, **digests: str) -> None:
    """Give the same command again, with data of these digests."""
    train(
        load_run(root / "run.yaml", ["config.checkpoints_to_keep=3"]),
        TrainOptions(storage_path=root, name="run"),
        Console(file=io.StringIO()),
        build=StandIn,
        check=lambda spec, seed: digests,
    )


def test_a_run_is_not_resumed_on_other_data(unfinished: Path) -> None:
    """Both digests are named; a run from before there were digests is resumed, and nothing is touched."""
    file = unfinished / "run" / "params.json"
    params = json.loads(file.read_text())
    assert params["data"] == {}
    file.write_text(json.dumps(params | {"data": {"train": "aaa", "test": "bbb"}}))
    before = results(unfinished)
    with pytest.raises(
        UserError, match=r"holds a run on other data.*test was bbb, is ccc.*restore the data, or .*--name"
    ):
        with_data(unfinished, train="aaa", test="ccc")
    assert results(unfinished) == before
    with_data(unfinished, train="aaa", test="bbb")
    (unfinished / "run" / "summary.json").unlink()
    file.write_text(json.dumps({key: value for key, value in params.items() if key != "data"}))
    with_data(unfinished, train="aaa", test="ccc")
