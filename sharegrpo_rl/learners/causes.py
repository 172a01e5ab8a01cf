"""Why a process died or a call failed, in a sentence: read from the words of Ray 2.60 and torch."""

from __future__ import annotations

import re

STORE = "start Ray with more object_store_memory, or lower num_questions or max_pixels: an iteration's pixels lie there"

# How Ray tells of a process that ended without a word: node or caller, whoever notices first. A caller finds its
# connection closed or reset, or the actor restarting, and calls it temporarily unavailable.
SUDDEN = ("unexpectedly exits", "actor was restarted", "temporarily unavailable")


def why_lost(text: str, less_memory: str) -> str:
    """Why a process is gone, from what Ray says about it. `less_memory`: what to change where memory was short."""
    text = " ".join(text.split())
    if "low on memory" in text:  # Ray's own watch; every sudden death names the kernel's as a mere possibility
        return f"it was killed because its node ran out of memory{_amounts(text)}; {less_memory}"
    found = re.search(r"(The actor died because.*?|The actor is dead because.*?)\.(?:\s|$)", text)
    if any(words in text for words in SUDDEN):
        return f"it was killed, perhaps by the system for lack of memory (see dmesg; then {less_memory}), or crashed"
    return found.group(1) if found else text[:300]


def why_failed(error: BaseException, less_memory: str) -> str:
    """Why a call raised: what ran out, where that is it, else the exception itself."""
    kind, text = type(error).__name__, " ".join(str(error).split())
    if kind == "OutOfMemoryError" and "CUDA" in text:
        wanted = re.search(r"Tried to allocate ([\d.]+ \w+)", text)
        return f"its GPU ran out of memory{f' ({wanted.group(1)} more were wanted)' if wanted else ''}; {less_memory}"
    if kind in ("ObjectStoreFullError", "OutOfDiskError"):
        return f"the object store is full ({text.split('. ')[0][:200]}); {STORE}"
    return f"{kind}: {text}"


def _amounts(text: str) -> str:
    """What Ray's out-of-memory report says of the node and of the process that it ended."""
    node = re.search(r"([\d.]+)\s?GB(?: used)? / ([\d.]+)\s?GB", text)
    own = re.search(r"pid=(\d+), (?:actual )?memory used=([\d.]+)GB", text)
    facts = [f"{node.group(1)} of {node.group(2)} GB in use"] if node else []
    facts += [f"process {own.group(1)} held {own.group(2)} GB"] if own else []
    return f" ({', '.join(facts)})" if facts else ""
