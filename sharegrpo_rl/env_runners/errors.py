"""What can go wrong in an env runner."""

from __future__ import annotations


class RunnerError(RuntimeError):
    """What went wrong in an env runner, with the text of its own traceback."""


class StaleWeights(RunnerError):
    """An env runner was asked for samples of other weights than it has."""
