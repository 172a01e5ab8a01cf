"""docs/licenses.md names the packages of the lock, and reads licences from what packages say."""

from __future__ import annotations

from collections.abc import Callable
from email.message import Message
from importlib.metadata import Distribution, distribution
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("make_licenses")


def test_page_and_lock_name_the_same_packages_and_versions(script: ModuleType) -> None:
    assert sorted(script.listed()) == sorted(script.locked()), "run: make licenses"
    assert len(script.locked()) > 100


def test_the_summary_says_what_the_rows_say(script: ModuleType) -> None:
    text = script.PAGE.read_text(encoding="utf-8")
    rows = script.listed().items()
    proprietary = sorted({name for (name, _), words in rows if "Proprietary" in words})
    assert f"- proprietary: {', '.join(proprietary)}\n" in text
    assert all(name.startswith("nvidia-") for name in proprietary)
    copyleft = sorted({name for (name, _), words in rows if "MPL" in words})
    assert f"- MPL-2.0: {', '.join(copyleft)}\n" in text
    assert not [name for (name, _), words in rows if "GPL" in words]


def test_licences_are_those_of_installed_packages(script: ModuleType) -> None:
    assert script.license_of(distribution("pydantic")) == "MIT"  # an expression
    assert script.license_of(distribution("transformers")) == "Apache-2.0"  # words
    assert script.license_of(distribution("jinja2")).startswith("BSD")  # a classifier without its clauses, and a file


@pytest.mark.parametrize(
    ("stated", "licence"),
    [
        ({"License-Expression": "MIT-0"}, "MIT-0"),
        ({"License": "Apache License, Version 2.0"}, "Apache-2.0"),
        ({"License": "MIT License\n\nCopyright"}, "MIT"),
        ({"License": "UNKNOWN", "Classifier": "License :: OSI Approved :: ISC License (ISCL)"}, "ISC"),
        ({"License": "Redistribution and use in source and binary forms ... Neither the name of"}, "BSD-3-Clause"),
        ({"License": "BSD"}, "BSD (no more is said)"),
        ({}, "not named by the package"),
    ],
)
def test_metadata_in_other_words(script: ModuleType, stated: dict[str, str], licence: str) -> None:
    assert script.license_of(Stated(stated)) == licence


class Stated(Distribution):
    """A package that says this of itself."""

    def __init__(self, stated: dict[str, str]) -> None:
        self._message = Message()
        for key, value in stated.items():
            self._message[key] = value

    @property
    def metadata(self) -> Message:  # type: ignore[override]
        return self._message

    def read_text(self, filename: str) -> str | None:
        return None

    def locate_file(self, path: object) -> Path:
        raise FileNotFoundError(path)
