"""The folder for files that can be made again: `$XDG_CACHE_HOME/sharegrpo_rl`, else `~/.cache/sharegrpo_rl`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.files import replacing


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
