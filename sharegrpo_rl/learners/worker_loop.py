"""What runs in each worker of Ray Train: build a learner, take up the committed state, do what the mailbox says.

Host and controller load this file too, so what a learner needs is imported where it is built.
"""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Any

import ray
import ray.train
import torch.distributed as dist

from sharegrpo_rl.learners.failures import Failure
from sharegrpo_rl.learners.mailbox import Member

if TYPE_CHECKING:
    from sharegrpo_rl.learners.learner_worker import LearnerWorker


def learner_loop(given: dict[str, Any]) -> None:
    """The train loop. `given`: the `host`, and a reference to the `learner`'s config and module spec.

    Exceptions are answers, not raised: Ray Train would start the group again over any, and a mistake be made again.
    """
    host = given["host"]
    if not ray.get(host.arrive.remote(ray.get_runtime_context().current_actor)):
        return
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    attempt = _agreed(uuid.uuid4().hex)
    try:
        from sharegrpo_rl.learners.learner_worker import LearnerWorker

        config, module_spec = ray.get(given["learner"])
        worker = LearnerWorker(config, module_spec, attempt)
        member = _member(rank, worker)
    except Exception as error:  # an answer: see above
        ray.get(host.fail_to_join.remote(attempt, Failure.of(rank, error)))
        return
    if ray.get(host.join.remote(attempt, world, member)):
        _serve(worker, host, attempt, rank)


def _serve(worker: LearnerWorker, host: Any, attempt: str, rank: int) -> None:
    number, answer = 0, None
    while (command := ray.get(host.exchange.remote(attempt, rank, number, answer))) is not None:
        name, arguments = command
        try:
            answer = worker.do(name, arguments)
        except Exception as error:  # an answer too
            answer = Failure.of(rank, error)
        number += 1


def _agreed(value: str) -> str:
    """Rank 0's value, on every rank."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _member(rank: int, worker: LearnerWorker) -> Member:
    facts = {"parameter_table": worker.parameter_table(), "version": worker.version}
    return Member(rank, ray.util.get_node_ip_address(), os.getpid(), worker.iteration, facts)
