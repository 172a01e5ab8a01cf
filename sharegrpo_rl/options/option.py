"""One option: a dataclass field with its meaning, bounds, unit and source; and the check of a value against it."""

from __future__ import annotations

from dataclasses import Field, field, fields
from functools import cache
from typing import Any, get_type_hints

from sharegrpo_rl.errors import UserError


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
