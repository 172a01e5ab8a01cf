"""The proof kit for a borrowed GPU, on the CPU: each stage runs, with sizes that mean nothing, and leaves its results."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_proof.py"


@pytest.fixture
def proof(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu_proof

    return gpu_proof


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_every_stage_runs_and_is_kept(tmp_path):
    out = tmp_path / "proof.json"
    subprocess.run([sys.executable, SCRIPT, "--out", out, "--tiny", "--skip", "runs"], check=True)
    found = json.loads(out.read_text())
    stages = {stage["stage"]: stage for stage in found["stages"]}
    assert {name: (s["status"], s["output"]) for name, s in stages.items() if s["status"] != "ok"} == {}
    assert [r["side"] for r in stages["step"]["results"]] == [
        "ours+checkpointed", "ours+compiled+checkpointed", "ours+products",
    ]  # fmt: skip
    assert stages["profile"]["results"][0]["kernels"]
    assert found["facts"]["versions"]["torch"]
    assert ("vllm" in stages) == (find_spec("vllm") is not None)
    if "vllm" in stages:
        (measured,) = stages["vllm"]["results"]
        assert (measured["fault"], measured["fault_after_sync"]) == (None, None)
        assert measured["same_answers"] is True


@pytest.mark.slow  # the limit leaves a busy machine time to start Python
def test_a_stage_that_takes_too_long_is_ended(proof):
    sleeps = proof.Stage(
        "sleeps", "nothing", ("-c", "print('{\"a\": 1}', flush=True); import time; time.sleep(600)"), 30.0
    )
    found = proof.prove(sleeps)
    assert found["status"] == "ended after 30 s"
    assert found["results"] == [{"a": 1}]


def test_a_stage_that_fails_keeps_its_last_words(proof):
    found = proof.prove(proof.Stage("fails", "nothing", ("-c", "print('{not json'); raise SystemExit('no GPU')"), 60.0))
    assert (found["status"], found["results"]) == ("exit code 1", [])
    assert found["output"] == ["{not json", "no GPU"]


def test_unknown_stages_and_no_time_left(proof, tmp_path):
    with pytest.raises(SystemExit, match="no such stage: stepp"):
        proof.main(["--out", str(tmp_path / "x.json"), "--only", "stepp"])
    proof.main(["--out", str(tmp_path / "x.json"), "--only", "doctor", "--minutes", "0.1"])
    assert json.loads((tmp_path / "x.json").read_text())["stages"] == [{"stage": "doctor", "status": "no time left"}]
