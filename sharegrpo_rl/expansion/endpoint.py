"""What is asked of a language model and what comes back, whichever way it is reached."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx2
import openai

from sharegrpo_rl.data.messages import chat_messages
from sharegrpo_rl.data.types import ImageSource
from sharegrpo_rl.errors import UserError


@dataclass(frozen=True)
class Request:
    """One prompt; `<image>` marks in it stand for `images`. Temperature 0 is greedy; `seed` below 2**31."""

    prompt: str
    temperature: float
    max_tokens: int
    seed: int
    images: tuple[ImageSource, ...] = ()

    def key(self, model: str) -> str:
        """Digest of everything that the reply depends on."""
        pictures = [image.fingerprint() for image in self.images]
        parts = [model, self.prompt, self.temperature, self.max_tokens, self.seed, pictures]
        return blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Reply:
    """The text of a reply; `truncated` where the limit of tokens cut it."""

    text: str
    truncated: bool = False


class Unanswered(Exception):
    """This one request got no usable reply, after all tries; says why. Others may still succeed."""


class Asker(Protocol):
    """A language model that answers requests, several at a time."""

    @property
    def identity(self) -> str:
        """What replies depend on besides the request: the model's name, or its folder's content."""

    @property
    def name(self) -> str:
        """What messages and provenance call it; never holds a key."""

    async def check(self) -> None:
        """UserError where the model cannot be reached at all or is unknown; called before the first request."""

    async def ask(self, request: Request) -> Reply:
        """Unanswered where this request fails, UserError where every other one would fail too."""

    async def close(self) -> None:
        """Let go of connections."""


def one_line(text: object, most: int = 200) -> str:
    """A message on one line, cut to `most` characters."""
    plain = " ".join(str(text).split())
    return plain if len(plain) <= most else f"{plain[: most - 3]}..."


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


# ---- Any OpenAI-compatible endpoint, through the `openai` package: its retries and back-off, our pace and deadline.
#
# The key goes into the Authorization header and nowhere else: replies and error messages pass through `_redacted`.

_OLD_LIMIT, _NEW_LIMIT = "max_tokens", "max_completion_tokens"
_SECRET_LENGTH = 8  # a shorter key is a placeholder such as EMPTY, which may stand in any text


class Endpoint:
    """Chat completions of one model. `timeout` bounds one attempt in seconds, its body included."""

    def __init__(
        self,
        address: str,
        model: str,
        key: str,
        *,
        timeout: float = 120.0,
        retries: int = 4,
        requests_per_minute: float | None = None,
        key_env: str = "OPENAI_API_KEY",
    ) -> None:
        self.address = checked_address(address)
        self.model = model
        self._key, self._key_env = _checked_key(key, key_env), key_env
        self._timeout, self._retries = timeout, retries
        self._limit_name = _OLD_LIMIT
        self._client = openai.AsyncOpenAI(
            base_url=self.address,
            api_key=self._key or "none",  # left empty, the client would take one from the environment by itself
            max_retries=retries,
            http_client=_PacedClient(_Pace(requests_per_minute), timeout),
        )

    @property
    def identity(self) -> str:
        """The model's name: the same model at another address gives the same replies."""
        return self.model

    @property
    def name(self) -> str:
        """Model and address, for messages."""
        return f"{self.model} at {self.address}"

    async def check(self) -> None:
        """Ask for the list of models; UserError where nothing answers, the key is refused or the model is not listed."""
        try:
            raw = await self._send(self._client.models.with_raw_response.list())
        except (_NotOffered, _ErrorStatus):
            return  # a server that gives no such list says at the first request what it does not know
        except Unanswered as error:
            raise UserError(f"--endpoint {self.address}: {error}; check the address and that the server runs") from None
        names = _model_names(raw)
        if names and self.model not in names:
            raise UserError(f"--model {self.model}: {self.address} does not offer it; it has {listed(names)}")

    async def ask(self, request: Request) -> Reply:
        """The reply's text; a body that is no chat completion is asked for again, like a failed connection."""
        reason = ""
        for _ in range(self._retries + 1):
            try:
                return self._reply(await self._post(request))
            except _NotOffered as error:
                raise UserError(
                    f"--endpoint {self.address}, --model {self.model}: not found (HTTP 404: {error}); "
                    "check the address (most end in /v1) and the name"
                ) from None
            except _BadBody as error:
                reason = str(error)
        raise Unanswered(f"{reason}, {self._retries + 1} times")

    async def _post(self, request: Request) -> str:
        """The body of the response. The limit's old name is the one that every server knows but OpenAI's newer models."""
        limit = self._limit_name
        try:
            return await self._send(self._create(request, limit))
        except _ErrorStatus as error:
            if limit != _OLD_LIMIT or _NEW_LIMIT not in str(error):
                raise
            self._limit_name = _NEW_LIMIT
            return await self._send(self._create(request, _NEW_LIMIT))

    def _create(self, request: Request, limit_name: str) -> Awaitable[Any]:
        completions: Any = self._client.chat.completions.with_raw_response
        created: Awaitable[Any] = completions.create(
            model=self.model,
            messages=[{"role": "user", "content": _content(request)}],
            temperature=request.temperature,
            seed=request.seed,
            **{limit_name: request.max_tokens},
        )
        return created

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _send(self, sending: Awaitable[Any]) -> str:
        """The body of a response; the client's exceptions in our words."""
        try:
            raw = await sending
            return self._redacted(raw.text)
        except openai.APITimeoutError:
            raise Unanswered(f"no answer within {self._timeout:g} s, {self._retries + 1} times") from None
        except openai.APIConnectionError as error:
            reason = self._redacted(one_line(error.__cause__ or error)) or type(error.__cause__).__name__
            raise Unanswered(f"the connection failed ({reason}), {self._retries + 1} times") from None
        except openai.NotFoundError as error:
            raise _NotOffered(self._message(error)) from None
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            state = (
                f"the key in {self._key_env} was refused" if self._key else f"it wants a key, {self._key_env} has none"
            )
            raise UserError(
                f"--endpoint {self.address}: {state} (HTTP {error.status_code}: {self._message(error)}); "
                "set the variable, or name another one with --key-env"
            ) from None
        except openai.APIStatusError as error:
            tries = f", {self._retries + 1} times" if error.status_code == 429 or error.status_code >= 500 else ""
            raise _ErrorStatus(f"HTTP {error.status_code}: {self._message(error)}{tries}") from None

    def _reply(self, body: str) -> Reply:
        try:
            completion = json.loads(body)
        except (ValueError, RecursionError):
            raise _BadBody("the endpoint's answer is no JSON") from None
        choices = completion.get("choices") if isinstance(completion, dict) else None
        if not isinstance(choices, list):
            raise _BadBody("the endpoint's answer is no chat completion")
        if not choices or not isinstance(choices[0], dict):
            raise _BadBody("the endpoint's answer has no choices")
        message = choices[0].get("message")
        text = message.get("content") if isinstance(message, dict) else None
        if not isinstance(text, str) or not text.strip():
            raise _BadBody("the endpoint's answer has no text")
        return Reply(text, choices[0].get("finish_reason") == "length")

    def _message(self, error: openai.APIStatusError) -> str:
        body = error.body
        said = body.get("message") if isinstance(body, dict) else body
        return self._redacted(one_line(said or error.message))

    def _redacted(self, text: str) -> str:
        """The text without the key: some servers repeat it when they refuse it."""
        return text.replace(self._key, "***") if len(self._key) >= _SECRET_LENGTH else text


