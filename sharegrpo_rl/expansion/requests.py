"""What is asked of a language model and what comes back, whichever way it is reached."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

from sharegrpo_rl.data.types import ImageSource


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
