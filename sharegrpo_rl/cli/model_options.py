"""A command whose options are the fields of a model: names, types, defaults, bounds and help are written there once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import typer
from annotated_types import Ge, Gt, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

Command = TypeVar("Command", bound=Callable[..., None])
_AS_TYPED = (bool, int, float, str, Path)


def options_of(model: type[BaseModel], **own: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: `command(options, ...)` gets a checked `model`, made from one command-line option for each field.

    A field is `--its-name`, a switch where it is a bool; its description is the help text. own: annotations of fields
    that are asked for otherwise, such as `data=Annotated[str, typer.Argument(...)]`. The command's further parameters
    stay as they are.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        others = [p for name, p in inspect.signature(command).parameters.items() if name != "options"]
        fields = [_parameter(name, field, own.get(name)) for name, field in model.model_fields.items()]
        parameters = [*fields, *(p.replace(annotation=hints[p.name], kind=p.KEYWORD_ONLY) for p in others)]
        parameters.sort(key=lambda p: p.default is not inspect.Parameter.empty)  # what must be named comes first

        def run(**values: Any) -> None:
            chosen = {name: values.pop(name) for name in model.model_fields}
            command(model(**{name: value for name, value in chosen.items() if value is not None}), **values)

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _parameter(name: str, field: FieldInfo, annotation: Any) -> inspect.Parameter:
    required = field.default is PydanticUndefined and field.default_factory is None
    if annotation is None:
        annotation = Annotated[_plain(field.annotation), _option(name, field)]
    default = inspect.Parameter.empty if required else field.get_default(call_default_factory=True)
    if isinstance(default, list | dict):
        default = None  # an option that may be given several times; the model knows what its absence means
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _option(name: str, field: FieldInfo) -> Any:
    bounds: Mapping[str, Any] = {}
    for bound in field.metadata:
        if isinstance(bound, Ge):
            bounds = {**bounds, "min": bound.ge}
        elif isinstance(bound, Le):
            bounds = {**bounds, "max": bound.le}
        elif isinstance(bound, Gt):
            continue  # the model says so; the command line knows no open bounds
    flag = f"--{name.replace('_', '-')}"
    return typer.Option(*([flag] if field.annotation is not bool else [flag]), help=field.description, **bounds)


def _plain(annotation: Any) -> Any:
    """A field's type as the command line reads it."""
    if get_origin(annotation) in (Union, UnionType) or get_origin(annotation) is list:
        return annotation
    return annotation if annotation in _AS_TYPED or get_args(annotation) else str
