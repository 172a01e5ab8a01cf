"""A search over the stand-in algorithm, as a program that tests can kill:  stand_in_search.py FILE STORAGE NAME ...

The environment tells its trials what to do: STAND_IN_LOG (a file that gets a line for every trained iteration),
STAND_IN_SLOW (seconds of an iteration), STAND_IN_FAIL (`raise` or `die`: once, `always`: each time; in the third iteration
of the trial whose learning rate is STAND_IN_FAIL_LR).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))
from stand_in_algorithm import StandIn

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.runs.run_file import RunSpec, TrainOptions
from sharegrpo_rl.search.file import load_search
from sharegrpo_rl.search.run import run_search

SEARCH_FILE = """
stand_in:
  run: ShareGRPO
  env: DrawnShapes-v0
  stop: {training_iteration: 8}
  config:
    num_questions: 2
    num_generations: {choice: [3, 4]}
    lr: {loguniform: [1e-4, 3e-2]}
    evaluation_interval: 1
    evaluation_questions: 100
  tune: {num_samples: 6, max_concurrent: 1, max_failures: 1}
"""


class Logged(StandIn):
    """The stand-in, with a record of what was trained, and with failures on demand."""

    def train(self) -> dict[str, Any]:
        self.slow = float(os.environ.get("STAND_IN_SLOW", "0"))
        result = super().train()
        self._fail()
        if log := os.environ.get("STAND_IN_LOG"):
            with open(log, "a") as file:
                file.write(f"{self.spec.config['lr']!r} {self.iteration} {self.skill!r}\n")
        return result

    def _fail(self) -> None:
        how, rate = os.environ.get("STAND_IN_FAIL"), float(os.environ.get("STAND_IN_FAIL_LR", "0"))
        if how is None or self.iteration != 3 or self.spec.config["lr"] != rate:
            return
        marker = Path(os.environ["STAND_IN_LOG"] + ".failed")
        if how != "always":
            if marker.exists():
                return
            marker.touch()
        if how == "die":
            os._exit(9)
        raise ValueError("a failure that a test asked for")


def build(spec: RunSpec, seed: int) -> Logged:
    return Logged(spec, seed)


def main() -> int:
    """Search with the stand-in as the command line would."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("storage", type=Path)
    parser.add_argument("name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    try:
        spec = load_search(options.file, options.set)
        wanted = TrainOptions(storage_path=options.storage, name=options.name, seed=options.seed)
        return run_search(spec, wanted, Console(), build=build, prepare=None)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    import stand_in_search  # under its own name, which Ray's workers can import

    sys.exit(stand_in_search.main())
