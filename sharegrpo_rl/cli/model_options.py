"""A command whose options are the fields of a model: names, types, defaults, bounds and help are written there once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer
from annotated_types import Ge, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined


def options_of(model: type[BaseModel], **own: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: `command(options, ...)` gets a checked `model`, made from one command-line option for each field.

    A field is `--its-name`, a switch where it is a bool; its description is the help text. own: annotations of fields
    that are declared differently, such as `data=Annotated[str, typer.Argument(...)]`. The command's further parameters
    are kept.
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
        annotation = Annotated[field.annotation, _option(name, field)]
    default = inspect.Parameter.empty if required else field.get_default(call_default_factory=True)
    if isinstance(default, list | dict):
        default = None  # an option that may be given several times; the model knows what its absence means
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _option(name: str, field: FieldInfo) -> Any:
    bounds: dict[str, Any] = {}
    for bound in field.metadata:  # an open bound is left to the model: the command line knows none
        if isinstance(bound, Ge):
            bounds["min"] = bound.ge
        elif isinstance(bound, Le):
            bounds["max"] = bound.le
    extra: dict[str, Any] = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    flag = extra.get("flag") or f"--{name.replace('_', '-')}"
    return typer.Option(flag, help=field.description, metavar=extra.get("metavar"), **bounds)
