"""Images of a question: bytes from a table, base64 text, or a file inside the data set's folder; decoded on demand."""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import struct
import sys
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from math import sqrt
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from sharegrpo_rl.data.columns import is_missing
from sharegrpo_rl.data.types import ImageSource
from sharegrpo_rl.errors import UserError

MAX_FILE_BYTES = 256_000_000
MAX_TEXT_BYTES = 64_000_000  # of an image in base64, decoded
MAX_IMAGE_PIXELS = 64_000_000
# One of these is in a PNG that says how it is turned.
_ORIENTED_PNG = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # pure decoders; EPS, for one, would start Ghostscript
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)  # what Pillow raises on damaged files
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_METADATA = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://|(?:data|file|https?):", re.IGNORECASE)  # other colons are in file names
_DATA_ADDRESS = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{64,}={0,2}\s*")
_BASE64_BEGINNINGS = (
    "iVBORw0KGgo",
    "/9j/",
    "R0lGOD",
    "UklGR",
    "Qk",
    "SUkq",
    "TU0AK",
)  # PNG, JPEG, GIF, WEBP, BMP, TIFF
_LONGEST_NAME = 300  # characters of a path in a message
THREADS = min(8, os.cpu_count() or 1)  # that pictures are decoded, transformed and resized in, which hold no lock
T = TypeVar("T")
R = TypeVar("R")


def in_threads(call: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """What `call` makes of each item, in order; several at a time."""
    if min(len(items), THREADS) < 2:
        return [call(item) for item in items]
    with ThreadPoolExecutor(min(len(items), THREADS)) as pool:
        return list(pool.map(call, items))


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
    """An image file; `path` must be inside `root` after every symlink is followed, or be a file of a hub snapshot."""

    path: Path
    root: Path
    name: str

    def read(self) -> bytes:
        """The encoded bytes; UserError where the file is missing, outside `root`, or too large."""
        try:
            path = written_alike(self.path, self.root)
            real = path.resolve()
            if not self._is_inside(path, real):
                link = ", where its link leads" if path.is_symlink() else ""
                raise UserError(
                    f"image {self.name} is outside the data set's folder {self.root}{link}; copy it into that folder"
                )
            if not real.is_file():
                raise UserError(
                    f"image {self.name} is not there (looked for {_short(str(self.path))}); add the file or drop its row"
                )
            if real.stat().st_size > MAX_FILE_BYTES:
                raise UserError(f"image {self.name} is larger than {MAX_FILE_BYTES // 10**6} MB; shrink it")
            return real.read_bytes()
        except OSError as error:
            raise UserError(f"image {self.name} cannot be read: {error.strerror or error}") from None
        except RuntimeError:  # Python 3.11 and 3.12
            raise UserError(f"image {self.name} cannot be read: its symbolic link leads back to itself") from None
        except UnicodeEncodeError:
            raise UserError(
                f"image {self.name!a} cannot be looked for: file names are {sys.getfilesystemencoding()} here; "
                "set the environment variable PYTHONUTF8=1, or rename the file"
            ) from None

    def _is_inside(self, path: Path, real: Path) -> bool:
        root = self.root.resolve()
        if real.is_relative_to(root):
            return True
        # The hub's cache has snapshots/REVISION/FILE as a link to blobs/DIGEST beside `snapshots`.
        named = Path(os.path.normpath(path)).is_relative_to(os.path.normpath(self.root))
        snapshots = [folder.parent for folder in (root, *root.parents) if folder.parent.name == "snapshots"]
        return named and any(real.is_relative_to(folder.parent / "blobs") for folder in snapshots)

    def open(self) -> Image.Image:
        """The picture as RGB; UserError naming it where it is missing, outside, broken or too large."""
        return decode(self.read(), self.name)

    def fingerprint(self) -> str:
        """Digest of the encoded bytes: equal to that of the same bytes in a table."""
        return _digest(self.read())


def written_alike(path: Path, root: Path) -> Path:
    """The path; where nothing is there, it with its names below `root` in the Unicode forms that are there, if any are.

    macOS stores an accent as a character of its own (NFD), and texts rarely do (NFC).
    """
    if path.exists() or not path.is_relative_to(root):
        return path
    there = root
    for name in path.relative_to(root).parts:
        forms = (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))
        there = next((there / form for form in forms if (there / form).exists()), there / name)
    return there


