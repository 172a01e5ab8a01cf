"""A search without Ray's processes: draws, journal, replay to a fresh scheduler, one trial's folder, what is written."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from stand_in_algorithm import StandIn

from sharegrpo_rl.cli import run
from sharegrpo_rl.config.search import SearchKey
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.runs.run_file import load_run
from sharegrpo_rl.search.draws import on_step, planned_values
from sharegrpo_rl.search.file import SearchSpec, load_search
from sharegrpo_rl.search.journal import Journal, SearchFolder, decide_search, search_params
from sharegrpo_rl.search.results import best_trial, write_results

SEARCH = """
mine:
  run: ShareGRPO
  env: DrawnShapes-v0
  stop: {training_iteration: 9}
  config:
    num_questions: 8
    num_generations: {grid_search: [4, 6]}
    lr: {loguniform: [1e-5, 1e-3]}
    clip_high: {uniform: [0.2, 0.5]}
    minibatch_size: {quniform: [2, 8, 2]}
    env_config: {kinds: {choice: [[counting], [color]]}}
    evaluation_interval: 1
    evaluation_questions: 20
  tune: {num_samples: 6, scheduler: asha, scheduler_options: {grace_period: 2, reduction_factor: 2}}
"""


def load(folder: Path, *sets: str, text: str = SEARCH) -> SearchSpec:
    path = folder / "search.yaml"
    path.write_text(text)
    return load_search(path, sets)


# ---- draws


def test_draws_follow_from_the_seed_stay_in_bounds_and_differ(tmp_path: Path) -> None:
    spec = load(tmp_path, "tune.num_samples=100")
    planned = planned_values(spec, 3)
    assert planned == planned_values(spec, 3) != planned_values(spec, 4)
    assert len({json.dumps(list(values.values())) for values in planned}) == len(planned) == 200
    assert [values["config", "num_generations"] for values in planned[:4]] == [4, 6, 4, 6]
    for values in planned:
        assert 1e-5 <= values["config", "lr"] <= 1e-3
        assert 0.2 <= values["config", "clip_high"] <= 0.5
        assert values["config", "minibatch_size"] in (2, 4, 6, 8)
        assert isinstance(values["config", "minibatch_size"], int)
        assert values["config", "env_config", "kinds"] in (["counting"], ["color"])
    # Half of a loguniform range by its logarithm.
    assert 0.4 < sum(values["config", "lr"] < 1e-4 for values in planned) / 200 < 0.6


def test_more_trials_keep_the_values_of_the_first_ones(tmp_path: Path) -> None:
    few, many = load(tmp_path, "tune.num_samples=2"), load(tmp_path, "tune.num_samples=5")
    assert planned_values(many, 0)[:4] == planned_values(few, 0)


def test_an_exhausted_space_is_named(tmp_path: Path) -> None:
    fixed = ["config.lr=1e-4", "config.clip_high=0.3", "config.minibatch_size=4"]
    assert len(planned_values(load(tmp_path, *fixed, "tune.num_samples=2"), 0)) == 4
    with pytest.raises(UserError, match="only 4 different settings") as caught:
        planned_values(load(tmp_path, *fixed, "tune.num_samples=3"), 0)
    assert "tune.num_samples" in str(caught.value)


@given(st.floats(-10, 10))
def test_on_step_gives_a_value_of_the_range(value: float) -> None:
    whole = on_step(SearchKey(("config", "x"), "quniform", (2, 8, 2)), value)
    assert whole in (2, 4, 6, 8)
    assert isinstance(whole, int)
    assert on_step(SearchKey(("config", "x"), "quniform", (0.1, 0.3, 0.1)), value) in (0.1, 0.2, 0.3)


# ---- options


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["tune.scheduler_options={grace: 2}"], ["tune.scheduler_options.grace", "grace_period"]),
        (["tune.scheduler_options={grace_period: 0}"], ["grace_period", "at least 1"]),
        (["tune.scheduler_options={reduction_factor: 1}"], ["reduction_factor", "above 1"]),
        (["tune.scheduler_options={grace_period: 9}"], ["grace_period", "9", "stop.training_iteration"]),
        (["tune.scheduler=none"], ["tune.scheduler_options", "no scheduler"]),
        (["tune.scheduler=pbt"], ["tune.scheduler_options.grace_period", "no such key"]),
        (["config.evaluation_interval=9"], ["config.evaluation_interval", "lower it"]),
        (["tune.scheduler=pbt", "tune.scheduler_options={quantile_fraction: 0.6}"], ["quantile_fraction", "0.5"]),
        (["tune.scheduler=pbt", "tune.scheduler_options=null"], ["config.env_config.kinds", "pbt"]),
        (
            ["tune.scheduler=pbt", "tune.scheduler_options=null", "tune.searcher=optuna", "config.num_generations=4"],
            ["tune.searcher", "pbt"],
        ),
        (["tune.metric=evaluation/accurcy"], ["tune.metric", "evaluation/accuracy"]),
        (["tune.max_failures=-1"], ["tune.max_failures", "at least 0"]),
    ],
)
def test_bad_settings_are_one_line_and_leave_nothing(
    tmp_path: Path, sets: list[str], words: list[str], capsys: pytest.CaptureFixture
) -> None:
    load(tmp_path)
    options = [part for text in sets for part in ("--set", text)]
    code = run(
        ["tune", str(tmp_path / "search.yaml"), "--name", "x", "--storage-path", str(tmp_path / "runs"), *options]
    )
    said = capsys.readouterr().err
    assert code == 2
    assert said.count("\n") == 1
    for word in words:
        assert word in said
    assert not (tmp_path / "runs").exists()


def test_too_many_trials_for_the_space_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    load(tmp_path)
    sets = ["--set", "config.lr=1e-4", "--set", "config.clip_high=0.3", "--set", "config.minibatch_size=4"]
    assert run(["tune", str(tmp_path / "search.yaml"), "--storage-path", str(tmp_path / "runs"), *sets]) == 2
    assert "different settings" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


# ---- the journal


EVENTS = [
    {"event": "trial", "trial": "0001", "values": {"config.lr": 0.1}, "seconds": 1.0},
    {"event": "result", "trial": "0001", "iteration": 1, "score": 0.5, "completions": 7, "decision": "CONTINUE", "seconds": 2},
    {"event": "failure", "trial": "0001", "error": "oh", "seconds": 3},
    {"event": "result", "trial": "0001", "iteration": 2, "score": None, "completions": 7, "decision": "CONTINUE", "seconds": 4},
    {"event": "trial", "trial": "0002", "values": {"config.lr": 0.2}, "seconds": 5},
    {"event": "result", "trial": "0002", "iteration": 1, "score": 0.25, "completions": 7, "decision": "STOP", "seconds": 6},
    {"event": "end", "trial": "0002", "status": "stopped", "seconds": 6},
    {"event": "result", "trial": "0001", "iteration": 3, "score": 0.75, "completions": 7, "decision": "STOP", "seconds": 8},
    {"event": "end", "trial": "0001", "status": "finished", "seconds": 8},
]  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(cut=st.integers(0, 2000))
def test_a_journal_cut_anywhere_reads_as_its_whole_lines(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "events.jsonl"
    path.unlink(missing_ok=True)
    journal = Journal(path, planned=3)
    journal.append(*EVENTS)
    content = path.read_bytes()[:cut]
    path.write_bytes(content)
    whole = Journal(path, planned=3)
    assert whole.events == journal.events[: content.count(b"\n")]
    rest = journal.events[len(whole.events) :]
    whole.repair()  # writes an end where only the result survived
    whole.append(*[event for event in rest if event not in whole.events and event["event"] != "end"])
    whole.repair()
    last = Journal(path, planned=3)
    assert {n: (t.status, t.iterations, t.score) for n, t in last.trials.items()} == {
        "0001": ("finished", 3, 0.75),
        "0002": ("stopped", 1, 0.25),
    }
    assert last.completions == 28
    assert last.trials["0001"].failures == 1


# ---- replay: a search in one process, cut after any event, ends as the unbroken one


@dataclass(eq=False)
class FakeTrial:
    trial_id: str
    config: dict[str, Any]


class Controller:
    """Tune's loop without processes: trials one after another, `figure(values, iteration)` for their scores."""

    def __init__(self, spec: SearchSpec, path: Path, figure: Callable[[dict[str, Any], int], float]) -> None:
        from sharegrpo_rl.search.draws import OptunaDraws, PlannedDraws
        from sharegrpo_rl.search.scheduler import JournaledScheduler, TrialSource, make_scheduler

        class Source(TrialSource):
            def _trial(self, name: str) -> Any:
                return FakeTrial(name, self.journal.trials[name].values)

        self.spec, self.figure = spec, figure
        self.journal = Journal(path, spec.base.iterations)
        self.journal.repair()
        self.scheduler = JournaledScheduler(make_scheduler(spec, None), self.journal, 0)
        optuna = spec.options["searcher"] == "optuna"
        draws = OptunaDraws(spec, 0) if optuna else PlannedDraws(spec, 0)
        self.source = Source(None, draws, self.scheduler, spec.trials, 1)

    def run(self, most: int = 10**9) -> bool:
        """Go on until the end (True), or until the journal has `most` events (False)."""
        self.source.replay()
        while (trial := self.source.next_trial()) is not None:
            self.scheduler.on_trial_add(self, trial)
            for iteration in range(self.journal.trials[trial.trial_id].iterations + 1, self.spec.base.iterations + 1):
                if len(self.journal.events) >= most:
                    return False
                if not self._goes_on(trial, iteration):
                    break
        return True

    def _goes_on(self, trial: Any, iteration: int) -> bool:
        result = {"iteration": iteration, "completions": 1, "score": self.figure(trial.config, iteration)}
        done = iteration == self.spec.base.iterations
        decision = "STOP" if done else self.scheduler.on_trial_result(self, trial, result)
        if decision == "STOP":
            self.scheduler.on_trial_complete(self, trial, {**result, "done": True})
            self.source.on_trial_complete(trial.trial_id, result)
        else:
            self.source.on_trial_result(trial.trial_id, result)
        return decision == "CONTINUE"


