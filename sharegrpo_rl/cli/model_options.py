"""A command whose options are the fields of a model: names, types, defaults, bounds and help are written there once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import copy
from typing import Annotated, Any, get_origin, get_type_hints

import typer
from annotated_types import Ge, Le
from pydantic.fields import FieldInfo
from typer.models import OptionInfo, ParameterInfo

from sharegrpo_rl.config.option import Options, check


def options_of(model: type[Options], **spelled: ParameterInfo) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: `command(options, ...)` gets a checked `model`, made from one command-line option for each field.

    A field is `--its-name`, a switch where it is a bool, repeatable where it is a list or a table (pair by pair); its
    description is the help text. spelled: fields that are declared differently, such as
    `files=typer.Argument(metavar="FILE...")`. The command's further parameters are kept.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        others = [p for name, p in inspect.signature(command).parameters.items() if name != "options"]
        fields = [_parameter(name, field, spelled.get(name)) for name, field in model.model_fields.items()]
        parameters = [*fields, *(p.replace(annotation=hints[p.name], kind=p.KEYWORD_ONLY) for p in others)]
        parameters.sort(key=lambda p: p.default is not inspect.Parameter.empty)  # what must be named comes first

        def run(**values: Any) -> None:
            chosen = {name: values.pop(name) for name in model.model_fields}
            command(check(model, {name: value for name, value in chosen.items() if value is not None}), **values)

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _parameter(name: str, field: FieldInfo, spelled: ParameterInfo | None) -> inspect.Parameter:
    of_values: Any = list[str] if get_origin(field.annotation) is dict else field.annotation
    default = field.get_default(call_default_factory=True)
    if field.is_required():
        default = inspect.Parameter.empty
    elif isinstance(default, list | dict):
        default = None  # the model knows what it means to be given none
    described = Annotated[of_values, _described(name, field, spelled)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=described)


def _described(name: str, field: FieldInfo, spelled: ParameterInfo | None) -> ParameterInfo:
    """What typer is told about a field: how it is spelled, its help and its bounds."""
    told: ParameterInfo = copy(spelled) if spelled else typer.Option()
    if isinstance(told, OptionInfo) and told.default is ...:
        told.default = f"--{name.replace('_', '-')}"  # in an annotation, typer reads the first flag here
    told.help = field.description
    for bound in field.metadata:  # an open bound is left to the model: the command line knows none
        if isinstance(bound, Ge):
            told.min = bound.ge  # type: ignore[assignment]
        elif isinstance(bound, Le):
            told.max = bound.le  # type: ignore[assignment]
    return told
