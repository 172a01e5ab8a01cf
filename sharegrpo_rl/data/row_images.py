"""The image column of a row: a path, encoded bytes, a struct of both as `datasets` writes it, or a list of these."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sharegrpo_rl.data.images import EncodedImage, ImageFile
from sharegrpo_rl.data.types import ImageSource
from sharegrpo_rl.errors import UserError

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)  # http:, data:, file:


def read_images(value: Any, *, place: str, folder: Path, root: Path) -> tuple[ImageSource, ...]:
    """0..N images. Paths start at `folder` (the file's), else at `root` (the data set's), and must stay in `root`."""
    if value is None:
        return ()
    items = value if isinstance(value, list | tuple) else [value]
    return tuple(_read_image(item, f"number {n} ({place})", folder, root) for n, item in enumerate(items))


def _read_image(value: Any, where: str, folder: Path, root: Path) -> ImageSource:
    path = value
    if isinstance(value, dict):
        data, path = value.get("bytes"), value.get("path")
        if data is not None:
            return _encoded(data, f"{path}, {where}" if path else where, where)
    if isinstance(path, bytes):
        return _encoded(path, where, where)
    if not isinstance(path, str) or not path.strip():
        raise UserError(f"image {where}: {_shown(value)} is neither a path nor encoded bytes; correct the row")
    if _ADDRESS.match(path):
        raise UserError(f"image {where}: {path[:60]!r} is an address; download it into the data set's folder first")
    if "\0" in path:
        raise UserError(f"image {where}: its path holds a zero byte; correct the row")
    file = folder / path
    if folder != root and not file.exists():
        file = root / path
    return ImageFile(file, root, path)


def _encoded(data: Any, name: str, where: str) -> EncodedImage:
    if not isinstance(data, bytes):
        raise UserError(f"image {where}: its bytes are {_shown(data)}; write the encoded file's bytes")
    return EncodedImage(data, name)


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:40]!r}"
