"""The train loop on a stand-in algorithm: what a run leaves, exact resumption after a kill, and what it refuses."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
from huggingface_hub import ModelCard
from rich.console import Console
from stand_in_algorithm import RUN_FILE, StandIn
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sharegrpo_rl.errors import NotFiniteError, UserError
from sharegrpo_rl.runs.run_file import TrainOptions, load_run
from sharegrpo_rl.runs.train import train

PROGRAM = Path(__file__).parents[1] / "stand_in_algorithm.py"
CLOCKS = {
    "iteration_seconds",
    "run_seconds",
    "seconds",
    "seconds_without_warm_start",
    "seconds_of_training",
    "tokens_per_second",
    "peak_memory_bytes",
}
WANTED = [
    "algorithm",
    "env",
    "seed",
    "iterations",
    "seconds",
    "accuracy_before",
    "accuracy_after",
    "blind_accuracy_after",
    "format_rate_before",
    "format_rate_after",
    "test_questions",
    "valid_advantage_ratio",
    "reward_density",
    "solved_ratio",
    "completions",
    "checkpoint",
    "export",
]


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(RUN_FILE)
    return path


def go(
    file: Path, storage: Path, *sets: str, build: Any = StandIn, imports: dict[str, str] | None = None, **options: Any
) -> tuple[int, str]:
    """Train in this process: exit code and what was printed."""
    text = io.StringIO()
    wanted = TrainOptions(storage_path=storage, **options)
    code = train(load_run(file, sets), wanted, Console(file=text, width=120), imports, build)
    return code, text.getvalue()


def ending_after(iterations: int, error: type[BaseException]) -> type[StandIn]:
    """A stand-in whose next iteration ends in an error."""

    class Ending(StandIn):
        def train(self) -> dict[str, Any]:
            if self.iteration == iterations:
                raise error
            return super().train()

    return Ending


def overflowing(iteration: int, saving: bool) -> type[StandIn]:
    """A stand-in whose weights overflow in an iteration: found when it samples, or when it saves."""

    class Overflowing(StandIn):
        def train(self) -> dict[str, Any]:
            if not saving and self.iteration + 1 == iteration:
                raise NotFiniteError.of("the logits are")
            return super().train()

        def save_to_path(self, path: str) -> Any:
            if saving and self.iteration == iteration:
                raise NotFiniteError.of("the weight of head is")
            return super().save_to_path(path)

    return Overflowing


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "result.json").read_text().splitlines()]


def without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_clocks(v) for k, v in value.items() if k not in CLOCKS}
    return value


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "export" / "model.safetensors").read_bytes()).hexdigest()


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"images": 50, "scalars": 0})
    accumulator.Reload()
    return accumulator


@pytest.mark.parametrize(
    ("iteration", "saving", "kept"),
    [
        (5, False, "the last good checkpoint is .*checkpoints/000003"),  # nothing was sampled from that of 4
        (5, True, "the last good checkpoint is .*checkpoints/000004"),
        (2, False, "no good checkpoint was kept"),
    ],
)
def test_weights_that_overflow_end_a_run_with_the_last_good_checkpoint(
    run_file: Path, tmp_path: Path, iteration: int, saving: bool, kept: str
) -> None:
    with pytest.raises(UserError, match=f"iteration {iteration}: .*not finite.*lower lr.*; {kept}$"):
        go(run_file, tmp_path, name="run", build=overflowing(iteration, saving))
    assert len(lines(tmp_path / "run")) == iteration - 1


def test_a_run_ends_at_its_completions_and_stays_finished(run_file: Path, tmp_path: Path) -> None:
    """12 completions an iteration: the third one reaches 30; the folder is that of a finished run."""
    code, _ = go(run_file, tmp_path, "stop.completions=30", name="short")
    assert (code, len(lines(tmp_path / "short"))) == (0, 3)
    summary = json.loads((tmp_path / "short" / "summary.json").read_text())
    assert (summary["iterations"], summary["completions"]) == (3, 36)
    assert summary["peak_memory_bytes"] > 10**7
    assert summary["checkpoint"] == "checkpoints/000003"
    assert "finished" in go(run_file, tmp_path, "stop.completions=30", name="short")[1]
    go(run_file, tmp_path, name="whole")
    assert [r["env_runners"] for r in lines(tmp_path / "whole")[:3]] == [
        r["env_runners"] for r in lines(tmp_path / "short")
    ]


def test_a_run_leaves_everything_it_promises(run_file: Path, tmp_path: Path) -> None:
    code, text = go(run_file, tmp_path / "runs", "config.evaluation_interval=4", name="one", seed=5)
    folder = tmp_path / "runs" / "one"
    assert code == 0
    rows = lines(folder)
    assert [r["training_iteration"] for r in rows] == list(range(1, 9))
    assert all("config" not in r and r["learners"]["default_policy"]["kl"] is None for r in rows)
    summary = json.loads((folder / "summary.json").read_text())
    assert not [key for key in WANTED if key not in summary]
    assert summary["iterations"] == 8
    assert summary["completions"] == 8 * 2 * 2 * 3
    assert summary["test_questions"] == 20
    density = [r["groups"]["reward_density"] for r in rows]
    assert summary["reward_density"] == pytest.approx(sum(density) / 8, abs=1e-12)
    assert summary["accuracy_before"] == 0.2
    assert summary["accuracy_by_kind"]["counting"]["blind"] == pytest.approx(0.1)
    assert summary["warm_start"]["format_rate"] == 1.0
    assert (folder / summary["export"] / "model.safetensors").exists()
    predictions = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [row["question_index"] for row in predictions] == list(range(20))
    assert sum(row["correct"] for row in predictions) / 20 == summary["accuracy_after"]
    assert (folder / summary["checkpoint"] / "state.json").exists()
    assert (folder / summary["best_checkpoint"]).is_dir()
    params = json.loads((folder / "params.json").read_text())
    assert params["seed"] == 5
    assert params["config"]["num_generations"] == 3
    assert params["versions"]["torch"]
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["000004", "000007", "000008"]
    assert "blind" in text
    assert "iteration 8/8" in text
    tags = events(folder).Tags()
    assert len(tags["scalars"]) >= 10
    assert "groups/valid_advantage_ratio" in tags["scalars"]
    assert tags["images"] == ["rollouts/question_0", "rollouts/question_1"]
    assert tags["histograms"] == ["advantages/before_sharing", "advantages/after_sharing"]
    rollouts = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    assert [(r["training_iteration"], len(r["groups"])) for r in rollouts] == [(i, 2) for i in range(1, 9)]
    for row, result in zip(rollouts, rows, strict=True):
        said = [c for g in row["groups"] for slot in g["slots"] for c in slot["completions"]]
        assert sum(c["parts"]["accuracy"] for c in said) / 12 == pytest.approx(result["env_runners"]["accuracy"])
    assert [e.step for e in events(folder).Scalars("evaluation/accuracy")] == [0, 4, 8, 8]


def test_the_exported_model_has_a_card_that_hubs_read(run_file: Path, tmp_path: Path) -> None:
    sets = ["config.model=owner/base", "config.env_config.max_questions=50", "config.lr=1e-5"]
    go(run_file, tmp_path, *sets, name="one", seed=3)
    export = tmp_path / "one" / "export"
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    card = ModelCard((export / "README.md").read_text())
    assert card.data.base_model == "owner/base"
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "image-text-to-text"
    low, high = (100 * bound for bound in summary["confidence_interval_after"])
    after = 100 * summary["accuracy_after"]
    assert (
        f"| 20 held-out questions | 20.0 % | {after:.1f} % (95 % interval {low:.1f} % to {high:.1f} %) |" in card.text
    )
    assert str(tmp_path) not in card.content
    (settings,) = re.findall(r"```yaml\n(.*?)```", card.text, re.DOTALL)
    (tmp_path / "again.yaml").write_text(settings)
    again = load_run(tmp_path / "again.yaml")
    assert again.config == load_run(run_file, sets).config
    assert (again.run, again.env, again.stop) == ("ShareGRPO", "DrawnShapes-v0", {"training_iteration": 8})


def test_one_seed_gives_identical_numbers_and_another_does_not(run_file: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        go(run_file, tmp_path, name=name, seed=seed)
    a, b, c = (without_clocks({"rows": lines(tmp_path / n)}) | {"w": digest(tmp_path / n)} for n in "abc")
    assert [without_clocks(r) for r in a["rows"]] == [without_clocks(r) for r in b["rows"]]
    assert a["w"] == b["w"]
    assert a["w"] != c["w"]


def test_a_finished_run_says_so_and_stays_as_it_is(run_file: Path, tmp_path: Path) -> None:
    go(run_file, tmp_path, name="one")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "one").rglob("*") if p.is_file()}
    code, text = go(run_file, tmp_path, name="one")
    assert code == 0
    assert "finished" in text
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "one").rglob("*") if p.is_file()} == before


def test_other_settings_are_named_and_nothing_is_touched(run_file: Path, tmp_path: Path) -> None:
    go(run_file, tmp_path, name="one")
    content = (tmp_path / "one" / "result.json").read_bytes()
    for sets, options, words in (
        (["config.lr=3e-4"], {}, ["config.lr", "0.0003"]),
        (["stop.training_iteration=9"], {}, ["stop.training_iteration"]),
        ([], {"seed": 4}, ["seed"]),
        ([], {"imports": {"r.py": "abc"}}, ["imports.r.py"]),
        ([], {"resume": "never"}, ["already holds a run", "--name"]),
    ):
        with pytest.raises(UserError) as caught:
            go(run_file, tmp_path, *sets, name="one", **options)
        assert all(word in str(caught.value) for word in words), str(caught.value)
    assert (tmp_path / "one" / "result.json").read_bytes() == content


def test_without_a_name_runs_do_not_collide(run_file: Path, tmp_path: Path) -> None:
    for sets in ([], [], ["config.lr=3e-4"]):
        assert go(run_file, tmp_path, *sets)[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["stand_in", "stand_in-2", "stand_in-3"]


def test_a_failure_before_the_first_iteration_leaves_nothing(run_file: Path, tmp_path: Path) -> None:
    def bad_data(spec: Any, seed: int) -> StandIn:
        raise UserError("row 3: empty answer")

    class NoEvaluation(StandIn):
        def evaluate_accuracy(self, blind: bool = False) -> Any:
            raise UserError("no test split")

    for build in (bad_data, NoEvaluation):
        with pytest.raises(UserError):
            go(run_file, tmp_path / "runs", name="bad", build=build)
        assert not (tmp_path / "runs").exists()


def test_a_failure_later_keeps_what_there_is_and_stops_the_algorithm(run_file: Path, tmp_path: Path) -> None:
    class FailsAtFour(StandIn):
        instances: ClassVar[list[StandIn]] = []

        def train(self) -> dict[str, Any]:
            FailsAtFour.instances.append(self)
            if self.iteration == 3:
                raise RuntimeError("a bug of ours")
            return super().train()

    with pytest.raises(RuntimeError, match="a bug"):
        go(run_file, tmp_path, name="one", build=FailsAtFour)
    assert FailsAtFour.instances[0].stopped
    assert len(lines(tmp_path / "one")) == 3
    go(run_file, tmp_path, name="alone")
    assert go(run_file, tmp_path, name="one")[0] == 0
    assert digest(tmp_path / "one") == digest(tmp_path / "alone")


def test_with_sparse_checkpoints_results_are_cut_back(run_file: Path, tmp_path: Path) -> None:
    sets = ["config.checkpoint_interval=3"]
    code, text = go(run_file, tmp_path, *sets, name="one", build=ending_after(5, KeyboardInterrupt))
    assert code == 130
    assert "--resume auto" in text
    assert len(lines(tmp_path / "one")) == 5
    assert go(run_file, tmp_path, *sets, name="one")[0] == 0
    go(run_file, tmp_path, *sets, name="alone")
    assert [without_clocks(r) for r in lines(tmp_path / "one")] == [
        without_clocks(r) for r in lines(tmp_path / "alone")
    ]
    assert digest(tmp_path / "one") == digest(tmp_path / "alone")
    steps = [e.step for e in events(tmp_path / "one").Scalars("env_runners/accuracy")]
    assert steps == list(range(1, 9))


def test_a_run_killed_before_its_first_checkpoint_is_measured_anew(run_file: Path, tmp_path: Path) -> None:
    """Its warm start is in the cache by then: the first start's seconds are none of the second's."""
    sets = ["config.checkpoint_interval=0"]
    with pytest.raises(RuntimeError):
        go(run_file, tmp_path, *sets, name="one", build=ending_after(5, RuntimeError))
    before = tmp_path / "one" / "before.json"
    before.write_text(json.dumps(json.loads(before.read_text()) | {"warm_start_seconds": 1000.0}))
    assert go(run_file, tmp_path, *sets, name="one")[0] == 0
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert 0 < summary["seconds_without_warm_start"] < 1000


def test_a_relative_storage_path_works_and_resumes(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert go(run_file, Path("runs"), name="one")[0] == 0
    (tmp_path / "runs" / "one" / "summary.json").unlink()
    assert go(run_file, Path("runs"), name="one")[0] == 0


def test_an_algorithm_that_miscounts_is_our_bug(run_file: Path, tmp_path: Path) -> None:
    class Miscounts(StandIn):
        def train(self) -> dict[str, Any]:
            return super().train() | {"training_iteration": 7}

    with pytest.raises(RuntimeError, match="iteration 7 where 1"):
        go(run_file, tmp_path, name="one", build=Miscounts)
    assert not (tmp_path / "one").exists()


# whole processes


def start(file: Path, storage: Path, name: str, slow: float) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(file), str(storage), name, "--slow", str(slow)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for_lines(folder: Path, number: int, process: subprocess.Popen) -> None:
    results = folder / "result.json"
    deadline = time.monotonic() + 250
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        if results.exists() and results.read_bytes().count(b"\n") >= number:
            return
        if ended:
            break
        time.sleep(0.002)
    raise AssertionError(f"no {number} lines: {process.communicate()}")


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_is_bit_equal(run_file: Path, tmp_path: Path) -> None:
    go(run_file, tmp_path, name="alone")
    moments = random.Random(0)
    firsts = set()
    for kill in range(3):
        process = start(run_file, tmp_path, "killed", slow=0.02)
        wait_for_lines(tmp_path / "killed", 1 + 2 * kill, process)
        time.sleep(moments.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(1.1)  # event files are ordered by the second in their names
        firsts.add((tmp_path / "killed" / "result.json").read_bytes().split(b"\n")[0])
    assert go(run_file, tmp_path, name="killed")[0] == 0
    ours, theirs = lines(tmp_path / "alone"), lines(tmp_path / "killed")
    assert [without_clocks(r) for r in theirs] == [without_clocks(r) for r in ours]
    assert digest(tmp_path / "alone") == digest(tmp_path / "killed")
    firsts.add((tmp_path / "killed" / "result.json").read_bytes().split(b"\n")[0])
    assert len(firsts) == 1
    summaries = [json.loads((tmp_path / n / "summary.json").read_text()) for n in ("alone", "killed")]
    assert without_clocks(summaries[0]) == without_clocks(summaries[1])
    steps = [e.step for e in events(tmp_path / "killed").Scalars("env_runners/accuracy")]
    assert steps == list(range(1, 9))
    assert not list((tmp_path / "killed").glob(".*"))
    rollouts = [(tmp_path / name / "rollouts.jsonl").read_bytes() for name in ("alone", "killed")]
    assert rollouts[0] == rollouts[1]


@pytest.mark.parametrize("kept", ["checkpoint without its line", "line torn", "summary missing"])
def test_states_between_two_writes_are_resumed(run_file: Path, tmp_path: Path, kept: str) -> None:
    go(run_file, tmp_path, name="one")
    folder = tmp_path / "one"
    expected = [without_clocks(r) for r in lines(folder)], digest(folder)
    (folder / "summary.json").unlink()
    results = folder / "result.json"
    content = results.read_bytes()
    if kept == "checkpoint without its line":
        results.write_bytes(b"".join(content.splitlines(keepends=True)[:-1]))
    elif kept == "line torn":
        results.write_bytes(content[:-20])
    assert go(run_file, tmp_path, name="one")[0] == 0
    assert ([without_clocks(r) for r in lines(folder)], digest(folder)) == expected
    assert (folder / "summary.json").exists()


def test_killed_before_the_first_iteration_begins_again(run_file: Path, tmp_path: Path) -> None:
    process = start(run_file, tmp_path, "early", slow=5.0)
    deadline = time.monotonic() + 250
    while not (tmp_path / "early" / "before.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert go(run_file, tmp_path, name="early", seed=3)[0] == 0
    assert json.loads((tmp_path / "early" / "params.json").read_text())["seed"] == 3


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_a_signal_saves_and_says_how_to_resume(run_file: Path, tmp_path: Path, number: int, code: int) -> None:
    process = start(run_file, tmp_path, "stopped", slow=0.5)
    wait_for_lines(tmp_path / "stopped", 2, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=250)
    assert process.returncode == code, (out, err)
    assert "--name stopped --resume auto" in " ".join(out.split())
    assert "Traceback" not in out + err
    done = len(lines(tmp_path / "stopped"))
    assert 2 <= done < 8
    checkpoints = sorted(p.name for p in (tmp_path / "stopped" / "checkpoints").iterdir())
    assert int(checkpoints[-1]) == done
    assert go(run_file, tmp_path, name="stopped")[0] == 0
    go(run_file, tmp_path, name="alone")
    assert digest(tmp_path / "alone") == digest(tmp_path / "stopped")
