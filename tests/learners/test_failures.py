"""What a user reads when learners fail: the reason in a sentence, the key to change, and the traceback."""

import pickle

import pytest
import torch
from ray.exceptions import ObjectStoreFullError

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.learners.failures import Failure, LearnerError, reason_of_loss

SUDDEN = (
    "A worker health check failed. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits with a "
    "connection error code 2. End of file. Some common causes include: (1) the process was killed by the OOM killer"
)
WATCHED = (
    "Task was killed due to the node running low on memory. Memory on the node (IP: 10.0.0.7) where the task was running "
    "was 61.30GB / 64.00GB (0.957813), which exceeds the memory usage threshold of 0.95."
)


def failure(error):
    try:
        raise error
    except type(error) as caught:
        return Failure.of(1, caught)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU"), "2.50 GiB more were.*token_budget"),
        (ObjectStoreFullError("Failed to put object"), "the object store is full; start Ray with more object_store_memory"),
        (KeyError("the lost key"), "KeyError: 'the lost key'"),
    ],
)  # fmt: skip
def test_an_exception_is_told_with_its_traceback(error, told):
    text = pickle.loads(pickle.dumps(failure(error))).error("update")
    assert isinstance(text, LearnerError)
    with pytest.raises(
        LearnerError, match=rf"learner 1 failed over update: .*{told}(.|\n)*Traceback(.|\n)*raise error"
    ):
        raise text


@pytest.mark.parametrize("error", [UserError("model: cannot load"), OSError(28, "No space left on device")])
def test_exceptions_that_someone_handles_keep_their_type(error):
    raised = pickle.loads(pickle.dumps(failure(error))).error("save")
    assert type(raised) is type(error)
    assert str(raised) == str(error)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SUDDEN, "was lost: its process was killed, perhaps by the system's out-of-memory killer"),
        (WATCHED, r"was killed because its node ran out of memory \(61.30GB / 64.00GB in use\); lower token_budget"),
        (
            "The actor died because of an error raised in its creation task. More.",
            "was lost: The actor died because of an",
        ),
        ("something else", "was lost: something else"),
    ],
)
def test_a_death_is_told_with_its_place_and_cause(text, told):
    with pytest.raises(LearnerError, match=rf"learner 3 \(node 10.0.0.7, pid 5\) {told}"):
        raise LearnerError(reason_of_loss(3, "node 10.0.0.7, pid 5", text))