def named_path(data: str) -> Path:
    """The path of a data set's folder or file, in the Unicode form in which it is there."""
    path = Path(data).expanduser()
    return written_alike(path, Path(path.anchor))


def read_images(value: Any, *, where: str, folder: Path, root: Path) -> tuple[ImageSource, ...]:
    """The image column of a row: a path, encoded bytes, base64 text, a struct of a path and bytes as `datasets` writes
    it, or a list of these.

    Paths start at `folder` (the file's), else at `root` (the data set's), and must stay in `root`.
    """
    if is_missing(value):
        return ()
    items = value if isinstance(value, list | tuple) else [value]
    return tuple(_read_image(item, f"number {n} ({where})", folder, root) for n, item in enumerate(items))


def holds_base64(value: Any) -> bool:
    """Is a picture of an image column written as base64 text?"""
    items = value if isinstance(value, list | tuple) else [value]
    return any(_is_base64(item) for item in items)


def decode_base64(text: str, where: str) -> bytes:
    """The bytes of an image in base64 text, bare or as a `data:` address; the size is checked before decoding."""
    text = _DATA_ADDRESS.sub("", text, count=1)
    if len(text) > MAX_TEXT_BYTES * 4 // 3:
        raise UserError(f"{where}: an image of more than {MAX_TEXT_BYTES // 10**6} MB; shrink it")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{where}: not base64 ({error}); write or download the file again") from None


def _is_base64(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    text = value.strip()
    return bool(_DATA_ADDRESS.match(text)) or (
        text.startswith(_BASE64_BEGINNINGS) and bool(_BASE64.fullmatch(text[:1024]))
    )


def _read_image(value: Any, where: str, folder: Path, root: Path) -> ImageSource:
    path, data, name = value, None, where
    if isinstance(value, dict):
        path, data = value.get("path"), value.get("bytes")
        name = f"{path}, {where}" if path else where
    if data is None and isinstance(path, bytes):
        data, name = path, where
    if data is None and _is_base64(path):
        data, name = decode_base64(path, f"image {where}"), where
    if data is not None:
        if not isinstance(data, bytes):
            raise UserError(f"image {where}: its bytes are {_describe(data)}; write the encoded file's bytes")
        return EncodedImage(data, name)
    if not isinstance(path, str) or not path.strip():
        raise UserError(f"image {where}: {_describe(value)} is neither a path nor encoded bytes; correct the row")
    if _ADDRESS.match(path):
        raise UserError(f"image {where}: {path[:60]!r} is an address; download it into the data set's folder first")
    if "\0" in path:
        raise UserError(f"image {where}: its path holds a zero byte; correct the row")
    return ImageFile(_found(path, folder, root), root, _short(path))


def _found(path: str, folder: Path, root: Path) -> Path:
    """The path from the file's folder or, where nothing is there, from the data set's."""
    if folder == root:
        return folder / path
    try:
        here = written_alike(folder / path, root).exists()
    except (OSError, ValueError):
        here = False
    return folder / path if here else root / path


def _short(path: str) -> str:
    return path if len(path) <= _LONGEST_NAME else f"{path[:60]}... ({len(path):,} characters)"


def _describe(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:40]!r}"


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


# ---- Encoded pictures -> RGB: size checked first, upright, on white; greys of more than 8 bits scaled.


def decode(data: bytes, name: str) -> Image.Image:
    """Encoded bytes -> RGB, upright by EXIF, alpha on white. The size is read from the header before any decoding."""
    if not data:
        raise UserError(f"image {name} is empty; replace it or drop its row")
    try:
        image = _load(data, name)
        upright = ImageOps.exif_transpose(image)
    except Image.DecompressionBombError:
        raise UserError(_too_large(name, "far too many pixels")) from None
    except UnidentifiedImageError:
        raise UserError(f"image {name} is in no format that can be read ({', '.join(FORMATS)}); convert it") from None
    except _BROKEN as error:
        raise UserError(f"image {name} is truncated or broken ({error}); replace it or drop its row") from None
    return _to_rgb(upright, _grey_bits(image), name)


def _load(data: bytes, name: str) -> Image.Image:
    try:
        return _loaded(data, name)
    except ValueError:
        # Pillow refuses long texts and colour profiles, which are no part of the picture.
        if not data.startswith(_PNG):
            raise
        return _loaded(_without_metadata(data), name)