class _NotOffered(Exception):
    """HTTP 404: the address or the model does not exist."""


class _ErrorStatus(Unanswered):
    """Another HTTP error than a wrong key, address or model."""


class _BadBody(Exception):
    """HTTP 200 with a body that is no chat completion."""


class _Pace:
    """Starts of requests, evenly spaced; None = no limit."""

    def __init__(self, per_minute: float | None) -> None:
        self._interval = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0

    async def turn(self) -> None:
        """Return when the next request may start."""
        if self._interval:
            now = asyncio.get_running_loop().time()
            start = max(now, self._next)
            self._next = start + self._interval
            await asyncio.sleep(start - now)


class _PacedClient(openai.DefaultAsyncHttpxClient):
    """Each attempt, retries too, waits for its turn and has one deadline: a read timeout alone lets a body drip for ever."""

    def __init__(self, pace: _Pace, seconds: float) -> None:
        super().__init__(timeout=seconds)
        self._pace, self._seconds = pace, seconds

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        await self._pace.turn()
        try:
            async with asyncio.timeout(self._seconds):
                return await super().send(request, **options)
        except TimeoutError:
            raise httpx2.ReadTimeout("the deadline has passed", request=request) from None


def checked_address(address: str) -> str:
    """An http(s) address without a key in it; one without a path gets /v1. UserError otherwise."""
    try:
        parts = urlsplit(address)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if not sound:
        raise UserError("--endpoint is no address; write it like http://localhost:8000/v1")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise UserError("--endpoint holds a user name, a query or a fragment; give the key by --key-env instead")
    path = parts.path.rstrip("/") or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _checked_key(key: str, variable: str) -> str:
    key = key.strip()
    if not key.isascii() or not key.isprintable():
        raise UserError(f"the key in {variable} holds characters that no header can carry; set it again")
    return key


def _model_names(body: str) -> list[str]:
    """Names in a list of models; [] for a body of any other form."""
    try:
        listing = json.loads(body)
    except (ValueError, RecursionError):
        return []
    models = listing.get("data") if isinstance(listing, dict) else None
    return (
        [m["id"] for m in models if isinstance(m, dict) and isinstance(m.get("id"), str)]
        if isinstance(models, list)
        else []
    )


def _content(request: Request) -> str | list[dict[str, Any]]:
    """The prompt, with its images as data addresses where the marks stand."""
    if not request.images:
        return request.prompt
    images = iter(request.images)
    (message,) = chat_messages(request.prompt, len(request.images), "", "")
    return [
        part if part["type"] == "text" else {"type": "image_url", "image_url": {"url": _data_address(next(images))}}
        for part in message["content"]
    ]


def _data_address(image: ImageSource) -> str:
    buffer = io.BytesIO()
    image.open().save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
