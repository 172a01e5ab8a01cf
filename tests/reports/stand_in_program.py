"""`train` and `evaluate` as child processes see them, on the stand-in algorithm of tests."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rich.console import Console
from stand_in_algorithm import StandIn

from sharegrpo_rl.runs.run_file import TrainOptions, load_run
from sharegrpo_rl.runs.train import train


def main() -> int:
    command, target, *words = sys.argv[1:]
    given = {words[i]: words[i + 1] for i in range(len(words) - 1) if words[i].startswith("--")}
    if command == "evaluate":
        out = Path(given["--out"])
        out.mkdir(parents=True)
        (out / "result.json").write_text(json.dumps({"accuracy": 0.25, "model": target, "data": given["--data"]}))
        return 0
    sets = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    if "config.lr=1e-3" in sets:
        print("error: this one ends badly", file=sys.stderr)
        return 2
    options = TrainOptions(storage_path=Path(given["--storage-path"]), name=given["--name"], seed=int(given["--seed"]))
    return train(load_run(Path(target), sets), options, Console(), build=StandIn)


if __name__ == "__main__":
    sys.exit(main())
