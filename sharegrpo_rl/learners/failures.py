"""What can go wrong with learners in other processes, said so that a user knows what to change."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.learners.causes import why_failed, why_lost

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
    """The reason in a sentence, and the traceback."""
    return f"{why_failed(error, LESS_MEMORY)}\n{''.join(traceback.format_exception(error))}"


def reason_of_loss(rank: int, where: str, text: str) -> str:
    """Why a learner's process was lost, from what Ray says about it; `where` names its node and process."""
    return f"learner {rank} ({where}) was lost: {why_lost(text, LESS_MEMORY)}"
