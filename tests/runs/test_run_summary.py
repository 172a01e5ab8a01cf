"""Best checkpoints, pictures of groups, example names, progress texts."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console
from stand_in_algorithm import RUN_FILE, StandIn

from sharegrpo_rl.config import GRPOOptions
from sharegrpo_rl.config.metrics import best_iteration, check_metric
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.report import EvaluationRecord, make_report
from sharegrpo_rl.runs.display import build_summary, closing_table, describe
from sharegrpo_rl.runs.examples import find_run_file, list_examples
from sharegrpo_rl.runs.journal import ResultLog
from sharegrpo_rl.runs.loggers import WIDTH, draw_group, flat_scalars
from sharegrpo_rl.runs.run_file import load_run

EVALUATED = GRPOOptions(evaluation_interval=2)
UNEVALUATED = GRPOOptions()


def test_the_best_checkpoint_is_the_best_evaluated_one() -> None:
    rows = [{"env_runners": {"accuracy": a}} for a in (0.1, 0.9, 0.2, 0.3)]
    rows[1]["evaluation"] = {"accuracy": 0.5}
    rows[3]["evaluation"] = {"accuracy": 0.6}
    assert best_iteration(rows, [1, 2, 3, 4], EVALUATED) == 4
    assert best_iteration(rows, [1, 2, 3], EVALUATED) == 2
    assert best_iteration(rows, [1, 3], EVALUATED) is None
    rows[1]["evaluation"]["accuracy"] = 0.6
    assert best_iteration(rows, [2, 4], EVALUATED) == 2  # the earlier of equals


def test_without_evaluation_training_accuracy_is_smoothed() -> None:
    rows = [{"env_runners": {"accuracy": a}} for a in (0.1, 0.9, 0.2, 0.8, 0.9)]
    assert best_iteration(rows, [1, 2, 3, 4, 5], UNEVALUATED) == 5
    assert best_iteration(rows, [1, 3], UNEVALUATED) == 3
    assert best_iteration([{}], [1], UNEVALUATED) is None


def test_the_best_checkpoint_by_a_metric_of_ones_own() -> None:
    rows = [
        {"learners": {"default_policy": {"kl": kl}}, "evaluation": {"accuracy": 0.1 * kl}} for kl in (3.0, 1.0, 2.0)
    ]
    least = GRPOOptions(best_metric="learners/default_policy/kl", best_mode="min")
    assert best_iteration(rows, [1, 2, 3], least) == 2
    assert best_iteration(rows, [1, 3], least) == 3
    assert best_iteration(rows, [1, 2, 3], least.model_copy(update={"best_mode": "max"})) == 1
    check_metric("best_metric", "learners/default_policy/kl", least)
    with pytest.raises(UserError, match="did you mean learners/default_policy/kl"):
        check_metric("best_metric", "learners/default_policy/kll", least)


def test_the_flat_form_of_a_result_has_finite_names() -> None:
    tree = {"training_iteration": 3, "a": {"b": {"c": 1}, "d": True, "e": None}, "f": 2.0, "g": "word"}
    assert flat_scalars(tree) == {"a/b/c": 1.0, "f": 2.0}


def test_a_group_becomes_a_picture_that_shows_right_and_wrong(tmp_path) -> None:
    (tmp_path / "run.yaml").write_text(RUN_FILE)
    algorithm = StandIn(load_run(tmp_path / "run.yaml"), seed=0)
    algorithm.skill = 0.5
    group = algorithm._sample(0, 3)
    picture = draw_group(group, algorithm.question(3))
    assert picture.width == WIDTH
    pixels = np.asarray(picture)[:, WIDTH // 3 :]
    green = (pixels[..., 1].astype(int) - pixels[..., 0] > 60).sum()
    red = (pixels[..., 0].astype(int) - pixels[..., 1] > 60).sum()
    assert (green > 0) == (group.accuracies == 1).any()
    assert (red > 0) == (group.accuracies < 1).any()


def test_examples_are_found_by_path_and_by_short_name(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    examples = list_examples()
    assert examples["share_grpo/drawn_shapes-tiny"] == find_run_file("share_grpo/drawn_shapes-tiny")
    assert find_run_file("multimodal_qa-qwen2_5_vl_7b").name == "multimodal_qa-qwen2_5_vl_7b.yaml"
    assert find_run_file("tuned_examples/grpo/drawn_shapes-tiny.yaml") == examples["grpo/drawn_shapes-tiny"]
    (tmp_path / "mine.yaml").write_text("x")
    assert find_run_file("mine.yaml").read_text() == "x"
    with pytest.raises(UserError, match="a folder"):
        find_run_file(str(tmp_path))


def test_iterations_are_readable() -> None:
    text = describe({"env_runners": {"reward_mean": 0.5}, "evaluation": {"accuracy": 0.25}})
    assert "reward 0.500" in text
    assert "accuracy -" in text
    assert "greedy 0.250" in text


def test_supervised_training_is_described_by_its_loss() -> None:
    update = {"default_policy": {"policy_loss": 0.5}}
    text = describe({"taught_tokens_per_second": 1200.0, "learners": update, "evaluation": {"accuracy": 0.25}})
    assert text == "loss 0.5000  1,200 tok/s  greedy 0.250"


def test_tasks_stand_in_summary_and_table(tmp_path) -> None:
    def report(right: int):
        records = [
            EvaluationRecord(f"q{i}", i, "", 0, "1", "1", float(i < right), True, False, 5, "1", task=task)
            for task, number in (("counting", 4), ("geometry", 6))
            for i in range(number)
        ]
        return make_report(records, "think_answer", blind=False).summary()

    (tmp_path / "run.yaml").write_text(RUN_FILE)
    before = {"evaluation": report(1), "warm_start": None, "warm_start_seconds": 0.0}
    results = ResultLog(tmp_path / "result.json")
    summary = build_summary(load_run(tmp_path / "run.yaml"), 0, results, before, report(3), report(0), 1.0)
    assert summary["accuracy_by_task"] == {
        "counting": {"questions": 4, "before": 0.25, "after": 0.75, "blind": 0.0},
        "geometry": {"questions": 6, "before": pytest.approx(1 / 6), "after": 0.5, "blind": 0.0},
    }
    text = io.StringIO()
    Console(file=text, width=120).print(closing_table(summary))
    assert text.getvalue().count("geometry") == 1
    assert flat_scalars({"evaluation": report(3)})["evaluation/by_task/geometry/accuracy"] == 0.5
