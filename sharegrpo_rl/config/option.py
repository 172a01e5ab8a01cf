"""Options are fields of pydantic models: type, default, bounds, meaning, unit and source, each written once.

`check` is the one way in: what YAML, `--set`, `.training()` and Tune refuse, they refuse in the same words.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from sharegrpo_rl.config.names import suggestion, value_suggestion
from sharegrpo_rl.errors import UserError

Checked = TypeVar("Checked", bound="Options")
UnknownKey = Callable[[str, Any], str]
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # of one letter it would be a drive


def option(
    default: Any,
    doc: str | None = None,
    *,
    unit: str = "",
    source: str = "",
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    alias: str | None = None,
) -> Any:
    """A field with its documentation and bounds. A subclass that changes a default may leave out `doc` and bounds."""
    extra: dict[str, Any] = {"unit": unit, "source": source}
    bounds: dict[str, Any] = {"ge": ge, "gt": gt, "le": le}
    if isinstance(default, dict | list):
        return Field(
            default_factory=lambda: copy(default), description=doc, json_schema_extra=extra, alias=alias, **bounds
        )
    return Field(default, description=doc, json_schema_extra=extra, alias=alias, **bounds)


class Options(BaseModel):
    """A table of options: strict types, no unknown keys, finite numbers, unchangeable once checked."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, frozen=True, protected_namespaces=(), validate_default=True
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """A field that only changes a default takes meaning, unit and bounds from the parent class."""
        inherited = {
            name: _with_default_of(field, parent)
            for name, field in cls.model_fields.items()
            if field.description is None and (parent := cls._parent_field(name)) is not None
        }
        if inherited:
            cls.__pydantic_fields__.update(inherited)
            cls.model_rebuild(force=True)

    @model_validator(mode="after")
    def _check_folders(self) -> Self:
        """What is written goes to folders: a bucket's address would become a folder of that name, here."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            is_folder = isinstance(value, Path) or (isinstance(value, str) and name.endswith("_folder"))
            if is_folder and _ADDRESS.match(str(value)):
                raise UserError(
                    f"{name}: {value} is the address of a bucket or server; name a folder, such as one where it is mounted, or "
                    "copy the folder there afterwards"
                )
        return self

    @classmethod
    def _parent_field(cls, name: str) -> FieldInfo | None:
        parents = (base.model_fields for base in cls.__mro__[1:] if issubclass(base, Options))
        return next((fields[name] for fields in parents if name in fields), None)

    @classmethod
    def fields(cls) -> dict[str, FieldInfo]:
        """Every option by the name that run files use."""
        return {field.alias or name: field for name, field in cls.model_fields.items()}

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Every option's default, nested tables as dicts."""
        return cls().as_dict()

    def as_dict(self) -> dict[str, Any]:
        """Every option's value by the name that run files use, nested tables as dicts."""
        return self.model_dump(by_alias=True)

    def set_keys(self) -> set[str]:
        """Names of the options that were set, as opposed to left at their default."""
        fields = type(self).model_fields
        return {fields[name].alias or name for name in self.model_fields_set}


def _with_default_of(field: FieldInfo, parent: FieldInfo) -> FieldInfo:
    merged = copy(parent)
    merged.default, merged.default_factory = field.default, field.default_factory
    source = notes(field)["source"]
    merged.json_schema_extra = {"unit": notes(parent)["unit"], "source": source}
    return merged


def notes(field: FieldInfo) -> dict[str, str]:
    """Unit and source of an option."""
    extra = field.json_schema_extra
    return {"unit": "", "source": "", **({k: str(v) for k, v in extra.items()} if isinstance(extra, dict) else {})}


def check(model: type[Checked], table: Mapping[str, Any], unknown_key: UnknownKey | None = None) -> Checked:
    """The model of a table of options; UserError, beginning with the dotted key, for the first entry that does not fit.

    unknown_key: what to say about an unknown top-level key and its value; otherwise the closest known one is named.
    """
    known = model.fields()
    order = {key: index for index, key in enumerate(table)}
    for key, value in table.items():
        if key not in known:
            say = unknown_key(key, value) if unknown_key else unknown(key, known)
            raise UserError(f"{key}: {say}")
    try:
        return model.model_validate({key: list(v) if isinstance(v, tuple) else v for key, v in table.items()})
    except ValidationError as error:
        problems = error.errors(include_url=False)
        problem = min(
            problems, key=lambda p: (order.get(str(p["loc"][0]), -1), -len(p["loc"])) if p["loc"] else (-1, 0)
        )
        raise UserError(_message(model, problem)) from None


