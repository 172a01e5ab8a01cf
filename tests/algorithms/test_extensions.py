"""The files of docs/extending.md: registered from outside, they train here and in remote workers, and solve the task."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from two_answers import ITERATIONS, two_answer_options, write_two_answers

from sharegrpo_rl.algorithms.registry import ALGORITHMS, build_config
from sharegrpo_rl.cli.listing import print_listing
from sharegrpo_rl.config.presets import ALGORITHM_OPTIONS, PRESETS
from sharegrpo_rl.config.registry import LOSSES, SELECTIONS, register_loss
from sharegrpo_rl.config.user_code import IMPORTED, UserCode, import_user_files, is_user_file
from sharegrpo_rl.errors import UserError

PAGE = Path(__file__).resolve().parents[2] / "docs/extending.md"
FILES = {
    code.splitlines()[0].removeprefix("# "): code
    for code in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
}
RUN_FILE = """
outside:
  run: RLOO
  env: DrawnShapes-v0
  stop: {training_iteration: 2}
  config:
    model: tiny
    model_config: {hidden_size: 32, num_layers: 1, num_heads: 2, num_kv_heads: 1, vision_layers: 1, patch_size: 14}
    min_pixels: 784
    max_pixels: 784
    warm_start: {rows: 64, steps: 4, batch_size: 8}
    num_questions: 2
    num_generations: 2
    max_prompt_tokens: 256
    max_completion_tokens: 16
    loss: cispo
    selection: hard_half
    max_generation_batches: 1
    evaluation_questions: 4
    env_config: {kinds: [color], max_questions: 200}
    num_env_runners: 1
    num_learners: 1
