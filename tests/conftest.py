"""Tiny real models and hand-made packs for the tests of models, generation, training and everything above."""

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from tiny_models import CORPUS, gradients, make_pack, make_prompt, tiny_policy

import sharegrpo_rl  # noqa: F401  (before Ray: under `uv run` Ray would build an environment for every worker)

# A busy machine is no failure. Ray's workers would be nice to everybody else: next to a program that takes all cores,
# starting one would last minutes.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.fixture(scope="session")
def make_policy() -> Callable[..., Any]:
    """make_policy(temperature=, dtype=, seed=): a fresh Qwen2.5-VL of 80 thousand parameters."""
    return tiny_policy


@pytest.fixture(scope="session")
def policy() -> Any:
    """One tiny policy for tests that leave its weights alone."""
    return tiny_policy()


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """Builders: tiny.prompt(policy, text, pictures, seed), tiny.pack(policy, lengths, advantages, ...), tiny.gradients."""
    return SimpleNamespace(prompt=make_prompt, pack=make_pack, gradients=gradients, corpus=CORPUS)
