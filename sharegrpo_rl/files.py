"""What is written to disk: JSON values, atomic replacement, append-only files, locks, the cache, one line for a full disk."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from sharegrpo_rl.errors import UserError

PREDICTIONS = "predictions.jsonl"
ROLLOUTS = "rollouts.jsonl"
LOGGED_AS = "logged_as.txt"  # the id at W&B or MLflow

Parsed = TypeVar("Parsed")

_STORAGE_ERRNOS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP),
}


def as_json(value: Any) -> Any:
    """A copy made of JSON values alone: numpy scalars become numbers, NaN and infinities null, anything else text."""
    if isinstance(value, Mapping):
        return {str(key): as_json(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return as_json(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


class JsonLines:
    """An append-only file of one JSON object a line.

    A last line that a kill cut short does not count: `read` ends before it and the next `append` overwrites it.
    Rows are not kept in memory. OSErrors pass through: callers name the remedy with `storage_errors`.
    """

    def __init__(self, path: Path, *, sync: bool = True) -> None:
        """`sync`: `append` waits until the disk has the rows, so that they also survive a power cut."""
        self.path = path
        self._sync = sync
        self._ends: list[int] | None = None  # byte offset of each row's end; None until the file was read

    def __len__(self) -> int:
        return len(self._known_ends())

    def read(self, parse: Callable[[Any], Parsed], damaged: str | None = None) -> list[Parsed]:
        """`parse(row)` of every row, in order; [] where there is no file.

        A row is damaged where it is no JSON or `parse` raises ValueError, TypeError, KeyError or AttributeError:
        UserError with the file, the line and the text `damaged`. With None the file is taken to end before it.
        """
        values: list[Parsed] = []
        ends: list[int] = []
        content = self.path.read_bytes() if self.path.exists() else b""
        for start, end in _line_bounds(content):
            try:
                values.append(parse(json.loads(content[start : end - 1])))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                if damaged is None:
                    break
                raise UserError(f"{self.path} line {len(ends) + 1}: {damaged}") from None
            ends.append(end)
        self._ends = ends
        return values

    def append(self, *rows: Mapping[str, Any]) -> None:
        """Append rows in one go after the last complete one; if writing fails, none of them stays."""
        data = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
        ends = self._known_ends()
        start = ends[-1] if ends else 0
        with self.path.open("r+b" if self.path.exists() else "w+b", buffering=0) as file:
            file.seek(start)
            file.truncate()  # a line cut short by a kill
            try:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
                if self._sync:
                    os.fsync(file.fileno())
            except OSError:
                file.truncate(start)
                raise
        ends.extend(start + end for _, end in _line_bounds(data))

    def cut_back(self, count: int) -> None:
        """Keep the first `count` rows, byte for byte, and drop the rest."""
        ends = self._known_ends()
        del ends[count:]
        if self.path.exists():
            with self.path.open("r+b") as file:
                file.truncate(ends[-1] if ends else 0)
                os.fsync(file.fileno())

    def _known_ends(self) -> list[int]:
        if self._ends is None:
            content = self.path.read_bytes() if self.path.exists() else b""
            self._ends = [end for _, end in _line_bounds(content)]
        return self._ends


def _line_bounds(content: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of each line that has its newline, newline included."""
    start = 0
    while (newline := content.find(b"\n", start)) >= 0:
        yield start, newline + 1
        start = newline + 1


@contextmanager
def replacing(target: Path, *, shared: bool = False) -> Iterator[Path]:
    """A path next to `target` at which to write a file or make a folder; it replaces `target` at the end.

    Readers see the old file or the new one. A folder cannot be exchanged at once: for an instant there is none.
    The disk has what was written before it gets its name, so that a power cut leaves nothing half-written under it.
    Where the block fails, `target` stays and what was written is removed. `shared`: several processes may do this
    at a time. Without it a killed process's remains are removed by the next one.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.tmp" if shared else f".{target.name}.tmp")
    old = target.with_name(f".{target.name}.old")
    target.parent.mkdir(parents=True, exist_ok=True)
    if partial.is_dir():
        remove(partial)
    try:
        yield partial
        _sync(partial)
        if partial.is_dir() and target.exists():
            remove(old)
            target.rename(old)
        partial.replace(target)
        _sync_one(target.parent)
        remove(old)
    finally:
        remove(partial)


def _sync(path: Path) -> None:
    """Wait until the disk has a file, or a folder with all that is in it; links are left alone."""
    for inner in path.iterdir() if path.is_dir() else ():
        if not inner.is_symlink():
            _sync(inner)
    _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):  # network file systems: files only
            raise
    finally:
        os.close(descriptor)


def write_atomically(target: Path, content: str | bytes) -> None:
    """Replace a file in one step, on disk when this returns. Text is written as UTF-8."""
    with replacing(target) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(target: Path, value: Any, indent: int = 2) -> None:
    """Replace a JSON file in one step; NaN and infinities become null."""
    write_atomically(target, json.dumps(as_json(value), indent=indent, allow_nan=False) + "\n")


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class LockedError(UserError):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, busy: str | None = None) -> Iterator[None]:
    """Hold the lock on an existing file or folder; a killed process gives it back.

    Where another process holds it: LockedError with the text `busy`, or, without a text, wait.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if busy is None else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise LockedError(busy) from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def storage_errors(path: Path, remedy: str = "free space or give another --storage-path") -> Iterator[None]:
    """Turn the system's refusals (full disk, permissions, a file in the way) into a UserError: path, cause, remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in _STORAGE_ERRNOS:
            raise
        refused = error.filename if isinstance(error.filename, str) else path
        raise UserError(f"{refused}: cannot be written ({error.strerror or error}); {remedy}") from None
    except UserError:
        raise
    except Exception as error:
        # Torch and safetensors report a full disk as errors of their own kinds.
        if "No space left" in str(error) or _disk_is_full(path):
            raise UserError(f"{path}: cannot be written (no space left); {remedy}") from None
        raise


def _disk_is_full(path: Path) -> bool:
    existing = next(p for p in (path, *path.parents) if p.exists())
    return shutil.disk_usage(existing).free < 64 * 1024


# ---- the folder for files that can be made again: $XDG_CACHE_HOME/sharegrpo_rl, else ~/.cache/sharegrpo_rl


def cache_folder(kind: str) -> Path:
    """The cache's subfolder for one kind of file; it may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "sharegrpo_rl" / kind


def file_identity(path: Path) -> str:
    """Digest that changes with the file's path, size or modification time; its content is not read."""
    status = path.stat()
    key = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    return blake2b(key.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()


@contextmanager
def cached_file(target: Path) -> Iterator[Path]:
    """A path to write to, which becomes `target` in one step; UserError where it cannot be written."""
    try:
        with replacing(target, shared=True) as unfinished:
            yield unfinished
    except OSError as error:
        raise UserError(
            f"cannot write {target}: {error.strerror or error}; free some space or set XDG_CACHE_HOME to another folder"
        ) from None