def check_at(
    prefix: str, model: type[Checked], table: Mapping[str, Any], unknown_key: UnknownKey | None = None
) -> Checked:
    """`check` with a prefix before each key: `config.` or `tune.budget.`."""
    try:
        return check(model, table, unknown_key)
    except UserError as error:
        text = str(error)
        raise UserError(text if text.startswith(prefix) else f"{prefix}{text}") from None


def unknown(key: str, known: Iterable[str]) -> str:
    """What to say about a key that a table does not have."""
    known = list(known)
    return f"no such key{suggestion(key, known)} (known: {', '.join(known)})"


def _message(model: type[Options], problem: Any) -> str:
    """One of pydantic's errors in our words: the dotted key, what is wrong, what would be right."""
    table, annotation, path = _entry_at(model, [part for part in problem["loc"] if part not in _UNION_BRANCHES])
    key, value, kind = _dotted(path), problem["input"], problem["type"]
    bounds = problem.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{key}: {unknown(str(path[-1]), table.fields())}"
    if kind == "value_error":
        return f"{key}: {bounds['error']}" if key else str(bounds["error"])
    if value is None:
        return f"{key}: null is not allowed; expected {type_words(annotation)}"
    if kind == "literal_error":
        hint = value_suggestion(str(path[-1]), value)
        return f"{key}: {value!r} is not one of {', '.join(map(str, _choices(annotation)))}{hint}"
    if kind == "finite_number":
        return f"{key}: {value} is not a finite number"
    if kind in ("greater_than", "greater_than_equal"):
        bound = f"above {bounds['gt']:g}" if "gt" in bounds else f"at least {bounds['ge']:g}"
        return f"{key}: {value} is too small; it must be {bound}"
    if kind == "less_than_equal":
        return f"{key}: {value} is too large; it must be at most {bounds['le']:g}"
    return f"{key}: expected {type_words(annotation)}, got {value!r}"


_UNION_BRANCHES = ("str", "list[str]", "list[dict[str,any]]")  # pydantic's names for the parts of a union, no keys


def _entry_at(model: type[Options], path: list[Any]) -> tuple[type[Options], Any, list[Any]]:
    """The innermost table of options on the way to an entry, the entry's type, and the way without pydantic's extras."""
    table: type[Options] = model
    annotation: Any = model
    for part in path:
        fields = table.fields() if annotation is table else {}
        if part in fields:
            annotation = fields[part].annotation
            if inner := nested(fields[part]):
                table = annotation = inner
        elif items := [get_args(t)[-1] for t in (annotation, *get_args(annotation)) if get_origin(t) in (list, dict)]:
            annotation = items[0]
    if path and annotation is table and (field := model.fields().get(path[-1])):
        annotation = field.annotation
    return table, annotation, path


def _dotted(path: list[Any]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def nested(field: FieldInfo) -> type[Options] | None:
    """The model of an option that is a table of options itself."""
    parts = (field.annotation, *get_args(field.annotation))
    return next((part for part in parts if isinstance(part, type) and issubclass(part, Options)), None)


def choices(field: FieldInfo) -> tuple[Any, ...]:
    """The values that an option with a fixed set of them may have."""
    return _choices(field.annotation)


def _choices(annotation: Any) -> tuple[Any, ...]:
    return next((get_args(part) for part in (annotation, *get_args(annotation)) if get_origin(part) is Literal), ())


_WORDS = {
    str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a table", list: "a list",
    type(None): "null",
}  # fmt: skip


def type_words(annotation: Any) -> str:
    """A type as a message names it: `a whole number or null`."""
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_words(part) for part in get_args(annotation)))
    if get_origin(annotation) is Literal:
        return "text"
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return "a table of keys"
    words = _WORDS.get(get_origin(annotation) or annotation, "something else")
    inner = {str: " of texts", Literal: " of texts", float: " of numbers", int: " of whole numbers", dict: " of tables"}
    items = get_args(annotation)
    return words + (
        inner.get(get_origin(items[-1]) or items[-1], "") if items and get_origin(annotation) in (list, dict) else ""
    )


def meaning(field: FieldInfo, quote: str = "") -> str:
    """An option's documentation, choices, bounds, unit and source in one line; `quote` goes around each choice."""
    parts = [field.description or ""]
    if values := choices(field):
        parts.append("one of " + ", ".join(f"{quote}{value}{quote}" for value in values))
    for bound in field.metadata:
        if isinstance(bound, Ge):
            parts.append(f"at least {bound.ge:g}")
        elif isinstance(bound, Gt):
            parts.append(f"above {bound.gt:g}")
        elif isinstance(bound, Le):
            parts.append(f"at most {bound.le:g}")
    about = notes(field)
    parts += [f"in {about['unit']}"] if about["unit"] else []
    parts += [f"source: {about['source']}"] if about["source"] else []
    return "; ".join(parts)
