"""A run's checkpoints on disk: sealed with their files' sizes and checksums, and found damaged before they are loaded.

A power cut, a full disk or a copy that was cut short leaves files that are too short, empty or full of zeros. A seal in
`run_state.json`, the file that is written last, tells them from whole ones by reading each file once.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.files import as_json

STATE_FILE = "run_state.json"
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Checkpoint:
    """A saved state: its folder, its iteration, the run's seconds up to it, and its line in result.json."""

    path: Path
    iteration: int
    seconds: float
    row: dict[str, Any]


class DamagedError(Exception):
    """A checkpoint that does not read whole; the text says why."""


def seal_checkpoint(folder: Path, row: Mapping[str, Any], seconds: float) -> None:
    """Write the run's own part of a checkpoint, the seal over all other files in it."""
    files = {
        path.relative_to(folder).as_posix(): [path.stat().st_size, _checksum(path)]
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / STATE_FILE
    }
    state = {"iteration": row["training_iteration"], "seconds": seconds, "row": row, "files": files}
    (folder / STATE_FILE).write_text(json.dumps(as_json(state), allow_nan=False))


def read_checkpoint(folder: Path) -> Checkpoint:
    """A checkpoint whose files are as they were sealed; DamagedError names the first that is not."""
    try:
        state = json.loads((folder / STATE_FILE).read_text())
        checkpoint = Checkpoint(folder, int(state["iteration"]), float(state["seconds"]), dict(state["row"]))
        sealed = dict(state["files"]) if "files" in state else None
    except OSError as error:
        raise DamagedError(f"{STATE_FILE} cannot be read ({error.strerror or error})") from None
    except (ValueError, TypeError, KeyError):
        raise DamagedError(f"{STATE_FILE} is empty or damaged") from None
    if sealed is None:
        _check_unsealed(folder)
    else:
        _check_files(folder, sealed)
    return checkpoint


def newest_whole(folders: list[Path], say: Callable[[str], Any]) -> Checkpoint | None:
    """The newest of `folders` that reads whole, None where there are none; `say` is told which newer ones do not.

    UserError where all are damaged.
    """
    damages = []
    for folder in reversed(folders):
        try:
            checkpoint = read_checkpoint(folder)
        except DamagedError as damage:
            damages.append(f"{folder}: {damage}")
            continue
        if damages:
            say(f"damaged checkpoint {'; '.join(damages)}; going on from {folder.name}, the newest that reads whole")
        return checkpoint
    if damages:
        raise UserError(
            f"{damages[0]}; no checkpoint in {folders[0].parent} reads whole; "
            "restore the folder from a copy, or give another --name to begin a new run"
        )
    return None


def _check_files(folder: Path, sealed: Mapping[str, Any]) -> None:
    for name, (size, checksum) in sealed.items():
        file = folder / name
        try:
            actual = file.stat().st_size
            if actual != size:
                raise DamagedError(f"{name} has {actual:,} bytes instead of {size:,}")
            if _checksum(file) != checksum:
                raise DamagedError(f"{name} is not what was written (its checksum differs)")
        except OSError as error:
            raise DamagedError(f"{name} cannot be read ({error.strerror or error})") from None


def _check_unsealed(folder: Path) -> None:
    """What can be told of a checkpoint from before there were seals: whether its weights are as long as they say."""
    for file in sorted(folder.rglob("*.safetensors")):
        with file.open("rb") as opened:
            header = int.from_bytes(opened.read(8), "little")
            try:
                tensors: dict[str, Any] = json.loads(opened.read(min(header, file.stat().st_size)))
                ends = [entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__"]
            except (ValueError, TypeError, KeyError, AttributeError):
                ends = None
        if ends is None or 8 + header + max(ends, default=0) != file.stat().st_size:
            raise DamagedError(f"{file.relative_to(folder)} is cut short or damaged")


def _checksum(file: Path) -> int:
    checksum = 0
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
