"""The folder that the new data set appears in, in one step and whole; and what was recorded there before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.expansion.requests import one_line

NOTES = "expansion"  # the folder inside the data set for what is no question; the loader passes over it
PROVENANCE, REJECTED = "provenance.json", "rejected.jsonl"


def journal_path(out: Path) -> Path:
    """Beside the data set, so that it outlives a run that was killed before there was one."""
    return out.with_name(f"{out.name}.journal.jsonl")


def check_out(out: Path, settings: dict[str, Any]) -> None:
    """UserError where `out` holds something that this command, with these settings, did not write."""
    if not out.name:
        raise UserError(f"--out {out}: name a folder to write")
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a folder")
    if not any(out.iterdir()):
        return
    recorded = _recorded(out)
    if recorded is None:
        raise UserError(f"--out {out}: is not empty and no expanded data set; name another folder")
    different = [key for key in {**settings, **recorded} if settings.get(key) != recorded.get(key)]
    if different:
        key = different[0]
        raise UserError(
            f"--out {out}: was made with {key} {recorded.get(key)!r}, now it is {settings.get(key)!r}; "
            "name another folder, or remove this one (the journal keeps its replies)"
        )


def _recorded(out: Path) -> dict[str, Any] | None:
    try:
        recorded = json.loads((out / NOTES / PROVENANCE).read_bytes())["settings"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return recorded if isinstance(recorded, dict) else None


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `out` at the end; nothing is left of it where that fails."""
    partial, old = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.old")
    try:
        for leftover in (partial, old):
            if leftover.exists():
                shutil.rmtree(leftover)
        partial.mkdir(parents=True)
        yield partial
        if out.exists():
            out.rename(old)
        partial.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"--out {out}: cannot be written ({one_line(error.strerror or error)}); free space or name another folder"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
