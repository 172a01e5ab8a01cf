"""The algorithms by name: the package's own, and those that a user's file registers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import ray.cloudpickle
from ray.tune.registry import register_trainable

from sharegrpo_rl.algorithms.base import RunAlgorithm
from sharegrpo_rl.algorithms.config import RunConfig
from sharegrpo_rl.config.presets import ALGORITHM_OPTIONS, PRESETS
from sharegrpo_rl.config.registry import same_definition
from sharegrpo_rl.config.resolve import options_of
from sharegrpo_rl.config.user_code import is_user_file
from sharegrpo_rl.errors import UserError

ALGORITHMS: dict[str, type[RunAlgorithm]] = {}

A = TypeVar("A", bound=type[RunAlgorithm])


def register_algorithm(name: str) -> Callable[[A], A]:
    """A class decorator: make a subclass of RunAlgorithm known as `run: NAME`, in run files, `list`, Tune and Python.

    It gets its own `Options` if it declares none, and a `Config` (`RLOO.Config()`), RLlib's fluent config over them.
    Defining the same class again (a notebook cell) replaces it; UserError where another class has the name.
    """

    def add(algorithm: A) -> A:
        if name in ALGORITHMS and not same_definition(ALGORITHMS[name], algorithm):
            raise UserError(f"run: algorithm {name!r} is registered already; choose another name")
        declared: Any = algorithm  # to a type checker the two are aliases, which a subclass may extend
        declared.Options = _complete_options(algorithm)
        declared.Config = _make_config(name, algorithm)
        if is_user_file(algorithm.__module__):  # Tune's trials and remote workers have not executed that file yet
            ray.cloudpickle.register_pickle_by_value(sys.modules[algorithm.__module__])
        ALGORITHMS[name] = algorithm
        ALGORITHM_OPTIONS[name] = algorithm.Options
        PRESETS.setdefault(name, {})
        register_trainable(name, algorithm)
        return algorithm

    return add


def register_with_tune() -> None:
    """Make every algorithm known to Tune by its name, and again after Ray was shut down and restarted."""
    for name, algorithm in ALGORITHMS.items():
        register_trainable(name, algorithm)


def find_algorithm(name: str) -> type[RunAlgorithm]:
    """The algorithm of that name; UserError for an unknown one."""
    options_of(name)
    return ALGORITHMS[name]


def build_config(run: str, env: str, settings: Mapping[str, Any], seed: int) -> RunConfig:
    """The config of one run; UserError for an unknown algorithm, option or value."""
    return find_algorithm(run).Config().environment(env).training(**settings).debugging(seed=seed)


def _complete_options(algorithm: type[RunAlgorithm]) -> Any:
    """The algorithm's own options, with its first line as theirs where they have none."""
    doc = (algorithm.__doc__ or "").split("\n")[0]
    options: Any = vars(algorithm).get("Options")
    if options is None:
        return type("Options", (algorithm.Options,), _names(algorithm, "Options", doc))
    options.__doc__ = options.__doc__ or doc
    return options


def _make_config(name: str, algorithm: type[RunAlgorithm]) -> type[RunConfig]:
    base: type[RunConfig] = algorithm.Config  # of the class that it extends, or its own addition to that

    def __init__(self: RunConfig, algo_class: type | None = None) -> None:
        base.__init__(self, algo_class=algo_class or algorithm)

    body = {"name": name, "options": algorithm.Options, "__init__": __init__}
    names = _names(algorithm, "Config", f"RLlib's fluent config over the options of {name}.")
    made: type[RunConfig] = type(f"{name}Config", (base,), body | names)
    return made


def _names(algorithm: type[RunAlgorithm], attribute: str, doc: str) -> dict[str, Any]:
    """What makes a class assigned to an attribute of the algorithm look as if it were written there."""
    return {
        "__module__": algorithm.__module__,
        "__qualname__": f"{algorithm.__qualname__}.{attribute}",
        "__doc__": doc,
    }
