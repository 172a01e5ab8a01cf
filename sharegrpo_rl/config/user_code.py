"""`--import FILE.py`: the one way in which a user's code enters a run; its digest is recorded."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharegrpo_rl.config.registry import LOSSES, REWARDS, SELECTIONS, Registry
from sharegrpo_rl.errors import UserError

USER_MODULE = "sharegrpo_rl_user_"

IMPORTED: list[str] = []  # absolute paths, in this process


@dataclass(frozen=True)
class UserCode:
    """What a user has added to this process, for the processes that it starts.

    files: `--import` files, executed there too. functions: (registry, name, function) of those registered elsewhere, in a
    script or a notebook; they travel by value.
    """

    files: tuple[str, ...] = ()
    functions: tuple[tuple[Registry[Any], str, Callable[..., Any]], ...] = ()

    @classmethod
    def of_this_process(cls) -> UserCode:
        """What has been added so far."""
        functions = tuple(
            (registry, name, function)
            for registry in (LOSSES, SELECTIONS, REWARDS)
            for name, function in registry.user_functions.items()
            if not function.__module__.startswith("sharegrpo_rl")  # neither ours nor a user file's
        )
        return cls(tuple(IMPORTED), functions)

    def load(self) -> None:
        """Add it to this process."""
        import_user_files([Path(file) for file in self.files])
        for registry, name, function in self.functions:
            registry.user_functions.setdefault(name, function)


def import_user_files(paths: Sequence[Path]) -> dict[str, str]:
    """Execute each file, which registers what it adds; sha256 of each by file name."""
    digests = {path.name: _import(path) for path in paths}
    IMPORTED.extend(str(path.absolute()) for path in paths if str(path.absolute()) not in IMPORTED)
    return digests


def is_user_file(module: str) -> bool:
    """Is this the name of a module that `import_user_files` has executed?"""
    return module.startswith(USER_MODULE)


def _import(path: Path) -> str:
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UserError(f"--import {path}: cannot be read ({error.strerror or error})") from None
    digest = hashlib.sha256(source).hexdigest()
    # Named by its content: two files of one name do not replace each other, and functions can be pickled to runners.
    name = f"{USER_MODULE}{path.stem.replace('-', '_')}_{digest[:8]}"
    if name in sys.modules:
        return digest
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"--import {path}: not a Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:
        del sys.modules[name]
        line = _failing_line(error, path)
        raise UserError(f"--import {path}{line}: {type(error).__name__}: {error}") from error
    return digest


def _failing_line(error: BaseException, path: Path) -> str:
    """`, line N`: the deepest line of the user's own file in the traceback."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f", line {error.lineno}"
    line = None
    trace = error.__traceback__
    while trace:
        if Path(trace.tb_frame.f_code.co_filename) == path.absolute():
            line = trace.tb_lineno
        trace = trace.tb_next
    return f", line {line}" if line else ""
