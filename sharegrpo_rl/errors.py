"""What every room needs without loading anything: the error that users see, "did you mean", versions of packages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Self

EXTRAS = {
    "easy-vqa": "easy_vqa",
    "expand": "openai",
    "optuna": "optuna",
    "plots": "matplotlib",
    "tensorboard": "tensorboard",
}
"""The module that each extra of the package brings, where one command or setting needs it."""


class UserError(Exception):
    """Wrong input (file, row, key, setting). The command line prints it without a traceback and exits with code 2."""


class NotFiniteError(UserError):
    """Weights or logits that are NaN or infinite: nothing can be sampled, trained or saved with them."""

    @classmethod
    def of(cls, what: str) -> Self:
        """Of what is not finite (`the logits are`). No `__init__` of its own: the error is pickled between processes."""
        return cls(f"{what} not finite (NaN or infinite): the weights overflowed; lower lr, and keep grad_clip above 0")


def closest(word: object, known: Iterable[str]) -> str | None:
    """The known name that a misspelt word most likely means, whatever its letter case; None where none is close."""
    by_lower = {name.lower(): name for name in known}
    matches = get_close_matches(str(word).lower(), list(by_lower), n=1)
    return by_lower[matches[0]] if matches else None


def did_you_mean(word: object, known: Iterable[str], otherwise: str = "") -> str:
    """`did you mean NAME?` for a message about an unknown name; `otherwise` where no known name is close."""
    near = closest(word, known)
    return f"did you mean {near}?" if near else otherwise


def has_extra(extra: str) -> bool:
    """Is the package of an extra installed? It is not imported."""
    return find_spec(EXTRAS[extra]) is not None


def require_extra(extra: str, what: str) -> None:
    """UserError that names the extra, where `what` needs its package and it is not installed."""
    if not has_extra(extra):
        package = EXTRAS[extra]
        raise UserError(f"{what} needs {package}, which is not installed; run pip install 'sharegrpo-rl[{extra}]'")


def package_version(name: str) -> str | None:
    """The installed version of a distribution, which is not imported; None where it is missing."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
