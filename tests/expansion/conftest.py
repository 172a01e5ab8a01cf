import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from expansion_parts import KEY, question_row
from fake_endpoint import FakeEndpoint, running
from PIL import Image
from rich.console import Console

from sharegrpo_rl.expansion.expand import expand
from sharegrpo_rl.expansion.options import ExpandOptions


@pytest.fixture(autouse=True)
def own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, and a key that must never be seen anywhere."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.05)  # half a second adds up here
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    with running() as server:
        yield server


@pytest.fixture(scope="session")
def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (200, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def make_set(tmp_path: Path, picture: bytes) -> Callable[..., Path]:
    """make_set(rows, test_rows): train.jsonl, test.jsonl and images/a.png in a folder; returns the folder."""

    def make(rows: list[dict[str, Any]], test_rows: list[dict[str, Any]] | None = None, name: str = "dots") -> Path:
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True)
        (folder / "images/a.png").write_bytes(picture)
        for file, lines in (("train.jsonl", rows), ("test.jsonl", test_rows or [question_row(900)])):
            (folder / file).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return folder

    return make


@pytest.fixture
def run_expand(tmp_path: Path, endpoint: FakeEndpoint) -> Callable[..., str]:
    """run_expand(data, variants=..., split=..., ...): the summary; the new data set is tmp_path/new."""

    def run(data: Path | str, **changes: Any) -> str:
        model = {} if "local" in changes else {"endpoint": endpoint.url, "model": "good-model"}
        settings = {"variants": 2, "max_tokens": 256, "timeout": 5.0, "retries": 1, **model, **changes}
        options = ExpandOptions(data=str(data), out=tmp_path / "new", **settings)
        return expand(options, Console(stderr=True))

    return run
