"""`--dry-run`: the resolved run as YAML and what it amounts to, without opening data or weights."""

from __future__ import annotations

import yaml

from sharegrpo_rl.models.measured_sizes import known_sizes
from sharegrpo_rl.planning.describe import short_lines
from sharegrpo_rl.planning.gpus import choose_gpu
from sharegrpo_rl.planning.plan import Request, make_plan
from sharegrpo_rl.tune.arithmetic import batch_arithmetic
from sharegrpo_rl.tune.result_log import as_json
from sharegrpo_rl.tune.run_file import RunSpec


def describe_run(spec: RunSpec, seed: int) -> str:
    """The text that `--dry-run` prints; it is a run file again, the counts stand in comments."""
    lines = yaml.safe_dump(as_json(spec.as_tree()), sort_keys=False, allow_unicode=True, width=120).splitlines()
    lines += ["", f"# seed {seed}"]
    counts = batch_arithmetic(spec.config, spec.iterations)
    lines += [f"# {name:<44} {count:>14,}" for name, count in counts.items()]
    lines += [f"# {line}" for line in _plan(spec)]
    return "\n".join(lines) + "\n"


def _plan(spec: RunSpec) -> list[str]:
    """Memory of each process where the model's sizes are known by its name: to count them takes torch."""
    sizes = known_sizes(spec.config["model"])
    if sizes is None:
        return ["memory and time: sharegrpo-rl plan"]
    return short_lines(make_plan(Request(spec.config, spec.iterations, sizes, choose_gpu(None, None))))
