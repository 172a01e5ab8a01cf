"""A small algorithm behind the train loop's protocol: real questions and reports, a policy of one number.

Also a program, so that tests can kill a whole training process:  stand_in_algorithm.py FILE STORAGE NAME [--slow S]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from sharegrpo_rl.data.types import Completion, Group, Prompt, PromptPack, SeedQuestion, Slot
from sharegrpo_rl.envs.registry import make_bank
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.report import EvaluationRecord, EvaluationReport, make_report
from sharegrpo_rl.runs.run_file import RunSpec, TrainOptions, load_run
from sharegrpo_rl.runs.train import train

RUN_FILE = """
stand_in:
  run: ShareGRPO
  env: DrawnShapes-v0
  stop: {training_iteration: 8}
  config: {num_questions: 2, num_generations: 3, evaluation_questions: 20}
"""


class StandIn:
    """A coin whose chance of a right answer grows; its state is the coin, the iteration and a random generator."""

    slow = 0.0

    def __init__(self, spec: RunSpec, seed: int) -> None:
        self.spec = spec
        self.bank = make_bank(spec.env, spec.config["env_config"], "train")
        self.random = np.random.default_rng(seed)
        self.skill = 0.2
        self.iteration = 0
        self.groups: list[Group] = []
        self.stopped = False

    def train(self) -> dict[str, Any]:
        time.sleep(self.slow)
        self.iteration += 1
        config = self.spec.config
        self.groups = [self._sample(i, int(self.random.integers(50))) for i in range(config["num_questions"])]
        accuracies = np.stack([g.accuracies for g in self.groups])
        self.skill = min(0.95, self.skill + config["lr"] * float(1 + accuracies.mean()))
        result = {
            "training_iteration": self.iteration,
            "config": {"a class": StandIn},
            "env_runners": {
                "reward_mean": float(accuracies.mean()),
                "accuracy": accuracies.mean(),
                "num_completions": int(accuracies.size),
                "sampled_tokens": np.int64(5 * accuracies.size),
            },
            "groups": {
                "valid_advantage_ratio": float(np.mean(np.ptp(accuracies, axis=(1, 2)) > 0)),
                "reward_density": float(accuracies.mean()),
                "solved_ratio": float(np.mean(accuracies.max(axis=(1, 2)))),
            },
            "learners": {"default_policy": {"skill": self.skill, "kl": float("nan")}},
            "tokens_per_second": 1000.0,
        }
        interval = config["evaluation_interval"]
        if interval and self.iteration % interval == 0:
            result["evaluation"] = self.evaluate_accuracy().summary()
        return result

    def _sample(self, number: int, index: int) -> Group:
        variants, samples = self.spec.config["num_variants"], self.spec.config["num_generations"]
        right = (self.random.random((variants, samples)) < self.skill).astype(float)
        question = self.bank[index]
        said = [[question.answer if x else "?" for x in row] for row in right]
        ids, logprobs = np.zeros(5, np.int64), np.zeros(5, np.float32)
        return Group(
            group=number,
            question_id=question.id,
            question_index=index,
            slots=tuple(Slot(v, v) for v in range(variants)),
            prompts=tuple(Prompt(np.zeros(1, np.int64)) for _ in range(variants)),
            completions=tuple(tuple(Completion(ids, logprobs, text) for text in row) for row in said),
            rewards=right,
            reward_parts={"accuracy": right},
            subtask=question.subtask,
        )

    def evaluate_accuracy(self, blind: bool = False) -> EvaluationReport:
        chance = 0.1 if blind else self.skill
        number = self.spec.config["evaluation_questions"]
        records = [
            EvaluationRecord(
                f"q{i}",
                i,
                "counting",
                0,
                "1",
                "1",
                float(i < chance * number),
                True,
                False,
                5,
                "1",
                image_keys=(f"{i}",),
            )
            for i in range(number)
        ]
        return make_report(records, "think_answer", blind=blind)

    def warm_start_report(self) -> dict[str, Any] | None:
        return {"steps": 3, "format_rate": 1.0, "seconds": 0.01, "by_kind": {"counting": 0.9}}

    def save_to_path(self, path: str) -> None:
        state = {"skill": self.skill, "iteration": self.iteration, "random": self.random.bit_generator.state}
        assert Path(path).is_absolute()  # as RLlib demands
        (Path(path) / "state.json").write_text(json.dumps(state))
        time.sleep(self.slow)
        (Path(path) / "state2.json").write_text(json.dumps(state))

    def check_storage(self, folder: Path) -> None:
        """In this process."""

    def restore_from_path(self, path: str) -> None:
        assert Path(path).is_absolute()
        state = json.loads((Path(path) / "state.json").read_text())
        assert state == json.loads((Path(path) / "state2.json").read_text())
        self.skill, self.iteration = state["skill"], state["iteration"]
        self.random.bit_generator.state = state["random"]

    def export(self, path: str) -> None:
        (Path(path) / "model.safetensors").write_text(f"{self.skill!r}")
        (Path(path) / "config.json").write_text('{"model_type": "stand_in", "vision_config": {}}')

    def sampled_groups(self) -> list[Group]:
        return self.groups

    def sampled_packs(self) -> list[PromptPack]:
        return [pack for group in self.groups for pack in packs_of(group)]

    def plain_packs(self) -> list[PromptPack]:
        return self.sampled_packs()

    def question(self, index: int) -> SeedQuestion:
        return self.bank[index]

    def parameter_table(self) -> list[tuple[str, int, int]]:
        return [("language model", 1, 1)]

    def stop(self) -> None:
        self.stopped = True


def packs_of(group: Group) -> list[PromptPack]:
    """Every completion under every prompt; a shared one has half the credit."""
    packs = []
    for k, slot in enumerate(group.slots):
        native = np.repeat(np.arange(len(group.slots)) == k, len(group.completions[0]))
        centred = (group.rewards - group.rewards.mean()).ravel()
        said = tuple(c for row in group.completions for c in row)
        packs.append(
            PromptPack(group.group, slot.slot, group.prompts[k], said, np.where(native, centred, centred / 2), native)
        )
    return packs


def main() -> int:
    """Train the stand-in as the command line would."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("storage", type=Path)
    parser.add_argument("name")
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    StandIn.slow = options.slow
    try:
        spec = load_run(options.file, options.set)
        wanted = TrainOptions(storage_path=options.storage, name=options.name)
        return train(spec, wanted, Console(), build=StandIn)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
