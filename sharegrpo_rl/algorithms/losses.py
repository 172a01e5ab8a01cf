"""Why an actor was lost, in a sentence: who, what it lacked, and which key helps."""

from __future__ import annotations

import re

from ray.exceptions import (
    GetTimeoutError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RayError,
)

MEMORY_ADVICE = (
    "give it fewer images and completions at once (num_questions, num_samples, max_pixels, evaluation_batch), start fewer "
    "env runners a node, or set vllm.kv_cache_gb lower"
)
STORE_ADVICE = (
    "start Ray with more object_store_memory, or lower num_questions or max_pixels: pixels of an iteration lie there"
)


def reason_of(error: BaseException) -> str:
    """A readable reason for what Ray raised about an actor or an object."""
    text = " ".join(str(error).split())
    if isinstance(error, OutOfMemoryError) or "low on memory" in text:
        used = re.search(r"[\d.]+\s?GB\s?/\s?[\d.]+\s?GB", text)
        amount = f" ({used.group()} of its node were in use)" if used else ""
        return f"its node ran out of memory{amount}; {MEMORY_ADVICE}"
    if isinstance(error, ObjectStoreFullError | OutOfDiskError) or "ObjectStoreFullError" in text:
        return f"the object store is full ({_first_sentence(text)}); {STORE_ADVICE}"
    if isinstance(error, GetTimeoutError):
        return f"no answer in time ({_first_sentence(text)})"
    if isinstance(error, RayActorError):
        pid, ip = re.search(r"pid[=:]\s*(\d+)", text), re.search(r"ip[=:]\s*([\d.]+)", text)
        where = ", ".join(f"{name} {found.group(1)}" for name, found in (("pid", pid), ("node", ip)) if found)
        return f"its process{f' ({where})' if where else ''} died; {_cause(text)}"
    if isinstance(error, RayError):
        return _first_sentence(text)
    return f"{type(error).__name__}: {_first_sentence(text)}"


def _cause(text: str) -> str:
    """Ray's own words on the death of a worker."""
    found = re.search(r"(The actor is dead because.*?|Worker exit type:.*?|The actor died because.*?)\.(?:\s|$)", text)
    return found.group(1) if found else _first_sentence(text)


def _first_sentence(text: str) -> str:
    return text.split(". ")[0][:300]
