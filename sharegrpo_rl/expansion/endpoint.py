"""Any OpenAI-compatible endpoint through the `openai` package: its retries and back-off, our pace and deadline.

The key goes into the Authorization header and nowhere else: replies and error messages pass through `_redacted`.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Awaitable
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

import openai

from sharegrpo_rl.data.messages import chat_messages
from sharegrpo_rl.data.types import ImageSource
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.expansion.options import DEFAULT_KEY_ENV
from sharegrpo_rl.expansion.session import Reply, Request, Unanswered, one_line

# What the installed openai sends with: httpx2 in its later versions, httpx in earlier ones.
_http: Any = import_module(openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0])
_OLD_LIMIT, _NEW_LIMIT = "max_tokens", "max_completion_tokens"
_SECRET_LENGTH = 8  # a shorter key is a placeholder such as EMPTY, which may occur in any text
_MODELS_SHOWN = 5


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
        key_env: str = DEFAULT_KEY_ENV,
    ) -> None:
        self.address = checked_address(address)
        self.model = model
        self._key, self._key_env = key.strip(), key_env
        if not self._key.isascii() or not self._key.isprintable():
            raise UserError(f"the key in {key_env} holds characters that no header can carry; set it again")
        self._timeout, self._retries = timeout, retries
        self._limit_name = _OLD_LIMIT
        self._client = openai.AsyncOpenAI(
            base_url=self.address,
            api_key=self._key or "none",  # left empty, the client would take one from the environment by itself
            max_retries=retries,
            http_client=_PacedClient(requests_per_minute, timeout),
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
            body = await self._send(self._client.models.with_raw_response.list())
        except _ErrorStatus:
            return  # a server without such a list says at the first request what it does not know
        except Unanswered as error:
            raise UserError(f"--endpoint {self.address}: {error}; check the address and that the server runs") from None
        names = _model_names(body)
        if names and self.model not in names:
            more = f" and {len(names) - _MODELS_SHOWN} more" if len(names) > _MODELS_SHOWN else ""
            listed = ", ".join(names[:_MODELS_SHOWN]) + more
            raise UserError(f"--model {self.model}: {self.address} does not offer it; it has {listed}")

    async def ask(self, request: Request) -> Reply:
        """The reply's text; a body that is not a chat completion is requested again, as after a failed connection."""
        reason: object = ""
        for _ in range(self._retries + 1):
            try:
                body = await self._post(request)
            except _ErrorStatus as error:
                if error.status != 404:
                    raise
                raise UserError(
                    f"--endpoint {self.address}, --model {self.model}: not found ({error}); "
                    "check the address (most end in /v1) and the name"
                ) from None
            try:
                return _read_completion(body)
            except ValueError as error:
                reason = error
        raise Unanswered(f"{reason}, {self._retries + 1} times")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _post(self, request: Request) -> str:
        """The body of the response. Every server knows the limit's old name, but for OpenAI's newer models."""
        limit_name = self._limit_name
        try:
            return await self._send(self._create(request, limit_name))
        except _ErrorStatus as error:
            if limit_name != _OLD_LIMIT or _NEW_LIMIT not in str(error):
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

    async def _send(self, sending: Awaitable[Any]) -> str:
        """The body of a response; the client's exceptions in our words."""
        tries = f"{self._retries + 1} times"
        try:
            return self._redacted((await sending).text)
        except openai.APITimeoutError:
            raise Unanswered(f"no answer within {self._timeout:g} s, {tries}") from None
        except openai.APIConnectionError as error:
            reason = self._redacted(one_line(error.__cause__ or error)) or type(error.__cause__).__name__
            raise Unanswered(f"the connection failed ({reason}), {tries}") from None
        except openai.APIStatusError as error:
            said = error.body.get("message") if isinstance(error.body, dict) else error.body
            message = f"HTTP {error.status_code}: {self._redacted(one_line(said or error.message))}"
            if error.status_code in (401, 403):
                refused = f"the key in {self._key_env} was refused"
                raise UserError(
                    f"--endpoint {self.address}: {refused if self._key else f'it needs a key, and {self._key_env} has none'} "
                    f"({message}); set the variable, or name another one with --key-env"
                ) from None
            retried = error.status_code == 429 or error.status_code >= 500
            raise _ErrorStatus(f"{message}, {tries}" if retried else message, error.status_code) from None

    def _redacted(self, text: str) -> str:
        """The text without the key: some servers repeat it when they refuse it."""
        return text.replace(self._key, "***") if len(self._key) >= _SECRET_LENGTH else text


class _ErrorStatus(Unanswered):
    """An HTTP error other than a refused key."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _PacedClient(openai.DefaultAsyncHttpxClient):
    """Evenly spaces the starts of all attempts, retries too, and gives each one deadline: a read timeout alone lets a
    body trickle in forever."""

    def __init__(self, requests_per_minute: float | None, seconds: float) -> None:
        super().__init__(timeout=seconds)
        self._interval = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next_start = 0.0
        self._seconds = seconds

    async def send(self, request: Any, **options: Any) -> Any:  # the types are _http's
        if self._interval:
            now = asyncio.get_running_loop().time()
            start = max(now, self._next_start)
            self._next_start = start + self._interval
            await asyncio.sleep(start - now)
        try:
            async with asyncio.timeout(self._seconds):
                return await super().send(request, **options)
        except TimeoutError:
            raise _http.ReadTimeout("the deadline has passed", request=request) from None


def checked_address(address: str) -> str:
    """An http(s) address without a key in it; one without a path gets /v1. UserError otherwise."""
    try:
        parts = urlsplit(address)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if not sound:
        raise UserError("--endpoint is not an address; write it like http://localhost:8000/v1")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise UserError("--endpoint holds a user name, a query or a fragment; give the key with --key-env instead")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"


def _read_completion(body: str) -> Reply:
    """ValueError saying what is wrong with a body that is no chat completion with a text."""
    try:
        completion = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("the endpoint's answer is not JSON") from None
    match completion:
        case {"choices": [{"message": {"content": str(text)}, **choice}, *_]} if text.strip():
            return Reply(text, choice.get("finish_reason") == "length")
        case {"choices": [{}, *_]}:
            raise ValueError("the endpoint's answer has no text")
        case {"choices": [*_]}:
            raise ValueError("the endpoint's answer has no choices")
    raise ValueError("the endpoint's answer is not a chat completion")


def _model_names(body: str) -> list[str]:
    """Names in a list of models; [] for a body of any other form."""
    try:
        listing = json.loads(body)
    except (ValueError, RecursionError):
        return []
    models = listing.get("data") if isinstance(listing, dict) else None
    entries = models if isinstance(models, list) else []
    return [entry["id"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]


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
