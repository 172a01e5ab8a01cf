"""What can go wrong with learners in other processes, said so that a user knows what to change."""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass

from sharegrpo_rl.errors import UserError

LESS_MEMORY = "lower token_budget, set gradient_checkpointing or sharding: fsdp2, or give it more learners"
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
    """The reason in a sentence where it is a known one, and the traceback."""
    told = "".join(traceback.format_exception(error))
    kind, text = type(error).__name__, " ".join(str(error).split())
    if kind == "OutOfMemoryError" and "CUDA" in text:
        wanted = re.search(r"Tried to allocate ([\d.]+ \w+)", text)
        amount = f" ({wanted.group(1)} more were wanted)" if wanted else ""
        return f"its GPU ran out of memory{amount}; {LESS_MEMORY}\n{told}"
    if kind in ("ObjectStoreFullError", "OutOfDiskError"):
        return (
            f"the object store is full; start Ray with more object_store_memory, or free disk for it to spill\n{told}"
        )
    return f"{kind}: {text}\n{told}"


def reason_of_loss(rank: int, where: str, text: str) -> str:
    """Why a learner's process was lost, from what Ray says about it; `where` names its node and process."""
    text = " ".join(text.split())
    if "low on memory" in text:  # Ray's own watch; "OOM" is named as a mere possibility in every sudden death
        used = re.search(r"[\d.]+\s?GB\s?/\s?[\d.]+\s?GB", text)
        amount = f" ({used.group()} in use)" if used else ""
        return f"learner {rank} ({where}) was killed because its node ran out of memory{amount}; {LESS_MEMORY}"
    if "unexpectedly exits" in text:
        return (
            f"learner {rank} ({where}) was lost: its process was killed, perhaps by the system's out-of-memory killer (see "
            f"dmesg; then {LESS_MEMORY}), or it crashed"
        )
    found = re.search(r"(The actor died because.*?|The actor is dead because.*?)\.(?:\s|$)", text)
    return f"learner {rank} ({where}) was lost: {found.group(1) if found else text[:300]}"
