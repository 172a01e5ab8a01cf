import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test writes to a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sharegrpo_rl"


@pytest.fixture
def picture() -> bytes:
    """The bytes of a small PNG file."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (200, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def make_set(tmp_path: Path, picture: bytes) -> Callable[..., Path]:
    """Writes rows as train.jsonl and test.jsonl (or the files given) beside images/a.png; returns the folder."""

    def make(rows: list[dict], name: str = "dots", files: tuple[str, ...] = ("train.jsonl", "test.jsonl")) -> Path:
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / "images/a.png").write_bytes(picture)
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return folder

    return make


@pytest.fixture
def row() -> Callable[..., dict]:
    """A good row with changes."""

    def make(**changes: object) -> dict:
        return {"id": "r0", "image": "images/a.png", "question": "How many dots?", "answer": "2", **changes}

    return make
