"""Images of a question: bytes from a table, or a file inside the data set's folder; decoded only on demand."""

from __future__ import annotations

import io
import re
import struct
import zlib
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from sharegrpo_rl.data.types import ImageSource
from sharegrpo_rl.errors import UserError

MAX_IMAGE_PIXELS = 64_000_000
MAX_FILE_BYTES = 256_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # pure decoders; EPS, for one, would start Ghostscript
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)  # what Pillow raises on damaged files
_URL = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)  # http:, data:, file:


@dataclass(frozen=True)
class EncodedImage:
    """An image whose encoded bytes (PNG, JPEG, ...) are in the row itself."""

    data: bytes
    name: str

    def open(self) -> Image.Image:
        """The picture as RGB; UserError naming it where it is broken or too large."""
        return decode(self.data, self.name)

    def fingerprint(self) -> str:
        """Digest of the encoded bytes."""
        return _digest(self.data)


@dataclass(frozen=True)
class ImageFile:
    """An image file; `path` must be inside `root` after every symlink is followed."""

    path: Path
    root: Path
    name: str

    def read(self) -> bytes:
        """The encoded bytes; UserError where the file is missing, outside `root`, or too large."""
        real = self.path.resolve()
        if not real.is_relative_to(self.root.resolve()):
            raise UserError(f"image {self.name} is outside the data set's folder {self.root}; copy it into that folder")
        try:
            if not real.is_file():
                raise UserError(
                    f"image {self.name} is not there (looked for {self.path}); add the file or drop its row"
                )
            if real.stat().st_size > MAX_FILE_BYTES:
                raise UserError(f"image {self.name} is larger than {MAX_FILE_BYTES // 10**6} MB; shrink it")
            return real.read_bytes()
        except OSError as error:
            raise UserError(f"image {self.name} cannot be read: {error.strerror or error}") from None

    def open(self) -> Image.Image:
        """The picture as RGB; UserError naming it where it is missing, outside, broken or too large."""
        return decode(self.read(), self.name)

    def fingerprint(self) -> str:
        """Digest of the encoded bytes: equal to that of the same bytes in a table."""
        return _digest(self.read())


def read_images(value: Any, *, where: str, folder: Path, root: Path) -> tuple[ImageSource, ...]:
    """The image column of a row: a path, encoded bytes, a struct of both as `datasets` writes it, or a list of these.

    Paths start at `folder` (the file's), else at `root` (the data set's), and must stay in `root`.
    """
    if value is None:
        return ()
    items = value if isinstance(value, list | tuple) else [value]
    return tuple(_read_image(item, f"number {n} ({where})", folder, root) for n, item in enumerate(items))


def _read_image(value: Any, where: str, folder: Path, root: Path) -> ImageSource:
    path, data, name = value, None, where
    if isinstance(value, dict):
        path, data = value.get("path"), value.get("bytes")
        name = f"{path}, {where}" if path else where
    if data is None and isinstance(path, bytes):
        data, name = path, where
    if data is not None:
        if not isinstance(data, bytes):
            raise UserError(f"image {where}: its bytes are {_describe(data)}; write the encoded file's bytes")
        return EncodedImage(data, name)
    if not isinstance(path, str) or not path.strip():
        raise UserError(f"image {where}: {_describe(value)} is neither a path nor encoded bytes; correct the row")
    if _URL.match(path):
        raise UserError(f"image {where}: {path[:60]!r} is an address; download it into the data set's folder first")
    if "\0" in path:
        raise UserError(f"image {where}: its path holds a zero byte; correct the row")
    file = folder / path
    if folder != root and not file.exists():
        file = root / path
    return ImageFile(file, root, path)


def _describe(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:40]!r}"


def decode(data: bytes, name: str) -> Image.Image:
    """Encoded bytes -> RGB, upright by EXIF, alpha on white. The size is read from the header before any decoding."""
    if not data:
        raise UserError(f"image {name} is empty; replace it or drop its row")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > MAX_IMAGE_PIXELS:
            raise UserError(_too_large(name, f"{width} x {height} pixels"))
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError:
        raise UserError(_too_large(name, "far too many pixels")) from None
    except UnidentifiedImageError:
        raise UserError(f"image {name} is in no format that can be read ({', '.join(FORMATS)}); convert it") from None
    except _BROKEN as error:
        raise UserError(f"image {name} is truncated or broken ({error}); replace it or drop its row") from None


def size_of(source: ImageSource) -> tuple[int, int]:
    """Width and height of a question's image as it is shown; read from the header where its bytes are at hand."""
    if isinstance(source, EncodedImage | ImageFile):
        data = source.data if isinstance(source, EncodedImage) else source.read()
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
                return (image.height, image.width) if turned else image.size
        except (*_BROKEN, UnidentifiedImageError, Image.DecompressionBombError):
            pass  # `open` says what is wrong with it
    return source.open().size


def _too_large(name: str, size: str) -> str:
    return f"image {name} declares {size}, the limit is {MAX_IMAGE_PIXELS:,}; shrink it or drop its row"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip 16-bit greys at 255 instead of scaling them
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        pasted = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(pasted, mask=pasted.getchannel("A"))
        return white
    return image.convert("RGB")


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()
