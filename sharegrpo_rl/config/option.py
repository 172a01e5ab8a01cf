"""What `env_config` may hold: typed, documented fields, checked by name, type and bounds before any data is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from sharegrpo_rl.data.transforms import check_names
from sharegrpo_rl.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# ---- One option: a dataclass field with its meaning, bounds, unit and source; and the check of a value against it.


def option(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    source: str = "",
    choices: tuple[Any, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    exclusive_minimum: bool = False,
) -> Any:
    """A dataclass field that carries its documentation and its bounds."""
    metadata = {
        "doc": doc,
        "unit": unit,
        "source": source,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "exclusive_minimum": exclusive_minimum,
    }
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def meaning(entry: Field, quote: str = "") -> str:
    """An option's documentation, choices, bounds, unit and source in one line; `quote` goes around each choice."""
    notes = entry.metadata
    parts = [notes.get("doc", "")]
    if notes.get("choices"):
        parts.append("one of " + ", ".join(f"{quote}{choice}{quote}" for choice in notes["choices"]))
    low, high = notes.get("minimum"), notes.get("maximum")
    if low is not None:
        parts.append(f"{'above' if notes.get('exclusive_minimum') else 'at least'} {low:g}")
    if high is not None:
        parts.append(f"at most {high:g}")
    if notes.get("unit"):
        parts.append(f"in {notes['unit']}")
    if notes.get("source"):
        parts.append(f"source: {notes['source']}")
    return "; ".join(parts)


def check_option(options: type, name: str, value: Any) -> Any:
    """The value as its field wants it (an int for a float field becomes a float); UserError where it does not fit."""
    known = {f.name: f for f in fields(options)}
    spec = known[name].metadata
    hint = _hints(options)[name]
    optional = "None" in hint
    if value is None:
        if optional:
            return None
        raise UserError(f"{name}: null is not allowed; expected {hint.replace('<class ', '').strip('>')}")
    kind = next(k for k in (bool, int, float, str, dict, list) if k.__name__ in hint)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{name}: expected {kind.__name__}{' or null' if optional else ''}, got {value!r}")
    if spec["choices"] and value not in spec["choices"]:
        raise UserError(f"{name}: {value!r} is not one of {', '.join(map(str, spec['choices']))}")
    if kind in (int, float):
        _check_bounds(name, value, spec)
    return value


@cache
def _hints(options: type) -> dict[str, str]:
    """Each option's type as text. Kept: reading annotations takes longer than all checks, and a search makes many."""
    return {name: str(hint) for name, hint in get_type_hints(options).items()}


def _check_bounds(name: str, value: float, spec: Any) -> None:
    low, high = spec["minimum"], spec["maximum"]
    if value != value or value in (float("inf"), float("-inf")):
        raise UserError(f"{name}: {value} is not a finite number")
    if low is not None and (value < low or (spec["exclusive_minimum"] and value == low)):
        raise UserError(
            f"{name}: {value} is too small; it must be {'above' if spec['exclusive_minimum'] else 'at least'} {low}"
        )
    if high is not None and value > high:
        raise UserError(f"{name}: {value} is too large; it must be at most {high}")


Read = TypeVar("Read", bound="DataclassInstance")


def about(
    doc: str,
    *,
    unit: str = "",
    choices: tuple[Any, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
) -> dict[str, Any]:
    """Metadata of an option's field: its documentation and its bounds (both included)."""
    return {"doc": doc, "unit": unit, "choices": choices, "minimum": minimum, "maximum": maximum}


@dataclass(frozen=True)
class EnvOptions:
    """Options that every environment has."""

    max_questions: int | None = field(
        default=None,
        metadata=about("at most so many training questions, the skipped ones included; test stays whole", minimum=1),
    )
    subset_seed: int = field(default=0, metadata=about("which training questions max_questions keeps", minimum=0))
    skip_questions: int = field(
        default=0, metadata=about("first training questions to leave out: those of the warm start", minimum=0)
    )
    transforms: list[str] | None = field(
        default=None, metadata=about("image transforms to ask for; null = the task's own list")
    )
    transform_text_position: str = field(
        default="before",
        metadata=about("where the sentence about a transform stands", choices=("before", "after")),
    )

    def __post_init__(self) -> None:
        if self.transforms is not None:
            check_names(self.transforms)


def read_options(kind: type[Read], given: Mapping[str, Any], where: str = "env_config") -> Read:
    """The fields of `kind` from a table at the key `where`; UserError where a key is unknown or a value does not fit."""
    known = {f.name: f for f in fields(kind)}
    hints = get_type_hints(kind)
    values = {}
    for name, value in given.items():
        if name not in known:
            close = get_close_matches(str(name), list(known), n=1)
            hint = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(known)}"
            raise UserError(f"{where}.{name}: unknown key; {hint}")
        values[name] = _checked(f"{where}.{name}", value, hints[name], known[name].metadata)
    return kind(**values)


def _checked(key: str, value: Any, hint: Any, metadata: Mapping[str, Any]) -> Any:
    types = get_args(hint) if type(None) in get_args(hint) else (hint,)
    if value is None and type(None) in types:
        return None
    wanted = next(t for t in types if t is not type(None))
    kind = getattr(wanted, "__origin__", wanted)
    if isinstance(value, tuple):
        value = list(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)) or value != value:
        raise UserError(f"{key}: expected {_spelled(hint)}, got {value!r}")
    items = [*value, *value.values()] if kind is dict else value if kind is list else []
    fitting = (*get_args(wanted), int) if float in get_args(wanted) else get_args(wanted)
    if not all(isinstance(item, fitting) for item in items):
        raise UserError(f"{key}: expected {_spelled(hint)}, got {value!r}")
    if metadata["choices"] and value not in metadata["choices"]:
        raise UserError(f"{key}: {value!r} is not one of {', '.join(map(str, metadata['choices']))}")
    low, high = metadata["minimum"], metadata["maximum"]
    if (low is not None and value < low) or (high is not None and value > high):
        raise UserError(f"{key}: {value} is out of bounds; it must be {_bounds(low, high)}")
    return value


def _bounds(low: float | None, high: float | None) -> str:
    return f"at least {low}" if high is None else f"between {low} and {high}"


def _spelled(hint: Any) -> str:
    names = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "None": "null"}
    names |= {"list[str]": "a list of texts", "dict[str, str]": "a mapping of texts", "list": "a list of tables"}
    names |= {"dict[str, float]": "a mapping of numbers"}
    text = str(hint) if get_args(hint) else hint.__name__
    return " or ".join(names.get(part, part) for part in text.split(" | "))
