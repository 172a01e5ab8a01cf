"""How figures are written, everywhere alike: reports, tables on a terminal, progress lines, logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, TypeGuard

NONE = "-"  # shown where there is no figure


def is_known(value: object) -> TypeGuard[float]:
    """A number, and neither NaN nor infinite."""
    return isinstance(value, int | float) and isfinite(value)


def number(value: float | None, form: str = ",.0f") -> str:
    """A number in a format of Python's `format`: by default with thousands separated and no decimals."""
    return format(value, form) if is_known(value) else NONE


def percent(share: float | None, form: str = ".1f") -> str:
    """A share in 0..1 as percent, without the sign."""
    return number(None if share is None else 100 * share, form)


def percent_sign(share: float | None) -> str:
    """A share in 0..1 as percent, with the sign: `71.0 %`."""
    return f"{percent(share)} %" if is_known(share) else NONE


def short(value: Any, digits: int = 4) -> str:
    """A value of any kind: a float in at most that many significant digits, everything else unchanged."""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def gigabytes(size: float | None) -> str:
    """Bytes as GB (10^9), without the unit."""
    return number(None if size is None else size / 1e9, ".2f")


def memory_size(size: int) -> str:
    """Bytes as GiB, smaller ones as MiB (powers of 2), with the unit."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def p_value(value: float | None) -> str:
    """Three decimals, never 0."""
    return "below 0.001" if value is not None and value < 0.001 else number(value, ".3f")


def interval(estimate: Mapping[str, Any] | None, *, share: bool = True, signed: bool = False) -> str:
    """`71.0 (69.5 to 72.5)`: `value`, `low` and `high` as percent. The interval of a share is cut at 0 and 100."""
    if not estimate:
        return NONE
    form = "+.1f" if signed else ".1f"
    low, high = estimate["low"], estimate["high"]
    if not (is_known(estimate["value"]) and is_known(low) and is_known(high)):
        return percent(estimate["value"], form)
    if share:
        low, high = max(0.0, low), min(1.0, high)
    return f"{percent(estimate['value'], form)} ({percent(low, form)} to {percent(high, form)})"


def span(values: Sequence[int]) -> str:
    """Ascending counts as `48` or `48 to 1,200`."""
    return number(values[0]) if len(values) == 1 else f"{number(values[0])} to {number(values[-1])}"


def seed_list(seeds: Sequence[int]) -> str:
    """`0, 1, 2`; more than three consecutive seeds as `0 to 9`."""
    if len(seeds) > 3 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds)) or NONE


def clock(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 05 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
