"""`--import FILE.py`: the one way in which a user's code enters a run; its digest is recorded."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from sharegrpo_rl.errors import UserError

# ---- RLlib callbacks that a run file names: a user's `--import` file registers them. Free of Ray until a run begins.

CALLBACKS: dict[str, type] = {}


def register_callbacks(name: str, callbacks: type) -> None:
    """Make a subclass of RLlib's RLlibCallback known by `name`; UserError where another class has it already."""
    if CALLBACKS.get(name, callbacks) is not callbacks:
        raise UserError(f"callbacks {name!r} are registered already; choose another name")
    CALLBACKS[name] = callbacks


def find_callbacks(names: Sequence[str]) -> list[type]:
    """The classes of the names; UserError for one that nobody registered."""
    for name in names:
        if name not in CALLBACKS:
            known = ", ".join(CALLBACKS) or "none; --import FILE.py registers them with register_callbacks"
            raise UserError(f"user_callbacks: no callbacks {name!r} (known: {known})")
    return [CALLBACKS[name] for name in names]


IMPORTED: list[str] = []  # absolute paths, for the processes that this one starts


def import_user_files(paths: Sequence[Path]) -> dict[str, str]:
    """Execute each file (it registers rewards or environments); sha256 of each by file name."""
    digests = {path.name: _import(path) for path in paths}
    IMPORTED.extend(str(path.absolute()) for path in paths if str(path.absolute()) not in IMPORTED)
    return digests


def _import(path: Path) -> str:
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UserError(f"--import {path}: cannot be read ({error.strerror or error})") from None
    digest = hashlib.sha256(source).hexdigest()
    # Named by its content: two files of one name do not replace each other, and functions can be pickled to runners.
    name = f"sharegrpo_rl_user_{path.stem.replace('-', '_')}_{digest[:8]}"
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
    found = None
    trace = error.__traceback__
    while trace:
        if Path(trace.tb_frame.f_code.co_filename) == path.absolute():
            found = trace.tb_lineno
        trace = trace.tb_next
    return f", line {found}" if found else ""