"""
TABLES = (ALGORITHMS, ALGORITHM_OPTIONS, PRESETS, LOSSES.user_functions, SELECTIONS.user_functions)


@pytest.fixture
def registered(tmp_path):
    """Every file of the page, imported; the tables are as before afterwards."""
    tables, imported, modules = [dict(table) for table in TABLES], list(IMPORTED), set(sys.modules)
    import_user_files(write_files(tmp_path))
    yield
    for table, before in zip(TABLES, tables, strict=True):
        table.clear()
        table.update(before)
    IMPORTED[:] = imported
    for name in set(sys.modules) - modules:
        if is_user_file(name):
            del sys.modules[name]


def write_files(folder):
    for name, code in FILES.items():
        (folder / name).write_text(code)
    return [folder / name for name in FILES]


def test_a_method_and_a_loss_cost_a_few_lines():
    assert {"rloo.py", "cispo.py"} < set(FILES)
    assert all(len(code.splitlines()) <= 25 for code in FILES.values())


def test_registered_names_are_known_everywhere(registered, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for topic, word in [("algorithms", "the mean of the others"), ("losses", "cispo"), ("selections", "hard_half")]:
        print_listing(topic, None)
        assert word in capsys.readouterr().out
    print_listing("options", "ScaledRLOO")
    assert "factor on each advantage" in capsys.readouterr().out
    config = build_config("ScaledRLOO", "DrawnShapes-v0", {"advantage_factor": 2, "loss": "cispo"}, 0)
    assert (config.advantage_factor, config.num_generations, config.algo_class) == (2.0, 4, ALGORITHMS["ScaledRLOO"])
    assert isinstance(config, ALGORITHMS["GRPO"].Config)
    with pytest.raises(
        UserError, match=r"loss: no loss 'cisp'; did you mean cispo\? \(known: clipped, likelihood, cispo"
    ):
        config.training(loss="cisp")
    with pytest.raises(UserError, match=r"advantage_factor: 0\.0 is too small"):
        config.training(advantage_factor=0.0)


def test_a_config_of_a_user_s_method_travels_by_value(registered):
    """A process that has never seen the file can read it; there the name is not taken for a user's module."""
    config = build_config("ScaledRLOO", "DrawnShapes-v0", {"advantage_factor": 2}, 0)
    config.user_code = UserCode.of_this_process()
    text = ray.cloudpickle.dumps(config)
    code = (
        "import sys, pickle; config = pickle.loads(sys.stdin.buffer.read()); config.user_code.load();"
        "print(config.name, config.advantage_factor, config.to_options().advantage_factor, config.algo_class.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=text, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    assert done.stdout.decode().split()[-4:] == ["ScaledRLOO", "2.0", "2.0", "ScaledRLOO"]


def test_functions_of_a_script_are_part_of_the_user_s_code(registered):
    def flat(batch, options):
        """The plain policy gradient."""
        return -batch.logprobs * batch.advantages, {}

    register_loss("flat")(flat)
    code = UserCode.of_this_process()
    assert [Path(file).name for file in code.files[-len(FILES) :]] == list(FILES)
    assert (LOSSES, "flat", flat) in code.functions
    assert all(name != "cispo" for _, name, _ in code.functions)
    del LOSSES.user_functions["flat"]
    code.load()
    assert LOSSES.load("flat") is flat
    with pytest.raises(UserError, match="loss 'clipped' is registered already"):
        register_loss("clipped")(flat)


OUTSIDE = {
    "RLOO": ("RLOO", {}),
    "CISPO": ("GRPO", {"loss": "cispo", "minibatch_size": 8}),
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", OUTSIDE)
def test_a_method_from_outside_solves_the_task(method, registered, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = write_two_answers(tmp_path / "two_answers")
    run, changes = OUTSIDE[method]
    algo = build_config(run, "MultimodalQA-v0", two_answer_options(folder, **changes), seed=0).build_algo()
    try:
        assert algo.evaluate_accuracy().accuracy < 0.75
        results = [algo.train() for _ in range(ITERATIONS)]
        assert algo.evaluate_accuracy().accuracy > 0.9
    finally:
        algo.stop()
        ray.shutdown()
    learner = results[-1]["learners"]["default_policy"]
    assert method != "CISPO" or 0 < learner["cispo_weight"] <= 1.2


def command_line(folder, *arguments):
    """Run the program with every file of the page imported; fails with its output."""
    imports = [part for file in write_files(folder) for part in ("--import", str(file))]
    environment = {
        **os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "sharegrpo_rl.cli", *arguments, *imports]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_train_takes_them_to_remote_runners_and_learners(tmp_path):
    (tmp_path / "run.yaml").write_text(RUN_FILE)
    command_line(tmp_path, "train", "run.yaml", "--name", "outside")
    folder = tmp_path / "runs/outside"
    rows = [json.loads(line) for line in (folder / "result.json").read_text().splitlines()]
    assert [row["training_iteration"] for row in rows] == [1, 2]
    assert all("kept_ratio" in row["selection"] for row in rows)
    assert set(FILES) == set(json.loads((folder / "params.json").read_text())["imports"])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_tune_takes_them_and_data_by_a_relative_path_to_its_trials(tmp_path):
    write_two_answers(tmp_path / "data")
    search = RUN_FILE.replace("num_learners: 1", "lr: {uniform: [1e-5, 1e-4]}").replace("DrawnShapes", "MultimodalQA")
    search = search.replace("env_config: {kinds: [color], max_questions: 200}", "env_config: {data: data}")
    assert "data: data" in search
    (tmp_path / "run.yaml").write_text(search + "  tune: {num_samples: 2, searcher: random, max_concurrent: 1}\n")
    command_line(tmp_path, "tune", "run.yaml")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_compare_takes_them_to_its_runs(tmp_path):
    local = RUN_FILE.replace("num_env_runners: 1", "num_env_runners: 0").replace("num_learners: 1", "num_learners: 0")
    (tmp_path / "rloo.yaml").write_text(local)
    (tmp_path / "grpo.yaml").write_text(local.replace("run: RLOO", "run: GRPO"))
    command_line(
        tmp_path,
        *("compare", "rloo.yaml", "grpo.yaml", "--seeds", "2", "--confidence", "0.8", "--jobs", "1", "--out", "out"),
    )
