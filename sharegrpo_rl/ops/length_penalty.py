"""DAPO's soft penalty on completions that come close to the length limit."""

from __future__ import annotations


def overlong_penalty(length: int, max_length: int, buffer: int) -> float:
    """0 up to max_length - buffer tokens, then falling in a line to -1 at max_length (DAPO, eq. 13)."""
    if not 0 < buffer <= max_length:
        raise ValueError(f"the buffer must lie between 1 and {max_length} tokens, not {buffer}")
    return min(0.0, (max_length - buffer - length) / buffer)
