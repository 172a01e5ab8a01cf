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
# As Ray 2.60 says it of an actor that the caller finds gone.
UNAVAILABLE = (
    "The actor 5f is unavailable: The actor is temporarily unavailable: {}. The task may or may not have been executed on "
    "the actor."
)
# As Ray 2.60 says it of a worker over the memory that its own watch allows.
WATCHED = (
    "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.7, ID: a15e) was "
    "14.79GB used / 23.54GB limit (0.628346)\nOOM kill reason: Memory usage 15663636480B exceeded threshold of "
    "15115355136B\nSelected to kill: (Task: job ID=01000000, task name=QAEnvRunner.__init__, required resources={}, "
    "pid=2542, actual memory used=6.04GB, worker ID=f17b)"
)


def failure(error):
    try:
        raise error
    except type(error) as caught:
        return Failure.of(1, caught)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB."), "2.50 GiB more were.*max_tokens"),
        (ObjectStoreFullError("Failed to put object"), r"the object store is full \(Failed to.*\); start Ray with more obj"),
        (KeyError("the lost key"), "KeyError: 'the lost key'"),
    ],
)  # fmt: skip
def test_an_exception_is_told_with_its_traceback(error, told):
    text = pickle.loads(pickle.dumps(failure(error))).error("update")
    assert isinstance(text, LearnerError)
    with pytest.raises(LearnerError, match=rf"learner 1 failed in update: .*{told}(.|\n)*Traceback(.|\n)*raise error"):
        raise text


@pytest.mark.parametrize("error", [UserError("model: cannot load"), OSError(28, "No space left on device")])
def test_exceptions_that_someone_handles_keep_their_type(error):
    raised = pickle.loads(pickle.dumps(failure(error))).error("save")
    assert type(raised) is type(error)
    assert str(raised) == str(error)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            SUDDEN,
            r"was lost: it was killed, perhaps by the system for lack of memory \(see dmesg; then lower max_tokens",
        ),
        (
            UNAVAILABLE.format("RpcError: RPC error: recvmsg:Connection reset by peer rpc_code: 14"),
            "was lost: it was killed",
        ),
        (UNAVAILABLE.format("RpcError: RPC error: Socket closed rpc_code: 14"), "was lost: it was killed, perhaps by"),
        (UNAVAILABLE.format("IOError: The actor is restarting."), "was lost: it was killed, perhaps by the system"),
        (
            WATCHED,
            r"was lost: it was killed because its node ran out of memory \(14.79 of 23.54 GB in use, process 2542 held "
            r"6.04 GB\); lower max_tokens_per_microbatch",
        ),
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
