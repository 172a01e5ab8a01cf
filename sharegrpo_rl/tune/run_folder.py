"""The folder of one run: claimed by one process, written atomically, gone again when no iteration was reached.

Order of writing an iteration: the checkpoint (a temporary folder, then a rename), and only then its line in
result.json. Whoever sees a line can resume from it; it also lies in the checkpoint, for a kill between the two.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.tune.result_log import ResultLog, as_json

PREDICTIONS = "predictions.jsonl"
ROLLOUTS = "rollouts.jsonl"
LOGGED_AS = "logged_as.txt"  # the id at W&B or MLflow
OWN_FILES = (
    *("result.json", "params.json", "before.json", PREDICTIONS, ROLLOUTS, "summary.json", "checkpoints", "export"),
    *("report.html", LOGGED_AS, "wandb"),
)
STATE_FILE = "run_state.json"
REFUSALS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.EIO,
}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the system's refusals (full disk, permissions, a file in the way) into one line naming the path."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        place = error.filename if isinstance(error.filename, str) else path
        raise UserError(
            f"{place}: cannot be written ({error.strerror or error}); free space or give another --storage-path"
        ) from None
    except UserError:
        raise
    except Exception as error:
        # Torch and safetensors report a full disk as errors of their own kinds.
        if "No space left" in str(error) or _disk_is_full(path):
            raise UserError(
                f"{path}: cannot be written (no space left); free space or give another --storage-path"
            ) from None
        raise


def _disk_is_full(path: Path) -> bool:
    existing = next(p for p in (path, *path.parents) if p.exists())
    return shutil.disk_usage(existing).free < 64 * 1024


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
        self._lock: int | None = None
        self._made: list[Path] = []
        self._is_ours = False  # locked, and without files of someone else
        self.results = ResultLog(path / "result.json")

    @classmethod
    @contextmanager
    def claim(cls, storage: Path, name: str) -> Iterator[RunFolder]:
        """Create and lock the folder for this process. Left without a single result, it is removed again."""
        path = storage / name
        with storage_errors(path):
            made = _make_folders(path)
            folder = cls(path)
        folder._made = made
        try:
            with storage_errors(path):
                folder._take_lock()
                folder._refuse_foreign_files()
                folder._is_ours = True
                folder._probe()
            yield folder
        finally:
            if folder._is_ours and len(folder.results) == 0 and not folder.checkpoint_paths():
                folder.clear()
            folder._release()

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
            write_atomically(target, json.dumps(as_json(value), indent=2, allow_nan=False) + "\n")

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
        with storage_errors(target), self._partial(self.path / "checkpoints" / ".saving") as partial:
            save(str(partial.absolute()))  # RLlib takes a relative path for a URI
            state = {"iteration": iteration, "seconds": seconds, "row": row}
            (partial / STATE_FILE).write_text(json.dumps(as_json(state), allow_nan=False))
            remove(target)
            partial.rename(target)
        return target

    def prune_checkpoints(self, keep: int, best: int | None) -> None:
        """Remove all checkpoints but the last `keep` and that of iteration `best`."""
        for path in self.checkpoint_paths()[:-keep]:
            if int(path.name) != best:
                remove(path)

    def replace_folder(self, name: str, write: Callable[[str], Any]) -> Path:
        """Let `write(path)` fill a folder, then put it in place of an older one."""
        target = self.path / name
        with storage_errors(target), self._partial(self.path / f".{name}.partial") as partial:
            write(str(partial.absolute()))
            remove(target)
            partial.rename(target)
        return target

    @staticmethod
    @contextmanager
    def _partial(path: Path) -> Iterator[Path]:
        """An empty folder that is gone afterwards unless it was renamed: a full disk gets its space back."""
        remove(path)
        path.mkdir(parents=True)
        try:
            yield path
        finally:
            remove(path)

    # claiming

    def _take_lock(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            # A lock on the folder itself: no lock file, and a killed process gives it back.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise UserError(
                    f"{self.path}: another process is training here; wait for it or give another --name"
                ) from None
            raise
        self._lock = descriptor

    def _refuse_foreign_files(self) -> None:
        if (self.path / "params.json").exists():
            return
        foreign = [p.name for p in self.path.iterdir() if p.name not in OWN_FILES and "tfevents" not in p.name]
        foreign = [name for name in foreign if not name.startswith(".")]
        if foreign:
            raise UserError(f"{self.path}: holds other files ({foreign[0]}) and no run; give another --name")

    def _probe(self) -> None:
        """Find out now, not after the warm start, whether files can be written here."""
        probe = self.path / ".probe.tmp"
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()

    def _release(self) -> None:
        for path in reversed(self._made):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _make_folders(path: Path) -> list[Path]:
    """Create a folder and its parents; those that were new, outermost first."""
    missing = [p for p in (path, *path.parents) if not p.exists()]
    path.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def write_atomically(target: Path, text: str) -> None:
    """Write beside the target, then rename over it."""
    partial = target.with_name(f".{target.name}.tmp")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
