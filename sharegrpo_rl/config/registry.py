"""Losses, selections, rewards and callbacks by name. A user's `--import` file adds its own; built-in ones are imported
when first used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, Generic, TypeVar, overload

from sharegrpo_rl.data.types import Group
from sharegrpo_rl.errors import UserError, did_you_mean

LossFunction = Callable[[Any, Any], tuple[Any, Mapping[str, Any]]]  # in full: training/loss.py
SelectionFunction = Callable[[list[Group], Any], list[Group]]
RewardFunction = Callable[..., Sequence[float | None]]
"""TRL's signature: `fn(completions=[text, ...], **columns) -> [value or None, ...]`; each column is a list as long as
`completions`, only `answer_format` is one text. None says that a completion cannot be scored."""
F = TypeVar("F", bound=Callable[..., Any])
# A decorator gives back what it was given, with all its types.
Loss = TypeVar("Loss", bound=LossFunction)
Selection = TypeVar("Selection", bound=SelectionFunction)
Reward = TypeVar("Reward", bound=RewardFunction)
Callbacks = TypeVar("Callbacks", bound=type)


class Registry(Generic[F]):
    """The functions or classes that one option may name.

    kind: what they are, in a word. variable: the registry's own name in this module. option: the key that names them.
    built_in: name -> (`module:function`, one line about it), so that names and meanings are known without importing torch.
    """

    def __init__(self, kind: str, variable: str, option: str, built_in: Mapping[str, tuple[str, str]]) -> None:
        self.kind, self.option = kind, option
        self.user_functions: dict[str, F] = {}
        self._variable, self._built_in = variable, built_in

    def __reduce__(self) -> str:
        """Pickled by its name in this module: options that travel by value find the registry of the process they reach."""
        return self._variable

    def __iter__(self) -> Iterator[str]:
        return iter((*self._built_in, *self.user_functions))

    def register(self, name: str, function: F | None = None) -> Any:
        """Add a function, as a call or as a decorator. Defining the same function again (a notebook cell) replaces it;
        UserError where another function has the name."""
        if function is None:
            return lambda function: self.register(name, function)
        taken = self.user_functions.get(name)
        if name in self._built_in or (taken is not None and not same_definition(taken, function)):
            raise UserError(f"{self.kind} {name!r} is registered already; choose another name")
        self.user_functions[name] = function
        return function

    def check(self, name: str, key: str = "") -> None:
        """UserError, beginning with the key and naming the closest known name, where nothing is registered under `name`."""
        if name not in (known := list(self)):
            hint = did_you_mean(name, known)
            names = ", ".join(known) or f"none; --import FILE.py adds them with register_{self.kind}"
            raise UserError(f"{key or self.option}: no {self.kind} {name!r}{hint and f'; {hint}'} (known: {names})")

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
    "LOSSES",
    "loss",
    {
        "clipped": ("sharegrpo_rl.training.loss:clipped", "PPO's clipped ratio, with an optional dual clip (S2, S8)"),
        "likelihood": ("sharegrpo_rl.training.loss:likelihood", "negative log-likelihood; takes no advantages (SFT)"),
    },
)
SELECTIONS: Registry[SelectionFunction] = Registry(
    "selection",
    "SELECTIONS",
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
_STEPS = "sharegrpo_rl.rewards.steps"
MEASURED = {
    "accuracy": ("", "1 for a right answer, 0 for a wrong one or one that is not laid out as the format asks"),
    "format": ("", "1 for a completion laid out exactly as the format asks and not truncated, else 0"),
}
"""The rewards that the rubric itself measures in every run, whatever their weight."""
REWARDS: Registry[RewardFunction] = Registry(
    "reward",
    "REWARDS",
    "rewards",
    {
        **MEASURED,
        "key_steps": (
            f"{_STEPS}:key_steps_reward",
            "share of the row's key steps found in the steps; 0 where the row has none or the completion no answer",
        ),
        "step_validity": (
            f"{_STEPS}:step_validity_reward",
            "1 where every section is there, filled, once and in logical order, and nothing was cut off; else 0",
        ),
        "key_steps_released": (
            f"{_STEPS}:key_steps_released_reward",
            "the released code's share of key steps: substrings, with or without an answer",
        ),
        "step_validity_released": (
            f"{_STEPS}:step_validity_released_reward",
            "the released code's validity: bodies may be empty, sections before or behind the steps, the answer missing",
        ),
    },
)
CALLBACKS: Registry[type] = Registry("callbacks", "CALLBACKS", "user_callbacks", {})


@overload
def register_loss(name: str, function: Loss) -> Loss: ...
@overload
def register_loss(name: str) -> Callable[[Loss], Loss]: ...
def register_loss(name: str, function: LossFunction | None = None) -> Any:
    """Make a loss known as `loss: NAME`: `f(batch: LossInputs, options) -> (loss [B, T], statistics)`."""
    return LOSSES.register(name, function)


@overload
def register_selection(name: str, function: Selection) -> Selection: ...
@overload
def register_selection(name: str) -> Callable[[Selection], Selection]: ...
def register_selection(name: str, function: SelectionFunction | None = None) -> Any:
    """Make a selection known as `selection: NAME`: `f(groups, options) -> groups`, those worth training on, in order."""
    return SELECTIONS.register(name, function)


@overload
def register_reward(name: str, function: Reward) -> Reward: ...
@overload
def register_reward(name: str) -> Callable[[Reward], Reward]: ...
def register_reward(name: str, function: RewardFunction | None = None) -> Any:
    """Make a reward known as `rewards: {NAME: weight}`: `f(completions=[...], **columns) -> [value or None, ...]`."""
    return REWARDS.register(name, function)


@overload
def register_callbacks(name: str, callbacks: Callbacks) -> Callbacks: ...
@overload
def register_callbacks(name: str) -> Callable[[Callbacks], Callbacks]: ...
def register_callbacks(name: str, callbacks: type | None = None) -> Any:
    """Make a subclass of RLlib's RLlibCallback known as `user_callbacks: [NAME]`."""
    return CALLBACKS.register(name, callbacks)