def figure(values: dict[str, Any], iteration: int) -> float:
    noise = random.Random(f"{values} {iteration}").random()
    return values["config.clip_high"] * iteration / 9 + 0.1 * noise


SCHEDULERS = {
    "asha": [],
    "asha_brackets": ["tune.scheduler_options.brackets=2"],
    "median": ["tune.scheduler=median_stopping", "tune.scheduler_options={min_samples_required: 2}"],
    "optuna": ["tune.searcher=optuna", "config.num_generations=4", "tune.num_samples=16"],
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_search_broken_at_any_event_ends_like_the_unbroken_one(tmp_path: Path, name: str) -> None:
    spec = load(tmp_path, *SCHEDULERS[name])
    whole = Controller(spec, tmp_path / "whole.jsonl", figure)
    assert whole.run()
    statuses = {trial.status for trial in whole.journal.trials.values()}
    assert statuses == {"finished", "stopped"}
    for most in range(1, len(whole.journal.events), 11):
        path = tmp_path / "broken.jsonl"
        path.unlink(missing_ok=True)
        Controller(spec, path, figure).run(most)
        content = path.read_bytes()
        path.write_bytes(content[:-3] if most % 2 else content)  # torn, or whole
        again = Controller(spec, path, figure)
        assert again.run()
        assert again.journal.trials == whole.journal.trials
    assert best_trial(whole.journal, "max") == best_trial(again.journal, "max")


def test_optuna_learns_from_results(tmp_path: Path) -> None:
    spec = load(
        tmp_path, *SCHEDULERS["optuna"], "tune.num_samples=40", "tune.scheduler=none", "tune.scheduler_options=null"
    )
    search = Controller(spec, tmp_path / "events.jsonl", figure)
    assert search.run()
    values = [trial.values["config.clip_high"] for trial in search.journal.trials.values()]
    assert sum(values[-10:]) / 10 > sum(values[:10]) / 10 + 0.05


def test_values_that_another_version_would_draw_are_named(tmp_path: Path) -> None:
    spec = load(tmp_path)
    Controller(spec, tmp_path / "events.jsonl", figure).run(5)
    text = (tmp_path / "events.jsonl").read_text()
    (tmp_path / "events.jsonl").write_text(text.replace('"config.num_generations": 4', '"config.num_generations": 6'))
    with pytest.raises(UserError, match="0001 has other values"):
        Controller(spec, tmp_path / "events.jsonl", figure).run()


# ---- one trial


def make_trial(spec: SearchSpec, folder: Path, name: str = "0001", delivered: int = 0, **more: Any) -> Any:
    from sharegrpo_rl.search.trial import SearchTrial, SharedSettings

    paths, metric = tuple(key.path for key in spec.space), spec.options["metric"]
    shared = SharedSettings("mine", spec.tree, paths, metric, 0, str(folder), 4, {}, (), StandIn)
    values = {"config.num_generations": 4, "config.lr": 1e-3, "config.clip_high": 0.3, "config.minibatch_size": 4}
    values |= {"config.env_config.kinds": ["counting"], **more.pop("values", {})}
    return SearchTrial(config={"shared": shared, "trial": name, "delivered": delivered, **values, **more})


def test_a_trial_tells_what_is_stored_and_then_goes_on(tmp_path: Path) -> None:
    spec = load(tmp_path)
    whole = make_trial(spec, tmp_path / "whole")
    reports = [whole.step() for _ in range(9)]
    whole.cleanup()
    assert [r["iteration"] for r in reports] == list(range(1, 10))
    assert [r["done"] for r in reports] == [False] * 8 + [True]
    assert all(r["completions"] == 8 * 2 * 4 for r in reports)

    broken = make_trial(spec, tmp_path / "broken")
    assert [broken.step() for _ in range(4)] == reports[:4]
    broken.cleanup()
    resumed = make_trial(spec, tmp_path / "broken", delivered=2)  # two reports were lost on their way
    assert [resumed.step() for _ in range(7)] == reports[2:]
    resumed.cleanup()
    one, other = (tmp_path / name / "trials" / "0001" / "result.json" for name in ("whole", "broken"))
    skills = [
        [json.loads(line)["learners"]["default_policy"]["skill"] for line in path.read_text().splitlines()]
        for path in (one, other)
    ]
    assert skills[0] == skills[1]
    params = json.loads((tmp_path / "broken" / "trials" / "0001" / "params.json").read_text())
    assert (params["trial"], params["config"]["lr"], params["lineage"]) == ("0001", 1e-3, [])


def test_a_trial_measures_its_last_iteration(tmp_path: Path) -> None:
    trial = make_trial(load(tmp_path, "config.evaluation_interval=4"), tmp_path / "s")
    reports = [trial.step() for _ in range(9)]
    trial.cleanup()
    assert [r["iteration"] for r in reports if "score" in r] == [4, 8, 9]


def test_a_trial_adopts_another_s_state_once(tmp_path: Path) -> None:
    spec = load(tmp_path)
    donor = make_trial(spec, tmp_path, "0001", values={"config.lr": 3e-2})
    weak = make_trial(spec, tmp_path, "0002")
    for trial in (donor, weak):
        for _ in range(3):
            trial.step()
    (tmp_path / "checkpoint").mkdir()
    donor.save_checkpoint(str(tmp_path / "checkpoint"))
    donor.step()  # the donor goes on meanwhile
    for trial in (donor, weak):
        trial.cleanup()
    state = tmp_path / "trials" / "0001" / "checkpoints" / "000003" / "state.json"
    skill = json.loads(state.read_text())["skill"]
    for delivered in (3, 4):  # begun again after one iteration: it must not adopt twice
        taker = make_trial(
            spec, tmp_path, "0002", delivered, adopt={"donor": "0001", "iteration": 3}, values={"config.lr": 2e-2}
        )
        taker.step()
        taker.cleanup()
    rows = [json.loads(line) for line in (tmp_path / "trials" / "0002" / "result.json").read_text().splitlines()]
    assert [row["training_iteration"] for row in rows] == [1, 2, 3, 4, 5]
    skills = [row["learners"]["default_policy"]["skill"] for row in rows]
    assert skills[2] < skill  # its own past stays
    for before, row, now in zip([skill, skills[3]], rows[3:], skills[3:], strict=True):
        assert now - before == pytest.approx(2e-2 * (1 + row["env_runners"]["accuracy"]), rel=1e-9)
    params = json.loads((tmp_path / "trials" / "0002" / "params.json").read_text())
    assert params["lineage"] == [{"donor": "0001", "iteration": 3}]
    assert params["config"]["lr"] == 2e-2


def test_a_failing_trial_leaves_its_traceback(tmp_path: Path) -> None:
    def broken(spec: Any, seed: int) -> Any:
        raise ValueError("no such luck")

    trial = make_trial(load(tmp_path), tmp_path / "s")
    trial.shared = replace(trial.shared, build=broken)
    with pytest.raises(ValueError, match="luck"):
        trial.step()
    trial.cleanup()
    assert (tmp_path / "s" / "errors" / "0001.txt").read_text().strip().endswith("ValueError: no such luck")
    assert not (tmp_path / "s" / "trials" / "0001").exists()


# ---- what a search leaves


@pytest.fixture
def searched(tmp_path: Path) -> tuple[SearchSpec, SearchFolder, Journal]:
    spec = load(tmp_path)
    folder = SearchFolder(tmp_path / "runs" / "mine")
    folder.path.mkdir(parents=True)
    search = Controller(spec, folder.path / "events.jsonl", figure)
    search.run()
    folder.write_json("search_params.json", search_params(spec, 0, {}))
    for name, record in search.journal.trials.items():
        lines = [
            json.dumps({"training_iteration": i, "evaluation": {"accuracy": figure(record.values, i)}})
            for i in range(1, record.iterations + 1)
        ]
        (folder.path / "trials" / name).mkdir(parents=True)
        (folder.path / "trials" / name / "result.json").write_text("\n".join(lines) + "\n")
    return spec, folder, search.journal


def test_results_name_every_trial_and_train_takes_the_best_file(searched: Any, capsys: pytest.CaptureFixture) -> None:
    spec, folder, journal = searched
    console = Console(width=160)
    write_results(spec, 0, folder, journal, "all trials", console)
    results = json.loads((folder.path / "search.json").read_text())
    assert [t["name"] for t in results["trials"]] == [f"{i:04d}" for i in range(1, 13)]
    assert {"metric", "mode", "seed", "versions", "best"} <= set(results)
    finished = [t for t in results["trials"] if t["status"] == "finished"]
    assert results["best"]["metric"] == max(t["metric"] for t in finished)
    assert run(["train", str(folder.path / "best.yaml"), "--dry-run"]) == 0
    run_spec = load_run(folder.path / "best.yaml")
    values = journal.trials[results["best"]["name"]].values
    expected = spec.trial({tuple(key.split(".")): value for key, value in values.items()})
    assert run_spec.config == expected.config
    printed = capsys.readouterr().out
    assert all(t["name"] in printed for t in results["trials"])
    for name in ("parallel_coordinates.png", "learning_curves.png"):
        with Image.open(folder.path / name) as picture:
            assert picture.width > 500
            assert len(picture.convert("RGB").getcolors(maxcolors=10**6)) > 50


def test_a_finished_search_is_left_alone_and_other_settings_are_named(searched: Any, tmp_path: Path) -> None:
    spec, folder, journal = searched
    write_results(spec, 0, folder, journal, "all trials", Console(quiet=True))
    params = search_params(spec, 0, {})
    assert decide_search(folder, params, spec.options, "auto") == "finished"
    with pytest.raises(UserError, match="already holds a search"):
        decide_search(folder, params, spec.options, "never")
    other = load(tmp_path, "tune.scheduler_options.grace_period=3", "tune.max_concurrent=1")
    with pytest.raises(UserError, match=r"tune\.scheduler_options\.grace_period \(there 2, now 3\)"):
        decide_search(folder, search_params(other, 0, {}), other.options, "auto")
    spent = load(tmp_path, "tune.budget={completions: 50}")
    write_results(spent, 0, folder, journal, "budget", Console(quiet=True))
    assert decide_search(folder, params, spent.options, "auto") == "finished"
    assert decide_search(folder, params, spec.options, "auto") == "resume"
