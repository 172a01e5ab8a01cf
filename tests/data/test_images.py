import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sharegrpo_rl.data.images import EncodedImage, ImageFile
from sharegrpo_rl.errors import UserError


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


RED = Image.new("RGB", (20, 10), (255, 0, 0))
NOISY = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8))


def declared_png(width: int, height: int) -> bytes:
    """A small PNG file whose header declares another size."""
    data = bytearray(encoded(RED))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def test_alpha_is_pasted_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert EncodedImage(encoded(clear), "x").open().getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 3)
    palette.putpalette([0, 0, 0] * 256)
    assert EncodedImage(encoded(palette, transparency=3), "x").open().getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_greys_are_scaled() -> None:
    grey = Image.fromarray(np.full((4, 4), 32768, dtype=np.uint16))
    assert EncodedImage(encoded(grey), "x").open().getpixel((0, 0)) == (128, 128, 128)


def test_photographs_are_turned_upright() -> None:
    tags = Image.Exif()
    tags[0x0112] = 6  # the camera lay on its side
    assert EncodedImage(encoded(RED, "JPEG", exif=tags), "x").open().size == (10, 20)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_truncated_images_are_named(kind: str) -> None:
    data = encoded(NOISY, kind)
    EncodedImage(data, "b.img").open()
    with pytest.raises(UserError, match=r"b\.img"):
        EncodedImage(data[: len(data) // 2], "b.img").open()


@pytest.mark.parametrize("data", [b"", b"no image at all", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_other_bytes_are_named(data: bytes) -> None:
    with pytest.raises(UserError, match=r"b\.img"):
        EncodedImage(data, "b.img").open()


@pytest.mark.parametrize("size", [(40000, 40000), (9000, 9000), (2**31 - 1, 1)])
def test_the_size_is_checked_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=r"b\.png declares"):
        EncodedImage(declared_png(*size), "b.png").open()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    (root / "images").mkdir(parents=True)
    (root / "images/a.png").write_bytes(encoded(RED))
    (tmp_path / "outside.png").write_bytes(encoded(RED))
    return root


def test_a_file_and_its_bytes_have_one_fingerprint(folder: Path) -> None:
    file = ImageFile(folder / "images/a.png", folder, "images/a.png")
    assert file.open().size == (20, 10)
    assert file.fingerprint() == EncodedImage(encoded(RED), "other name").fingerprint()


def test_an_image_stays_inside_its_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "images/link.png").symlink_to(tmp_path / "outside.png")
    (folder / "images/inner.png").symlink_to(folder / "images/a.png")
    for path in ("images/link.png", "../outside.png", "images/../../outside.png", str(tmp_path / "outside.png")):
        with pytest.raises(UserError, match="outside the data set's folder"):
            ImageFile(folder / path, folder, path).open()
    assert ImageFile(folder / "images/inner.png", folder, "inner").open().size == (20, 10)


@pytest.mark.parametrize("path", ["images/none.png", "images", "images/" + "x" * 300 + ".png"])
def test_a_missing_image_is_named(folder: Path, path: str) -> None:
    with pytest.raises(UserError) as caught:
        ImageFile(folder / path, folder, path).open()
    assert path in str(caught.value)
