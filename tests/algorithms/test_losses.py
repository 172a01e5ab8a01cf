"""What Ray says about a lost actor becomes a sentence with the reason and what helps."""

from ray.exceptions import ActorUnavailableError, GetTimeoutError, ObjectStoreFullError, OutOfMemoryError

from sharegrpo_rl.algorithms.losses import reason_of


def test_memory():
    error = OutOfMemoryError(
        "Task was killed due to the node running low on memory.\nMemory on the node (IP: 10.0.0.3, ID: ab) where the task "
        "(actor ID: cd, name=QAEnvRunner, pid=4711, memory used=9.31GB) was running was 22.90GB / 24.00GB (0.954), which "
        "exceeds the memory usage threshold of 0.95."
    )
    text = reason_of(error)
    assert text.startswith("its node ran out of memory (22.90GB / 24.00GB of its node were in use)")
    assert "num_questions" in text


def test_object_store():
    text = reason_of(
        ObjectStoreFullError("Failed to put object ab in object store because it is full. Object size is 9 bytes")
    )
    assert text.startswith("the object store is full (")
    assert "object_store_memory" in text


def test_a_death_that_may_have_any_cause():
    """Ray mentions an OOM killer among possible causes of every death: that is no finding."""
    text = reason_of(ActorUnavailableError("RPC error: Socket closed. Possibly killed by the OOM killer", None))
    assert text.startswith("its process died")
    assert "ran out of memory" not in text


def test_time():
    assert reason_of(GetTimeoutError("Get timed out: some object(s) not ready.")).startswith("no answer in time")
