"""An append-only file of replies, keyed by what was asked: a killed run goes on where it stopped, and asks nothing twice."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.expansion.requests import Reply, one_line


class Journal:
    """One JSON line a reply, written at once. A last line that a kill cut short is dropped when the file is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._replies: dict[str, Reply] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            self._lock()
            self._read()
        except BaseException:  # Ctrl-C too: an open file would keep its lock; raised again below
            os.close(self._file)
            raise

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> Reply | None:
        """The reply to a request asked before."""
        return self._replies.get(key)

    def add(self, key: str, reply: Reply) -> None:
        """Keep a reply; it is in the file when this returns. UserError where the disk is full."""
        line = json.dumps({"key": key, "text": reply.text, "truncated": reply.truncated}).encode() + b"\n"
        try:
            written = os.write(self._file, line)
            if written < len(line):
                raise OSError(f"{written} of {len(line)} bytes written")
        except OSError as error:
            raise self._unwritable(error) from None
        self._replies[key] = reply

    def close(self) -> None:
        """Close the file and give up the lock; an empty file is not left behind."""
        if not self._replies:
            self.path.unlink(missing_ok=True)
        os.close(self._file)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{self.path} is in use by another `expand`; wait until it ends, or choose another --out"
            ) from None

    def _read(self) -> None:
        end = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                self._take(line, number)
                end += len(line)
        if end < self.path.stat().st_size:
            os.ftruncate(self._file, end)

    def _take(self, line: bytes, number: int) -> None:
        try:
            entry = json.loads(line)
            self._replies[entry["key"]] = Reply(entry["text"], entry["truncated"])
        except (ValueError, TypeError, KeyError, RecursionError):
            raise UserError(f"{self.path} line {number} is damaged; delete that line and run again") from None

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f"cannot write {self.path}: {one_line(error.strerror or error)}; free some space or choose another --out"
        )
