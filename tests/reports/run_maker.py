"""Small finished runs written to disk as `train` leaves them, on real questions of drawn shapes, with chosen verdicts."""

import json
from pathlib import Path

import numpy as np

from sharegrpo_rl.envs.registry import make_env
from sharegrpo_rl.evaluation.report import EvaluationRecord, make_report
from sharegrpo_rl.runs.folder import run_params
from sharegrpo_rl.runs.run_file import load_run

QUESTIONS = 40
RUN_FILE = """
shapes:
  run: {run}
  env: DrawnShapes-v0
  stop: {{training_iteration: 4}}
  config: {{num_questions: 4, num_generations: 3, evaluation_questions: 40, env_config: {{max_questions: 200}}}}
"""


def make_records(right: np.ndarray, text: str = "<answer>{}</answer>") -> list[EvaluationRecord]:
    """A verdict for each of the first test questions."""
    env = make_env("DrawnShapes-v0", {"max_questions": 200}, split="test", check=False)
    records = []
    for i, good in enumerate(right):
        question = env.bank[i]
        said = question.answer if good else "no <b>&"
        records.append(
            EvaluationRecord(
                question.id,
                i,
                question.subtask,
                0,
                said,
                question.answer,
                float(good),
                True,
                False,
                7,
                text.format(said),
                question=question.question,
                image_keys=(f"image {i // 2}",),
            )
        )
    return records


class RunMaker:
    """Writes run folders; every number in them follows from algorithm, seed and accuracy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, algorithm: str = "GRPO") -> Path:
        path = self.folder / f"{algorithm}.yaml"
        path.write_text(RUN_FILE.format(run=algorithm))
        return path

    def run(
        self,
        algorithm: str = "GRPO",
        seed: int = 0,
        accuracy: float = 0.6,
        *,
        sets: tuple[str, ...] = (),
        finished: bool = True,
        predictions: bool = True,
        before: float | None = None,
        name: str | None = None,
        text: str = "<answer>{}</answer>",
    ) -> Path:
        spec = load_run(self.file(algorithm), sets)
        path = self.folder / "runs" / (name or f"{algorithm.lower()}-{seed}")
        path.mkdir(parents=True)
        random = np.random.default_rng(seed)
        right = random.permutation(np.arange(QUESTIONS) < round(accuracy * QUESTIONS))
        start = 0.3 + 0.01 * seed if before is None else before
        report = make_report(make_records(right, text), "think_answer", blind=False)
        first = {**report.summary(), "accuracy": start}
        rows = [_row(i, seed) for i in range(1, 5 if finished else 3)]
        self._write(path, "params.json", run_params(spec, seed, {}))
        self._write(path, "before.json", {"evaluation": first, "warm_start": None, "warm_start_seconds": 0.0})
        (path / "result.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if finished:
            self._write(path, "summary.json", _summary(algorithm, seed, start, report, rows))
            if predictions:
                (path / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in report.rows()))
        return path

    @staticmethod
    def _write(path: Path, name: str, value: object) -> None:
        (path / name).write_text(json.dumps(value))


def _row(iteration: int, seed: int) -> dict:
    return {
        "training_iteration": iteration,
        "env_runners": {
            "num_completions": 12,
            "sampled_tokens": 80,
            "reward_parts": {"accuracy": 0.1 * iteration, "format": 1.0},
            "completion_length_mean": 7.0 + seed,
        },
        "groups": {
            "valid_advantage_ratio": 0.5,
            "reward_density": 0.4,
            "solved_ratio": 0.75,
            "kinds": {
                "color": {
                    "num_groups": 3,
                    "valid_advantage_ratio": 1 / 3,
                    "reward_density": 0.5,
                    "solved_ratio": 2 / 3,
                },
                "form": dict.fromkeys(("num_groups", "valid_advantage_ratio", "reward_density", "solved_ratio")),
                "counting": {"num_groups": 1, "valid_advantage_ratio": 0.0, "reward_density": 1.0, "solved_ratio": 1.0},
            },
        },
        "learners": {"default_policy": {"kl": 0.0, "entropy": 0.5 / iteration}},
        "iteration_seconds": 2.0 + seed,
        "run_seconds": 10.0 * iteration,
        "peak_memory_bytes": 2_000_000_000,
    }


def _summary(algorithm: str, seed: int, before: float, report: object, rows: list) -> dict:
    kinds = {
        kind: {"questions": entry["questions"], "before": 0.3, "after": entry["accuracy"], "blind": 0.1}
        for kind, entry in report.by_kind.items()
    }
    return {
        "algorithm": algorithm,
        "env": "DrawnShapes-v0",
        "seed": seed,
        "iterations": len(rows),
        "seconds_of_training": sum(r["iteration_seconds"] for r in rows),
        "seconds_without_warm_start": 40.0,
        "accuracy_before": before,
        "accuracy_after": report.accuracy,
        "gain": report.accuracy - before,
        "blind_accuracy_after": 0.1,
        "accuracy_by_kind": kinds,
        "accuracy_by_task": {},
        "format_rate_after": 1.0,
        "test_questions": QUESTIONS,
        "extractor": "think_answer",
        "valid_advantage_ratio": 0.5,
        "reward_density": 0.4,
        "solved_ratio": 0.75,
        "completions": 12 * len(rows),
        "sampled_tokens": 80 * len(rows),
        "peak_memory_bytes": 2_000_000_000,
    }
