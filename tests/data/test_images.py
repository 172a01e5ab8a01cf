import io
import os
import struct
import subprocess
import sys
import unicodedata
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


def tiff(values: np.ndarray) -> bytes:
    return encoded(Image.fromarray(values), "TIFF")


def shown(data: bytes) -> np.ndarray:
    return np.asarray(EncodedImage(data, "x").open())[..., 0]


@pytest.mark.parametrize(
    ("dtype", "brightest"),
    [("float32", 1.0), ("float32", 255.0), ("float32", 65535.0), ("int32", 255), ("int32", 65535), ("uint16", 65535)],
)
def test_greys_of_many_bits_are_scaled(dtype: str, brightest: float) -> None:
    ramp = np.linspace(0, brightest, 64).reshape(8, 8).astype(dtype)
    got = shown(tiff(ramp)).astype(int)
    assert (got.min(), got.max()) == (0, 255)
    assert np.abs(got - ramp * (255 / brightest)).max() <= 1


def test_the_byte_order_of_a_tiff_does_not_matter() -> None:
    big = Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 0, 32768))
    assert shown(encoded(big, "TIFF")).tolist() == [[0, 128]]


def test_a_dark_grey_of_sixteen_bits_stays_dark() -> None:
    assert shown(encoded(Image.fromarray(np.full((2, 2), 200, np.uint16)), "PPM")).max() == 0
    assert shown(encoded(Image.fromarray(np.full((2, 2), 200, np.uint16)))).max() == 0


@pytest.mark.parametrize("values", [[-1000, 3000], [0, 2**20], [0, np.nan], [0, np.inf]])
def test_greys_without_a_known_scale_are_refused(values: list[float]) -> None:
    with pytest.raises(UserError, match=r"image x has grey values from .* convert it to 8 bits"):
        EncodedImage(tiff(np.array([values], np.float32)), "x").open()


def png(bits: int, colour: int, line: bytes, width: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of one line."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"\0" + line)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)


@pytest.mark.parametrize(
    ("bits", "colour", "line", "transparent"),
    [
        (1, 0, b"\x40", [0]),  # a black and a white pixel; black is transparent
        (2, 0, b"\x10", [0]),
        (2, 0, b"\x90", [2]),
        (4, 0, b"\x71", [7]),
        (8, 0, bytes([200, 10]), [200]),
        (16, 0, struct.pack(">2H", 8000, 9000), [8000]),
        (8, 2, bytes([9, 8, 7, 1, 2, 3]), [9, 8, 7]),
        (16, 2, struct.pack(">6H", 65535, 0, 256, 1, 2, 3), [65535, 0, 256]),
    ],
)
def test_the_colour_that_a_png_calls_transparent_becomes_white(
    bits: int, colour: int, line: bytes, transparent: list[int]
) -> None:
    chunk = (b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    picture = EncodedImage(png(bits, colour, line, 2, chunk), "x").open()
    plain = EncodedImage(png(bits, colour, line, 2), "x").open()
    assert picture.getpixel((0, 0)) == (255, 255, 255)
    assert picture.getpixel((1, 0)) == plain.getpixel((1, 0))


@pytest.mark.parametrize(
    "chunk",
    [
        (b"zTXt", b"workflow\0\0" + zlib.compress(b"a" * 3_000_000)),
        (b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(b"a" * 3_000_000)),
        (b"iCCP", b"profile\0\0" + zlib.compress(bytes(3_000_000))),
    ],
)
def test_long_metadata_hides_no_picture(chunk: tuple[bytes, bytes]) -> None:
    data = png(8, 2, bytes([9, 8, 7]), 1, chunk)
    assert EncodedImage(data, "x").open().getpixel((0, 0)) == (9, 8, 7)
    with pytest.raises(UserError, match="image x is "):
        EncodedImage(data[:-30], "x").open()


@pytest.mark.parametrize("mode", ["LAB", "CMYK"])
def test_other_colours_of_a_tiff_are_shown(mode: str) -> None:
    assert EncodedImage(encoded(Image.new(mode, (2, 2)), "TIFF"), "x").open().mode == "RGB"


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A data set's folder in the cache of the hub's client: every file is a link to its content."""
    repository = tmp_path / "hub/datasets--a--b"
    revision = repository / "snapshots/abc"
    (revision / "images").mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs/1234").write_bytes(encoded(RED))
    (revision / "images/a.png").symlink_to("../../../blobs/1234")
    (repository / "refs.png").write_bytes(encoded(RED))
    (tmp_path / "outside.png").write_bytes(encoded(RED))
    return revision


def test_a_snapshot_of_the_hub_is_read(snapshot: Path, tmp_path: Path) -> None:
    alias = tmp_path / "alias"
    alias.symlink_to(snapshot)
    for root in (snapshot, snapshot / "images", alias):
        path = next(root.rglob("a.png"))
        assert ImageFile(path, root, "a.png").open().size == (20, 10)


def test_links_out_of_a_snapshot_are_refused(snapshot: Path, tmp_path: Path) -> None:
    (snapshot / "b.png").symlink_to(tmp_path / "outside.png")
    (snapshot / "c.png").symlink_to("../../refs.png")
    (snapshot.parent.parent / "blobs/5678").symlink_to(tmp_path / "outside.png")
    (snapshot / "d.png").symlink_to("../../blobs/5678")
    for path in ("b.png", "c.png", "d.png", "../../blobs/1234", "../../refs.png"):
        with pytest.raises(UserError, match="outside the data set's folder"):
            ImageFile(snapshot / path, snapshot, path).open()


def test_a_link_to_itself_is_named(folder: Path) -> None:
    (folder / "images/loop.png").symlink_to("loop.png")
    with pytest.raises(UserError, match=r"images/loop\.png"):
        ImageFile(folder / "images/loop.png", folder, "images/loop.png").open()


def test_a_name_that_the_file_system_cannot_have_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match=r"image 'a\\ud800\.png' cannot be looked for: file names are"):
        ImageFile(folder / "a\ud800.png", folder, "a\ud800.png").open()
    code = (
        "from pathlib import Path; from sharegrpo_rl.data.images import ImageFile\n"
        "ImageFile(Path('set/\\u56fe.png'), Path('set'), '\\u56fe.png').open()"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "UserError: image '\\u56fe.png' cannot be looked for: file names are ascii here" in run.stderr


@pytest.mark.parametrize(("on_disk", "asked"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_may_be_written_either_way(folder: Path, on_disk: str, asked: str) -> None:
    name = "images/déjà.png"
    (folder / unicodedata.normalize(on_disk, name)).write_bytes(encoded(RED))
    path = unicodedata.normalize(asked, name)
    assert ImageFile(folder / path, folder, path).open().size == (20, 10)
