"""Whole searches through Ray Tune, as programs: killed and resumed, failing, early stopping, PBT, the real command."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from stand_in_search import SEARCH_FILE

from sharegrpo_rl.runs.run_file import load_run
from sharegrpo_rl.search.draws import planned_values
from sharegrpo_rl.search.file import load_search

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
HERE = Path(__file__).parent
SEED = 4  # its first trial is a good one, so that ASHA has something to stop
ASHA = ["tune.scheduler=asha", "tune.scheduler_options={grace_period: 2, reduction_factor: 2}"]
PBT = ["tune.scheduler=pbt", "tune.scheduler_options={perturbation_interval: 3}", "tune.num_samples=4"]


class Place:
    """A folder with a search file, and the ways to start a search in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "search.yaml"
        self.file.write_text(SEARCH_FILE)

    def start(self, name: str, *sets: str, **settings: str) -> subprocess.Popen:
        environment = {
            **os.environ,
            "RAY_AUTH_MODE": "disabled",
            "OMP_NUM_THREADS": "1",
            "NO_COLOR": "1",
            "COLUMNS": "200",
            "STAND_IN_LOG": str(self.folder / f"{name}.log"),
            **settings,
        }
        program = [
            sys.executable,
            str(HERE / "stand_in_search.py"),
            str(self.file),
            str(self.folder),
            name,
            "--seed",
            str(SEED),
        ]
        options = [part for text in sets for part in ("--set", text)]
        output = (self.folder / f"{name}.out").open("a")
        return subprocess.Popen([*program, *options], env=environment, stdout=output, stderr=output)

    def search(self, name: str, *sets: str, **settings: str) -> dict[str, Any]:
        code = self.start(name, *sets, **settings).wait(timeout=1200)
        assert code == 0, self.said(name)
        assert "Traceback" not in self.said(name), self.said(name)
        return self.results(name)

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.out").read_text()

    def results(self, name: str) -> dict[str, Any]:
        return json.loads((self.folder / name / "search.json").read_text())

    def trained(self, name: str) -> Counter:
        """How often each (learning rate, iteration) was trained."""
        return Counter(tuple(line.split()[:2]) for line in (self.folder / f"{name}.log").read_text().splitlines())

    def rows(self, name: str, trial: str) -> list[dict[str, Any]]:
        lines = (self.folder / name / "trials" / trial / "result.json").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def rate(self, trial: int) -> str:
        return repr(planned_values(load_search(self.file), SEED)[trial - 1]["config", "lr"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("searches"))


@pytest.fixture(scope="module")
def unbroken(place: Place) -> dict[str, Any]:
    return place.search("unbroken", *ASHA)


def figures(results: dict[str, Any]) -> list[Any]:
    return [(t["name"], t["config"], t["status"], t["iterations"], t["metric"]) for t in results["trials"]]


def test_asha_stops_some_trials_and_the_best_runs_to_its_end(place: Place, unbroken: dict[str, Any]) -> None:
    statuses = Counter(trial["status"] for trial in unbroken["trials"])
    assert set(statuses) == {"finished", "stopped"}
    assert all(t["iterations"] < 8 for t in unbroken["trials"] if t["status"] == "stopped")
    best = unbroken["best"]
    assert best["metric"] == max(t["metric"] for t in unbroken["trials"] if t["status"] == "finished")
    for trial in unbroken["trials"]:
        rows = place.rows("unbroken", trial["name"])
        assert [row["training_iteration"] for row in rows] == list(range(1, trial["iterations"] + 1))
        assert rows[-1]["evaluation"]["accuracy"] == trial["metric"]
    spec = load_run(place.folder / "unbroken" / "best.yaml")
    assert {key: spec.config[key] for key in best["config"]} == best["config"]


@pytest.mark.parametrize("more", [[], ["tune.searcher=optuna"]], ids=["random", "optuna"])
def test_a_killed_search_goes_on_to_the_same_end(place: Place, more: list[str], unbroken: dict[str, Any]) -> None:
    whole = place.search("whole_optuna", *ASHA, *more) if more else unbroken
    name = f"killed_{len(more)}"
    running = place.start(name, *ASHA, *more, STAND_IN_SLOW="0.3")
    log = place.folder / f"{name}.log"
    deadline = time.monotonic() + 600
    # Far enough that one trial is over and another under way.
    while not (log.exists() and len(place.trained(name)) >= 12):
        assert running.poll() is None, place.said(name)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (place.folder / name / "search.json").exists()
    resumed = place.search(name, *ASHA, *more)
    assert figures(resumed) == figures(whole)
    assert resumed["best"]["name"] == whole["best"]["name"]
    again = [entry for entry, times in place.trained(name).items() if times > 1]
    assert len(again) <= 1, again  # the iteration that the kill came into
    assert sum(place.trained(name).values()) <= sum(trial["iterations"] for trial in whole["trials"]) + 1


@pytest.mark.parametrize("how", ["raise", "die"])
def test_a_failed_trial_goes_on_from_its_checkpoint(place: Place, how: str, unbroken: dict[str, Any]) -> None:
    settings = {"STAND_IN_FAIL": how, "STAND_IN_FAIL_LR": place.rate(4)}  # ASHA lets it run to its end
    results = place.search(f"failing_{how}", *ASHA, **settings)
    assert figures(results) == figures(unbroken)
    assert [trial["failures"] for trial in results["trials"]] == [0, 0, 0, 1, 0, 0]
    assert max(place.trained(f"failing_{how}").values()) == 1
    assert "starts again from its checkpoint" in place.said(f"failing_{how}")


def test_a_trial_that_always_fails_is_given_up_and_the_others_go_on(place: Place) -> None:
    settings = {"STAND_IN_FAIL": "always", "STAND_IN_FAIL_LR": place.rate(2)}
    results = place.search("hopeless", **settings)
    assert [t["status"] for t in results["trials"]] == ["finished", "failed", *["finished"] * 4]
    assert "a failure that a test asked for" in results["trials"][1]["error"]
    assert (results["trials"][1]["failures"], results["trials"][1]["iterations"]) == (1, 2)


def test_pbt_takes_over_the_donor_s_state_and_varies_its_values(place: Place) -> None:
    results = place.search("pbt", *PBT, "config.num_generations=3")
    took = [trial for trial in results["trials"] if trial["adopted"]]
    assert took
    skills = {}
    for line in (place.folder / "pbt.log").read_text().splitlines():
        rate, iteration, skill = line.split()
        skills[float(rate), int(iteration)] = float(skill)
    for trial in took:
        entry = trial["adopted"][0]
        donor = next(t for t in results["trials"] if t["name"] == entry["donor"])
        assert entry["iteration"] in (3, 6)
        first = json.loads((place.folder / "pbt" / "events.jsonl").read_text().splitlines()[int(donor["name"]) - 1])
        assert first["trial"] == donor["name"]
        rate_of_donor = first["values"]["config.lr"]
        changed = entry["values"]["config.lr"]
        assert changed != rate_of_donor
        assert 1e-4 <= changed <= 3e-2
        row = place.rows("pbt", trial["name"])[entry["iteration"]]
        grown = row["learners"]["default_policy"]["skill"] - skills[rate_of_donor, entry["iteration"]]
        # One iteration of the stand-in adds lr (1 + its accuracy), up to 0.95.
        expected = changed * (1 + row["env_runners"]["accuracy"])
        capped = row["learners"]["default_policy"]["skill"] == 0.95
        assert capped or math.isclose(grown, expected, rel_tol=1e-9)
    assert all(trial["iterations"] == 8 for trial in results["trials"])


def test_a_killed_pbt_goes_on_to_the_same_end(place: Place) -> None:
    whole = place.search("pbt_whole", *PBT)
    running = place.start("pbt_killed", *PBT, STAND_IN_SLOW="0.2")
    log = place.folder / "pbt_killed.log"
    deadline = time.monotonic() + 600
    while not (log.exists() and len(place.trained("pbt_killed")) >= 15):
        assert running.poll() is None, place.said("pbt_killed")
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    resumed = place.search("pbt_killed", *PBT)
    assert figures(resumed) == figures(whole)
    assert [t["adopted"] for t in resumed["trials"]] == [t["adopted"] for t in whole["trials"]]


def test_a_budget_of_completions_ends_the_search_and_a_larger_one_goes_on(place: Place) -> None:
    short = place.search("budget", "tune.budget={completions: 100}")
    assert short["ended"] == "budget"
    assert 100 <= short["completions"] <= 100 + 16
    assert short["best"] is not None
    same = place.search("budget", "tune.budget={completions: 100}")
    assert same == short
    longer = place.search("budget", "tune.budget={completions: 400}")
    assert longer["completions"] >= min(400, 6 * 8 * 12)
    assert max(place.trained("budget").values()) <= 2


def test_ctrl_c_keeps_what_there_is(place: Place) -> None:
    running = place.start("stopped", STAND_IN_SLOW="0.3")
    while not ((place.folder / "stopped.log").exists() and len(place.trained("stopped")) >= 10):
        assert running.poll() is None, place.said("stopped")
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=300) == 130
    assert place.results("stopped")["ended"] == "interrupted"
    assert "--resume auto" in place.said("stopped")
    assert "Traceback" not in place.said("stopped")
