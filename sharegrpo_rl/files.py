"""What is written to disk: JSON values, atomic writes, refusals of the system told in one line."""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sharegrpo_rl.errors import UserError

PREDICTIONS = "predictions.jsonl"
ROLLOUTS = "rollouts.jsonl"
LOGGED_AS = "logged_as.txt"  # the id at W&B or MLflow
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
