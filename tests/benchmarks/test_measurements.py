"""The measurement scripts at tiny sizes: their JSON lines, and that unequal sides are not compared."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"
TINY = ("--small", "--image", "56", "--group", "2", "--tokens", "3", "--completions", "4", "--repeats", "1")
SECONDS = {"cpu_s", "cpu_s_iqr", "wall_s", "wall_s_iqr", "peak_mb"}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
needs_trl = pytest.mark.skipif(find_spec("trl") is None, reason="trl is not installed (uv sync --group benchmark)")

# Importing torch and transformers takes longer than a tiny measurement: several share a process.
SEVERAL = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
for words in json.loads(sys.argv[2]):
    importlib.import_module(words[0]).main(words[1:])
"""

WRONG_LOSS = """
import sys
sys.path.insert(0, sys.argv[1])
import rows
right = rows.clipped_loss
rows.clipped_loss = lambda given, logprobs: right(given, logprobs) * 1.001
import learner_step
learner_step.main(sys.argv[2:])
"""


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def start(*words):
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


def lines(*measurements):
    """The JSON line of each measurement, all run in one process."""
    done = start("-c", SEVERAL, str(SCRIPTS), json.dumps([[name, *TINY, *words] for name, *words in measurements]))
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [f["measurement"] for f in found] == [name for name, *_ in measurements]
    return found


@pytest.fixture(scope="module")
def results():
    """Every kind of measurement against padded rows; the memory first, whose processes are copies."""
    share = ("learner_step", "--share", "2")
    return lines(
        ("memory", "--peer", "naive", "--vocabulary", "2048"),
        ("learner_step", "--peer", "naive"),
        ("generate", "--peer", "naive"),
        ("iteration", "--peer", "naive", "--image", "0"),
        (*share, "--ragged", "2..5"),
        (*share, "--against", "grpo"),
        (*share, "--against", "grpo", "--transform-probability", "1"),
        ("learner_step", "--bare"),
        ("learner_step", "--peer", "naive", "--hybrid"),
    )


@pytest.mark.slow
def test_results_have_both_sides_and_say_what_was_run(results):
    for result in results[1:4]:
        assert set(result["ours"]) == set(result["peer"]) == SECONDS
        assert result["speedup"] == pytest.approx(result["peer"]["cpu_s"] / result["ours"]["cpu_s"], rel=0.02)
        assert result["peer_name"] == "naive"
        assert result["parameters"] | {"group": 2, "tokens": 3, "seed": 0, "repeats": 1} == result["parameters"]
        assert result["completion_tokens"] == 12
        assert result["threads"] == 1
        assert set(result["versions"]) == {"torch", "transformers", "trl"}


@pytest.mark.slow
def test_equal_steps_are_checked_before_they_are_timed(results):
    memory, step, _, iteration, ragged, *_ = results
    for result in (memory, step, iteration, ragged):
        assert result["checked"]["ours"] == pytest.approx(result["checked"]["peer"], rel=1e-5)
    assert (step["packs"], step["pairs"], step["images"]) == (2, 4, 2)


@pytest.mark.slow
def test_a_hybrid_takes_the_step_of_its_rows(results):
    hybrid = results[-1]
    assert hybrid["parameters"]["hybrid"]
    assert hybrid["checked"]["ours"] == pytest.approx(hybrid["checked"]["peer"], rel=1e-5)


@pytest.mark.slow
def test_a_peer_with_another_loss_is_refused():
    done = start("-c", WRONG_LOSS, str(SCRIPTS), *TINY)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "refused: the loss of ours is " in done.stderr


@pytest.mark.slow
def test_share_grpo_trains_every_completion_under_every_variant(results):
    ragged, same, moved = results[4:7]
    assert (ragged["packs"], ragged["pairs"], ragged["parameters"]["ragged"]) == (2, 8, [2, 5])
    assert (same["pairs"], same["images"], moved["images"]) == (8, 1, 2)


@pytest.mark.slow
def test_ratios_are_seconds_of_ours_to_those_of_the_other(results):
    for result in results[5:8]:
        assert result["ratio"] == pytest.approx(result["ours"]["cpu_s"] / result["peer"]["cpu_s"], rel=0.02)


@pytest.mark.slow
def test_memory_of_a_step_in_fresh_processes(results):
    memory = results[0]
    assert set(memory["ours"]) == set(memory["peer"]) == {"peak_mb", "peak_mb_iqr"}
    assert memory["largest_tensor"]["numel"] > 0
    assert memory["largest_tensor"]["tokens_x_vocabulary"] == 12 * 2048


@needs_trl
def test_trl_as_the_peer():
    step, generation, iteration = lines(
        ("learner_step", "--peer", "trl"), ("generate", "--peer", "trl"), ("iteration", "--peer", "trl")
    )
    for result in (step, generation, iteration):
        assert set(result["ours"]) == set(result["peer"]) == SECONDS
        assert result["versions"]["trl"]
    assert step["checked"]["ours"] == pytest.approx(step["checked"]["peer"], rel=1e-5)
