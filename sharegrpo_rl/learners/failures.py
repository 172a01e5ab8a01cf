"""Why a process died or a call failed, in a sentence: read from the words of Ray 2.60 and torch."""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass

from sharegrpo_rl.errors import UserError

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


# ---- What can go wrong with learners in other processes, said so that a user knows what to change.

LESS_MEMORY = (
    "lower max_tokens_per_microbatch, set activation_checkpointing: full or sharding: fsdp2, or give it more learners"
)
CARRIED = (UserError, OSError)  # exceptions that the driver raises as they are: what handles them asks for the type


class LearnerError(RuntimeError):
    """Learners failed in a way that starting them again does not mend, with the text of their own traceback."""


class LearnersRestarted(RuntimeError):
    """The learners were started again, and stand where iteration `iteration` had ended."""

    def __init__(self, iteration: int, reason: str) -> None:
        super().__init__(f"{reason}; the learners were started again and go on after iteration {iteration}")
        self.iteration = iteration


@dataclass(frozen=True)
class Failure:
    """An exception of one learner, as it travels: the exception itself only where it is of a type in CARRIED."""

    rank: int
    text: str
    carried: UserError | OSError | None = None

    @classmethod
    def of(cls, rank: int, error: BaseException) -> Failure:
        """From the exception, inside its handler."""
        return cls(rank, _readable(error), error if isinstance(error, CARRIED) else None)

    def error(self, doing: str) -> Exception:
        """What the driver raises; `doing` says over what the learner failed."""
        if self.carried is not None:
            return self.carried
        return LearnerError(f"learner {self.rank} failed over {doing}: {self.text}")


def _readable(error: BaseException) -> str:
    """The reason in a sentence, and the traceback."""
    return f"{why_failed(error, LESS_MEMORY)}\n{''.join(traceback.format_exception(error))}"


def reason_of_loss(rank: int, where: str, text: str) -> str:
    """Why a learner's process was lost, from what Ray says about it; `where` names its node and process."""
    return f"learner {rank} ({where}) was lost: {why_lost(text, LESS_MEMORY)}"
