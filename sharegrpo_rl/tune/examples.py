"""Tuned examples by path or by short name; they travel in the wheel as `sharegrpo_rl/tuned_examples`."""

from __future__ import annotations

from pathlib import Path

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.tune.peer_names import closest


def examples_folder() -> Path:
    """Where the tuned examples lie: in the installed package, or beside it in a source tree."""
    package = Path(__file__).resolve().parent.parent
    shipped = package / "tuned_examples"
    return shipped if shipped.is_dir() else package.parent / "tuned_examples"


def list_examples() -> dict[str, Path]:
    """Every example by its short name (path without `.yaml`), sorted."""
    root = examples_folder()
    return {str(p.relative_to(root).with_suffix("").as_posix()): p for p in sorted(root.rglob("*.yaml"))}


def find_run_file(text: str) -> Path:
    """The file that a path or a short name (`share_grpo/drawn_shapes-tiny`, or its last part) means."""
    path = Path(text)
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f"{text}: a folder; name a run file in it")
    examples = list_examples()
    short = text.removesuffix(".yaml").removeprefix("tuned_examples/")
    if short in examples:
        return examples[short]
    same_end = [name for name in examples if name.rsplit("/", 1)[-1] == short]
    if len(same_end) == 1:
        return examples[same_end[0]]
    if same_end:
        raise UserError(f"{text}: several examples have this name; say {' or '.join(same_end)}")
    near = closest(short, examples)
    hint = f"did you mean the example {near}?" if near else "`sharegrpo-rl list` names the examples"
    raise UserError(f"{text}: no such file or tuned example; {hint}")
