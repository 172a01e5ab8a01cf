"""Failures of learners in other processes, and why a process died or a call failed, in a sentence that says what to change."""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass

from sharegrpo_rl.errors import UserError

LESS_MEMORY = (
    "lower max_tokens_per_microbatch, set activation_checkpointing: full or sharding: fsdp2, or give it more learners"
)
CARRIED = (UserError, OSError)  # exceptions that the driver raises unchanged: handlers look at their type
STORE = "start Ray with more object_store_memory, or lower num_questions or max_pixels: it holds an iteration's pixels"

# How Ray 2.60 describes a process that ended without an error. It depends on who notices first: a caller finds its
# connection closed or reset, or the actor restarting, and calls it temporarily unavailable.
SUDDEN = ("unexpectedly exits", "actor was restarted", "temporarily unavailable")


class LearnerError(RuntimeError):
    """Learners failed in a way that a restart does not repair; with their own traceback."""


class LearnersUnavailable(LearnerError, UserError):
    """Learners that did not start, died too often or did not answer: a matter of the machines, told in one line."""


class LearnersRestarted(RuntimeError):
    """The learners were restarted, with the state that they had after iteration `iteration`."""

    def __init__(self, iteration: int, reason: str) -> None:
        super().__init__(f"{reason}; restarted the learners, which continue after iteration {iteration}")
        self.iteration = iteration


class PixelsLost(RuntimeError):
    """Pixels in the object store went with the process that put them there. Nothing was trained: render them again."""


@dataclass(frozen=True)
class Failure:
    """One learner's exception as text; the exception itself is carried along only where its type is in CARRIED."""

    rank: int
    text: str
    carried: UserError | OSError | None = None

    @classmethod
    def of(cls, rank: int, error: BaseException) -> Failure:
        """From the exception, inside its handler."""
        return cls(rank, _readable(error), error if isinstance(error, CARRIED) else None)

    def error(self, doing: str) -> Exception:
        """What the driver raises; `doing`: the command in which the learner failed."""
        if self.carried is not None:
            return self.carried
        return LearnerError(f"learner {self.rank} failed in {doing}: {self.text}")


def _readable(error: BaseException) -> str:
    """The reason in a sentence, and the traceback."""
    return f"{why_failed(error, LESS_MEMORY)}\n{''.join(traceback.format_exception(error))}"


def reason_of_loss(rank: int, where: str, text: str) -> str:
    """Why a learner's process was lost, from what Ray says about it; `where` names its node and process."""
    return f"learner {rank} ({where}) was lost: {why_lost(text, LESS_MEMORY)}"


def why_ended(text: str) -> str:
    """The last thing that Ray Train says about a run that ended, of many lines, and what to do about it."""
    said = [line for line in text.splitlines() if line.strip()]
    reason = " ".join(said[-1].split())[:400] if said else "it says nothing"
    if re.search(r"connectFullMesh|timed out connecting|NCCL|[Cc]onnection (?:refused|reset)", text):
        reason += (
            "; the nodes do not reach each other: set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME, before `ray start` on each "
            "node, to the network that joins them"
        )
    return reason


def why_lost(text: str, less_memory: str) -> str:
    """Why a process died, from what Ray says about it. `less_memory`: what to change if memory ran out."""
    text = " ".join(text.split())
    if "low on memory" in text:  # Ray's own monitor; for the kernel's killer Ray names memory as a mere possibility
        return f"it was killed because its node ran out of memory{_amounts(text)}; {less_memory}"
    cause = re.search(r"(The actor died because.*?|The actor is dead because.*?)\.(?:\s|$)", text)
    if any(words in text for words in SUDDEN):
        return f"it was killed, perhaps by the system for lack of memory (see dmesg; then {less_memory}), or crashed"
    return cause.group(1) if cause else text[:300]


def why_failed(error: BaseException, less_memory: str) -> str:
    """Why a call raised: what ran out, if anything did, else the exception itself."""
    kind, text = type(error).__name__, " ".join(str(error).split())
    if kind == "OutOfMemoryError" and "CUDA" in text:
        size = re.search(r"Tried to allocate ([\d.]+ \w+)", text)
        return f"its GPU ran out of memory{f' ({size.group(1)} more were needed)' if size else ''}; {less_memory}"
    if kind in ("ObjectStoreFullError", "OutOfDiskError"):
        return f"the object store is full ({text.split('. ')[0][:200]}); {STORE}"
    return f"{kind}: {text}"


def _amounts(text: str) -> str:
    """Memory of the node and of the killed process, from Ray's out-of-memory report."""
    node = re.search(r"([\d.]+)\s?GB(?: used)? / ([\d.]+)\s?GB", text)
    process = re.search(r"pid=(\d+), (?:actual )?memory used=([\d.]+)GB", text)
    facts = [f"{node.group(1)} of {node.group(2)} GB in use"] if node else []
    facts += [f"process {process.group(1)} held {process.group(2)} GB"] if process else []
    return f" ({', '.join(facts)})" if facts else ""
