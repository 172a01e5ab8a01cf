"""How figures are written."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sharegrpo_rl.statistics.formatting import (
    clock,
    gigabytes,
    interval,
    memory_size,
    number,
    p_value,
    percent,
    percent_sign,
    seed_list,
    short,
    span,
)

NAN, INFINITE = math.nan, math.inf


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (number(1234.5), "1,234"),
        (number(0.1234, ".3f"), "0.123"),
        (number(np.float64(2)), "2"),
        (number(None), "-"),
        (number(NAN), "-"),
        (number(-INFINITE, ".2f"), "-"),
        (percent(0.7104), "71.0"),
        (percent(None), "-"),
        (percent(-0.3, "+.1f"), "-30.0"),
        (percent_sign(0.7104), "71.0 %"),
        (percent_sign(None), "-"),
        (percent_sign(NAN), "-"),
        (memory_size(3 * 2**29), "1.5 GiB"),
        (memory_size(2**29), "512 MiB"),
        (clock(0), "0 s"),
        (clock(59.4), "59 s"),
        (clock(61), "1 min 01 s"),
        (clock(3599), "59 min 59 s"),
        (clock(3600), "1 h 00 min"),
        (clock(7260), "2 h 01 min"),
        (short(0.000123456), "0.0001235"),
        (short(1e-5, 6), "1e-05"),
        (short(20000), "20000"),
        (short(None), "None"),
        (short("word"), "word"),
        (gigabytes(2_000_000_000), "2.00"),
        (gigabytes(None), "-"),
        (p_value(0.0004), "below 0.001"),
        (p_value(0.04), "0.040"),
        (p_value(NAN), "-"),
        (span([48]), "48"),
        (span([48, 60, 1200]), "48 to 1,200"),
        (seed_list([0, 1, 2, 3]), "0 to 3"),
        (seed_list([0, 2]), "0, 2"),
        (seed_list([]), "-"),
    ],
)
def test_figures(written: str, text: str) -> None:
    assert written == text


def test_intervals() -> None:
    estimate = {"value": 0.98, "low": 0.9, "high": 1.06}
    assert interval(estimate) == "98.0 (90.0 to 100.0)"
    assert interval(estimate, share=False, signed=True) == "+98.0 (+90.0 to +106.0)"
    assert interval({"value": 0.5, "low": None, "high": None}) == "50.0"
    assert interval({"value": 0.5, "low": NAN, "high": NAN}) == "50.0"
    assert interval({"value": NAN, "low": NAN, "high": NAN}) == "-"
    assert interval(None) == "-"
