"""The client against a real server on this machine that does what servers do: fail, wait, cut off, talk nonsense."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Callable
from typing import Any

import pytest
from expansion_parts import KEY
from fake_endpoint import (
    FakeEndpoint,
    answer,
    completion,
    cut,
    drip,
    error,
    hang,
    in_turn,
    reset,
    running,
    send,
    send_json,
)
from PIL import Image

from sharegrpo_rl.data.images import EncodedImage
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.expansion.endpoint import Endpoint, checked_address
from sharegrpo_rl.expansion.session import Reply, Request, Unanswered

REQUEST = Request("Say it.", temperature=0.7, max_tokens=99, seed=3)


def ask(server: FakeEndpoint, *requests: Request, **options: Any) -> list[Any]:
    """Replies or errors of the requests, asked at the same time."""
    settings: dict[str, Any] = {"timeout": 0.4, "retries": 1, "key": KEY, "model": "good-model", **options}

    async def run() -> list[Any]:
        endpoint = Endpoint(settings.pop("address", server.url), settings.pop("model"), settings.pop("key"), **settings)
        try:
            await endpoint.check()
            return await asyncio.gather(*(endpoint.ask(r) for r in requests or (REQUEST,)), return_exceptions=True)
        finally:
            await endpoint.close()

    return asyncio.run(run())


def test_a_request_carries_what_was_asked_for(endpoint: FakeEndpoint) -> None:
    endpoint.script = lambda number, body: answer("said", "length")
    assert ask(endpoint) == [Reply("said", truncated=True)]
    assert endpoint.requests == [
        {
            "model": "good-model",
            "messages": [{"role": "user", "content": "Say it."}],
            "temperature": 0.7,
            "max_tokens": 99,
            "seed": 3,
        }
    ]
    assert [h["authorization"] for h in endpoint.headers_seen] == [f"Bearer {KEY}"] * 2


def test_a_model_that_wants_the_new_name_of_the_limit_gets_it(endpoint: FakeEndpoint) -> None:
    told = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    endpoint.script = lambda number, body: error(400, told) if "max_tokens" in body else answer("said")
    assert ask(endpoint) == [Reply("said")]
    assert [body.get("max_completion_tokens") for body in endpoint.requests] == [None, 99]


def test_images_travel_where_their_marks_stand(endpoint: FakeEndpoint) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (1, 2, 3)).save(buffer, "PNG")
    image = EncodedImage(buffer.getvalue(), "a")
    endpoint.script = lambda number, body: answer("ok")
    ask(
        endpoint, Request("See <image> and <image> now", 0.0, 9, 0, (image, image)), Request("See", 0.0, 9, 0, (image,))
    )
    first, second = sorted((b["messages"][0]["content"] for b in endpoint.requests), key=len, reverse=True)
    assert [part["type"] for part in first] == ["text", "image_url", "text", "image_url", "text"]
    assert [part["type"] for part in second] == ["image_url", "text"]
    assert first[1]["image_url"]["url"].startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    "first",
    [
        hang(0.6),
        drip(1.0),
        cut,
        reset,
        error(500),
        error(503),
        error(429, Retry_After="0.2"),
        send("<html>busy</html>"),
        send('{"choices": ['),
        send_json({"choices": []}),
        send_json({"choices": [{"message": {"content": None}}]}),
        send_json({"choices": [{"message": {"content": ""}}]}),
        send_json({"choices": [{"message": "text"}]}),
        send_json({"choices": "none"}),
        send_json(["choices"]),
        send_json(completion(["a", "list"])),
    ],
    ids=lambda action: None,
)
def test_one_misstep_is_forgiven(endpoint: FakeEndpoint, first: Callable[..., None]) -> None:
    endpoint.script = lambda number, body: answer("said") if number else first
    assert ask(endpoint) == [Reply("said")]
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (hang(2.0), "no answer within 0.3 s, 2 times"),
        (drip(2.0), "no answer within 0.3 s, 2 times"),
        (reset, "the connection failed"),
        (cut, "the connection failed"),
        (error(500, "out of memory"), "HTTP 500: out of memory, 2 times"),
        (error(429, "slow down", Retry_After="0.1"), "HTTP 429: slow down, 2 times"),
        (send("garbage"), "is not JSON, 2 times"),
        (send_json({"choices": []}), "has no choices, 2 times"),
        (error(400, "prompt too long"), "HTTP 400: prompt too long"),
        (error(413, "too large"), "HTTP 413: too large"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_goes_on_failing_is_said_in_words(endpoint: FakeEndpoint, action: Callable[..., None], words: str) -> None:
    endpoint.script = lambda number, body: action
    (failure,) = ask(endpoint, timeout=0.3)
    assert isinstance(failure, Unanswered)
    assert words in str(failure)


def test_retry_after_is_waited_for(endpoint: FakeEndpoint) -> None:
    endpoint.script = lambda number, body: answer("said") if number else error(429, Retry_After="1")
    assert ask(endpoint) == [Reply("said")]
    first, second = endpoint.times
    assert 0.95 < second - first < 2.0


def test_the_pace_holds_for_retries_too(endpoint: FakeEndpoint) -> None:
    endpoint.script = lambda number, body: error(500) if number == 0 else answer("said")
    requests = [Request(f"Say {n}.", 1.0, 9, n) for n in range(6)]
    assert ask(endpoint, *requests, requests_per_minute=300) == [Reply("said")] * 6
    assert len(endpoint.times) == 7
    assert endpoint.times[-1] - endpoint.times[0] > 0.9  # six steps of 0.2 s; without a pace nothing waits that long


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_ends_everything_without_being_shown(endpoint: FakeEndpoint, status: int) -> None:
    endpoint.models_action = error(status, f"Incorrect API key provided: {KEY}")
    with pytest.raises(UserError, match="OPENAI_API_KEY was refused") as caught:
        ask(endpoint)
    assert KEY not in str(caught.value)
    with pytest.raises(UserError, match="it needs a key, and MY_KEY has none"):
        ask(endpoint, key="", key_env="MY_KEY")


def test_an_unknown_model_is_named_with_those_there_are(endpoint: FakeEndpoint) -> None:
    with pytest.raises(UserError, match=r"--model bad: .* does not offer it; it has good-model"):
        ask(endpoint, model="bad")
    endpoint.models_action = error(404)
    endpoint.script = lambda number, body: error(404, "The model `bad` does not exist.")
    (failure,) = ask(endpoint, model="bad")
    assert isinstance(failure, UserError)
    assert "--model bad: not found (HTTP 404" in str(failure)


@pytest.mark.parametrize(
    "listing", [send("no json"), send_json([1]), send_json({"data": None}), send_json({"data": [3]})]
)
def test_a_strange_list_of_models_is_no_obstacle(endpoint: FakeEndpoint, listing: Callable[..., None]) -> None:
    endpoint.models_action = listing
    endpoint.script = lambda number, body: answer("said")
    assert ask(endpoint) == [Reply("said")]


def test_where_nobody_listens_one_line_says_so() -> None:
    with running() as gone:
        pass
    with pytest.raises(UserError, match=r"--endpoint http://127\.0\.0\.1:\d+/v1: the connection failed"):
        ask(gone, retries=0)


@pytest.mark.parametrize(
    "action", [error(400, f"bad {KEY}"), error(500, KEY), send(f"nonsense {KEY}"), answer(f"It is {KEY}")]
)
def test_the_key_is_taken_out_of_whatever_comes_back(
    endpoint: FakeEndpoint, action: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    endpoint.script = lambda number, body: action
    (result,) = ask(endpoint, retries=0)
    assert KEY not in repr(result) + str(result)
    assert isinstance(result, Unanswered) or result == Reply("It is ***")
    assert KEY not in caplog.text


@pytest.mark.parametrize(
    ("address", "becomes"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("https://host/api/v3/", "https://host/api/v3"),
        ("http://[::1]:80/v1", "http://[::1]:80/v1"),
    ],
)
def test_addresses_without_a_path_get_one(address: str, becomes: str) -> None:
    assert checked_address(address) == becomes


@pytest.mark.parametrize(
    "address",
    ["", "localhost:8000", "ftp://host", "http://", "http://host:99999", "http://user:pw@host", "http://host/v1?key=abc", "http://[::1"],
)  # fmt: skip
def test_other_addresses_are_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(UserError, match="--endpoint") as caught:
        checked_address(address)
    assert "pw" not in str(caught.value)
    assert "abc" not in str(caught.value)


def test_a_key_that_fits_no_header_is_refused_unseen(endpoint: FakeEndpoint) -> None:
    for key in ("schlüssel-1234", "two\nlines-123456"):
        with pytest.raises(UserError, match="no header can carry") as caught:
            Endpoint(endpoint.url, "m", key)
        assert key not in str(caught.value)


def test_the_client_takes_no_other_key_from_the_environment(
    endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-admin-1234567890")
    endpoint.script = in_turn(answer("said"))
    assert ask(endpoint, key="") == [Reply("said")]
    assert not any(KEY in str(h) or "sk-admin" in str(h) for h in endpoint.headers_seen)
