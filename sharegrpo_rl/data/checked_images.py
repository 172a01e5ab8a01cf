"""Remembers by content which images were decoded without complaint, within a walk and from one run to the next."""

from __future__ import annotations

from contextlib import suppress
from hashlib import blake2b

from sharegrpo_rl.data.cache import cache_folder, replacing
from sharegrpo_rl.data.types import ImageSource
from sharegrpo_rl.errors import UserError

_WORTH_KEEPING = 1000  # images newly decoded; fewer take no noticeable time


class CheckedImages:
    """Each distinct image is decoded once; `key` names the data set whose list is kept in the cache."""

    def __init__(self, key: str) -> None:
        name = blake2b(key.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
        self._file = cache_folder("checked_images") / f"{name}.txt"
        self._known: set[str] = set()
        with suppress(OSError, ValueError):  # no list, or a damaged one: everything is decoded again
            self._known = set(self._file.read_text(encoding="ascii").split())
        self._decoded = 0

    def check(self, image: ImageSource) -> None:
        """Decode the image unless its content is known; UserError from the image where it is bad."""
        if (content := image.fingerprint()) not in self._known:
            image.open()
            self._known.add(content)
            self._decoded += 1

    def save(self) -> None:
        """Keep the list for the next run, where that saves time."""
        if self._decoded < _WORTH_KEEPING:
            return
        # A cache that cannot be written only makes the next walk as long as this one.
        with suppress(UserError), replacing(self._file) as unfinished:
            unfinished.write_text("\n".join(sorted(self._known)), encoding="ascii")
