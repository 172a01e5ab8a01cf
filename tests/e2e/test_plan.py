"""`sharegrpo-rl plan`, and the short form in `train --dry-run`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sharegrpo_rl.cli import run

PLAN = """
mine:
  run: ShareGRPO
  env: MultimodalQA-v0
  stop: {training_iteration: 2}
  config:
    model: Qwen/Qwen2.5-VL-7B-Instruct
    dtype: bfloat16
    env_config: {data: questions.parquet}
    num_gpus_per_learner: 1
    num_gpus_per_env_runner: 1
    engine: vllm
    num_env_runners: 1
    num_learners: 1
"""


CHECKPOINTED = ["--set", "config.activation_checkpointing=full"]


@pytest.fixture
def run_file(tmp_path: Path) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(PLAN)
    return str(path)


@pytest.fixture(autouse=True)
def no_gpu_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own GPU is not looked for."""
    monkeypatch.setenv("PATH", "")


def test_the_exit_code_says_whether_it_fits(run_file: str, capsys: pytest.CaptureFixture) -> None:
    assert run(["plan", run_file]) == 0  # nothing to compare with
    assert run(["plan", run_file, "--gpu", "h100-80"]) == 1
    assert run(["plan", run_file, "--gpu", "h100-80", "--set", "config.lora.r=8", *CHECKPOINTED]) == 0
    assert run(["plan", run_file, "--gpu-memory", "400"]) == 0
    capsys.readouterr()
    assert run(["plan", run_file, "--gpu", "h1000"]) == 2
    assert run(["plan", run_file, "--gpu-memory", "400", "--set", "config.model=no/such"]) == 2
    error = capsys.readouterr().err
    assert "--gpu h1000: no such type" in error
    assert "model: the sizes of 'no/such' are not known here" in error


def test_a_shortfall_names_keys_and_values(run_file: str, capsys: pytest.CaptureFixture) -> None:
    run(["plan", run_file, "--gpu", "h100-80"])
    out = " ".join(capsys.readouterr().out.split())
    assert "learner, 1 GPU: " in out
    assert "DOES NOT FIT" in out
    assert re.search(r"would fit with .*sharding: fsdp2, num_learners: \d", out)
    assert "lora: {r: 64" in out
    assert "the learner at 30% of" in out


@pytest.mark.parametrize("columns", ["80", "100"])
def test_lines_keep_to_the_screen(
    run_file: str, columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    run(["plan", run_file, "--gpu", "h100-80"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= int(columns)


def test_json_is_one_object_with_every_part(run_file: str, capsys: pytest.CaptureFixture) -> None:
    assert run(["plan", run_file, "--gpu", "h100-80", "--json"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    plan = json.loads(line)
    assert plan["fits"] is False
    learner, engine = plan["processes"]
    assert learner["total"] == sum(p["bytes"] for p in learner["parts"] if p["phase"] in ("always", learner["height"]))
    assert engine["fits"] is True
    assert plan["model"]["total"] == 8_292_166_656
    assert any(way.get("sharding") == "fsdp2" for way in plan["remedies"]["learner"])
    assert plan["work"]["optimizer steps"] == 2
    assert plan["seconds"]["run"] > 0


def test_lengths_of_the_data_change_work_and_time(run_file: str, capsys: pytest.CaptureFixture) -> None:
    found = []
    for more in ([], ["--completion-tokens", "40", "--prompt-tokens", "300"]):
        run(["plan", run_file, "--gpu", "h100-80", "--json", *more])
        found.append(json.loads(capsys.readouterr().out))
    assert found[1]["work"]["tokens sampled an iteration"] == 16 * 2 * 6 * 40
    assert found[1]["seconds"]["run"] < found[0]["seconds"]["run"]


def test_the_tiny_model_is_planned_on_the_cpu(capsys: pytest.CaptureFixture) -> None:
    assert run(["plan", "share_grpo/drawn_shapes-tiny"]) == 0
    assert "driver: learner and hf generator, on the CPU: " in capsys.readouterr().out


def test_a_dry_run_has_the_short_form(run_file: str, capsys: pytest.CaptureFixture) -> None:
    assert run(["train", run_file, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^# memory of learner +\d+\.\d GiB$", out, re.MULTILINE)
    assert re.search(r"^# memory of env runner with vLLM +\d+\.\d GiB$", out, re.MULTILINE)
    assert yaml.safe_load(out)["mine"]["run"] == "ShareGRPO"


def test_the_plan_of_a_known_model_loads_no_torch(run_file: str) -> None:
    program = (
        "import sys\nfrom sharegrpo_rl.cli import run\n"
        f"code = run(['plan', {run_file!r}, '--gpu', 'h100-80'])\n"
        "heavy = [m for m in ('torch', 'ray', 'transformers', 'datasets') if m in sys.modules]\n"
        "sys.exit(2 if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr + done.stdout
