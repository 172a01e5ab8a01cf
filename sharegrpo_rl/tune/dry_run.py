"""`--dry-run`: the resolved run as YAML and what it amounts to, without opening data or weights."""

from __future__ import annotations

import yaml

from sharegrpo_rl.tune.arithmetic import batch_arithmetic
from sharegrpo_rl.tune.result_log import as_json
from sharegrpo_rl.tune.run_file import RunSpec


def describe_run(spec: RunSpec, seed: int) -> str:
    """The text that `--dry-run` prints; it is a run file again, the counts stand in comments."""
    lines = yaml.safe_dump(as_json(spec.as_tree()), sort_keys=False, allow_unicode=True, width=120).splitlines()
    lines += ["", f"# seed {seed}"]
    counts = batch_arithmetic(spec.config, spec.iterations)
    lines += [f"# {name:<44} {count:>14,}" for name, count in counts.items()]
    return "\n".join(lines) + "\n"