def _loaded(data: bytes, name: str) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if width * height > MAX_IMAGE_PIXELS:
        raise UserError(_too_large(name, f"{width} x {height} pixels"))
    image.load()
    if image.format == "PNG":
        _scale_transparent_colour(image, bits=data[24])
    return image


def size_of(source: ImageSource) -> tuple[int, int]:
    """Width and height of a question's image as it is shown; read from the header where its bytes are at hand."""
    if not isinstance(source, EncodedImage | ImageFile):
        return source.open().size
    data = source.data if isinstance(source, EncodedImage) else source.read()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            # Pillow looks for a PNG's orientation behind its pixels, which it decodes for that.
            asks = image.format != "PNG" or any(mark in data for mark in _ORIENTED_PNG)
            turned = asks and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return (image.height, image.width) if turned else image.size
    except (*_BROKEN, UnidentifiedImageError, Image.DecompressionBombError):
        return source.open().size  # it reads more, or says what is wrong


def within(image: Image.Image, fewest: int, most: int) -> Image.Image:
    """The image, resized where it has fewer or more pixels than these."""
    area = image.width * image.height
    if fewest <= area <= most:
        return image
    scale = sqrt((most if area > most else fewest) / area)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)


def _too_large(name: str, size: str) -> str:
    return f"image {name} declares {size}, the limit is {MAX_IMAGE_PIXELS:,}; shrink it or drop its row"


def _without_metadata(png: bytes) -> bytes:
    """A PNG file without its texts and its colour profile."""
    return _PNG + b"".join(chunk for kind, chunk in _chunks(png) if kind not in _PNG_METADATA)


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, whole chunk) of every chunk; what is cut off at the end of the file stays cut off."""
    position = len(_PNG)
    while position + 8 <= len(png):
        (length,) = struct.unpack_from(">I", png, position)
        end = position + 12 + length
        yield png[position + 4 : position + 8], png[position:end]
        position = end


def _scale_transparent_colour(image: Image.Image, bits: int) -> None:
    """Write the colour that a PNG declares transparent in the 8 bits that Pillow gives the pixels, where it does not."""
    colour = image.info.get("transparency")
    if image.mode == "RGB" and bits == 16 and isinstance(colour, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    elif image.mode == "L" and bits in (2, 4) and isinstance(colour, int):
        image.info["transparency"] = colour * 255 // (2**bits - 1)


def _grey_bits(image: Image.Image) -> int | None:
    """Bits of a grey value in modes with more than 8; None where the file's format does not fix their scale."""
    if image.mode.startswith("I;16") or image.format in ("PNG", "PPM"):
        return 16
    return None


def _to_rgb(image: Image.Image, grey_bits: int | None, name: str) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _grey_to_rgb(image, grey_bits, name)
    if image.mode == "La":  # grey multiplied by its alpha, which Pillow converts to LA alone
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        pasted = image.convert("RGBA")
        return _on_white(pasted, pasted.getchannel("A"))
    return image.convert("RGB")


def _grey_to_rgb(image: Image.Image, bits: int | None, name: str) -> Image.Image:
    """Grey values of 16 or 32 bits or floats, scaled to 8 bits; the colour declared transparent becomes white."""
    values = np.asarray(image)
    grey = Image.fromarray((values * _scale(values, bits, name)).astype(np.uint8)).convert("RGB")
    transparent = image.info.get("transparency")
    if transparent is None:
        return grey
    return _on_white(grey, Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))


def _scale(values: NDArray[np.generic], bits: int | None, name: str) -> float:
    """What grey values are multiplied by to lie in 0 to 255.

    Where the format does not tell, floats up to 1 are shares, values up to 255 are 8 bits, and up to 65535 16 bits.
    """
    if bits is not None:
        return 2.0 ** (8 - bits)
    low, high = float(values.min()), float(values.max())
    if low < 0 or not high <= 65535:  # the second is true of NaN, too
        raise UserError(
            f"image {name} has grey values from {low:g} to {high:g}, whose scale is not known; convert it to 8 bits"
        )
    if np.issubdtype(values.dtype, np.floating) and high <= 1:
        return 255.0
    return 1.0 if high <= 255 else 1 / 257


def _on_white(image: Image.Image, mask: Image.Image) -> Image.Image:
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=mask)
    return white
