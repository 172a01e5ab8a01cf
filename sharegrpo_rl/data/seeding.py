"""Seeds derived from what they belong to, so that a run replays and resumes exactly."""

from __future__ import annotations

from hashlib import blake2b


def derive_seed(*parts: str | int) -> int:
    """A number below 2**63 that depends on every part, its type and its place; never on Python's salted `hash`."""
    digest = blake2b(digest_size=8)
    for part in parts:
        encoded = b"s" + part.encode() if isinstance(part, str) else b"i" + str(int(part)).encode()
        digest.update(len(encoded).to_bytes(4, "little"))  # lengths keep ("a", "bc") apart from ("ab", "c")
        digest.update(encoded)
    return int.from_bytes(digest.digest(), "little") >> 1
