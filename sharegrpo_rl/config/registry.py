"""Losses and selections by name. A user's `--import` file adds its own; built-in ones are imported when first used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar

from sharegrpo_rl.data.types import Group
from sharegrpo_rl.errors import UserError, did_you_mean

LossFunction = Callable[[Any, Any], tuple[Any, Mapping[str, Any]]]  # in full: training/loss.py
SelectionFunction = Callable[[list[Group], Any], list[Group]]
F = TypeVar("F", bound=Callable[..., Any])


class Registry(Generic[F]):
    """The functions that one option may name.

    built_in: name -> (`module:function`, one line about it), so that names and meanings are known without importing torch.
    """

    def __init__(self, option: str, built_in: Mapping[str, tuple[str, str]]) -> None:
        self.option = option
        self.user_functions: dict[str, F] = {}
        self._built_in = built_in

    def __reduce__(self) -> str:
        """Pickled by its name in this module: options that travel by value find the registry of the process they reach."""
        return {"loss": "LOSSES", "selection": "SELECTIONS"}[self.option]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._built_in, *self.user_functions))

    def register(self, name: str) -> Callable[[F], F]:
        """A decorator that adds a function. Defining the same function again (a notebook cell) replaces it; UserError where
        another function has the name."""

        def add(function: F) -> F:
            taken = self.user_functions.get(name)
            if name in self._built_in or (taken is not None and not same_definition(taken, function)):
                raise UserError(f"{self.option} {name!r} is registered already; choose another name")
            self.user_functions[name] = function
            return function

        return add

    def check(self, name: str) -> None:
        """UserError, with the closest known name, where nothing is registered under `name`."""
        if name not in (known := list(self)):
            hint = did_you_mean(name, known)
            raise UserError(
                f"{self.option}: no {self.option} {name!r}{hint and f'; {hint}'} (known: {', '.join(known)})"
            )

    def load(self, name: str) -> F:
        """The function of that name; UserError for an unknown one."""
        self.check(name)
        if name in self.user_functions:
            return self.user_functions[name]
        module, _, function = self._built_in[name][0].partition(":")
        loaded: F = getattr(import_module(module), function)
        return loaded

    def describe(self) -> Iterator[tuple[str, str]]:
        """(name, one line about it) of each."""
        yield from ((name, doc) for name, (_, doc) in self._built_in.items())
        yield from ((name, (f.__doc__ or "").strip().split("\n")[0]) for name, f in self.user_functions.items())


def same_definition(one: Any, other: Any) -> bool:
    """Are these one function or class, or two executions of its source?"""
    return one is other or (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


LOSSES: Registry[LossFunction] = Registry(
    "loss",
    {
        "clipped": ("sharegrpo_rl.training.loss:clipped", "PPO's clipped ratio, with an optional dual clip (S2, S8)"),
        "likelihood": ("sharegrpo_rl.training.loss:likelihood", "negative log-likelihood; takes no advantages (SFT)"),
    },
)
SELECTIONS: Registry[SelectionFunction] = Registry(
    "selection",
    {
        "none": ("sharegrpo_rl.rollouts.selection:keep_all", "every group is trained on"),
        "dynamic_sampling": (
            "sharegrpo_rl.rollouts.selection:keep_differing",
            "groups whose accuracies are not all equal (DAPO)",
        ),
        "online_filter": (
            "sharegrpo_rl.rollouts.selection:keep_in_band",
            "groups whose mean accuracy lies in [filter_low, filter_high] (MM-Eureka)",
        ),
    },
)


def register_loss(name: str) -> Callable[[LossFunction], LossFunction]:
    """Make a loss known as `loss: NAME`: `f(batch: LossInputs, options) -> (loss [B, T], statistics)`."""
    return LOSSES.register(name)


def register_selection(name: str) -> Callable[[SelectionFunction], SelectionFunction]:
    """Make a selection known as `selection: NAME`: `f(groups, options) -> groups`, those worth training on, in order."""
    return SELECTIONS.register(name)
