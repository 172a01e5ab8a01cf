"""The process group that new weights travel by, over gloo: its members are threads here, which torch allows."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist

from sharegrpo_rl.models import weights
from sharegrpo_rl.models.weights import GroupBroken, WeightGroup, in_buckets, planned_weights

CPU = torch.device("cpu")
PATIENCE = 120.0


@pytest.fixture
def meet():
    """meet(receivers): the sender, and the receivers; all of them leave at the end."""
    joined = []

    def make(receivers=2, **options):
        meeting, store = opened(receivers, **options)
        with ThreadPoolExecutor(1 + receivers) as threads:
            members = [
                threads.submit(WeightGroup, meeting, rank, CPU, None if rank else store)
                for rank in range(1 + receivers)
            ]
        groups = [member.result() for member in members]
        joined.extend(groups)
        return groups[0], groups[1:]

    yield make
    for group in joined:
        group.close()


def opened(receivers, timeout_s=PATIENCE):
    return WeightGroup.open("127.0.0.1", 1 + receivers, "gloo", timeout_s)


def model(seed):
    """Weights of many sizes and two types, one of them larger than a bucket."""
    torch.manual_seed(seed)
    sizes = [(3, 5), (1,), (), (0,), (1024, 1300), (7, 9), (64, 64)] * 2
    dtypes = [torch.float32, torch.bfloat16, torch.float32]
    return [(f"w{i}", torch.randn(size).to(dtypes[i % 3])) for i, size in enumerate(sizes)]


def plan_of(sent):
    meta = [(name, torch.empty_like(tensor, device="meta")) for name, tensor in sent]
    return [bucket for bucket, _ in in_buckets(meta, 2**16)]


def send(group, plan, sent):
    group.start_sync()
    for planned, (bucket, _) in zip(plan, in_buckets(sent, 2**16), strict=True):
        group.send(planned, iter(bucket))
    group.flush()


def test_every_receiver_gets_every_bit_at_every_sync(meet):
    sender, receivers = meet()
    for seed in range(3):
        sent = model(seed)
        plan = plan_of(sent)
        assert len(plan) > 3
        with ThreadPoolExecutor(2) as threads:
            arrived = [threads.submit(lambda r, plan: list(r.receive(plan)), receiver, plan) for receiver in receivers]
            send(sender, plan, sent)
        for got in (a.result() for a in arrived):
            assert [name for name, _ in got] == [name for name, _ in sent]
            assert all(a.dtype == b.dtype and torch.equal(a, b) for (_, a), (_, b) in zip(got, sent, strict=True))
    assert not dist.is_initialized()


def test_little_is_under_way_at_once(meet, monkeypatch):
    monkeypatch.setattr(weights, "AHEAD_BYTES", 2**17)
    sender, (receiver,) = meet(1)
    sent = model(0)
    plan = plan_of(sent)
    with ThreadPoolExecutor(1) as threads:
        sending = threads.submit(send, sender, plan, sent)
        arriving = receiver.receive(plan)
        assert next(arriving)[0] == "w0"
        with pytest.raises(TimeoutError):  # 5 MB wait for a receiver that has not asked for them
            sending.result(1)
        assert [name for name, _ in arriving] == [name for name, _ in sent[1:]]
    sending.result()


def test_one_that_fails_tells_all(meet):
    sender, (bad, good) = meet()
    sent = model(0)
    plan = plan_of(sent)

    def send_forever():
        while True:  # what the network itself holds is sent in any case
            send(sender, plan, sent)

    def receive_forever():
        while True:
            list(good.receive(plan))

    started = time.monotonic()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(receive_forever)
        bad.close("its disk is full")
        with pytest.raises(GroupBroken, match="its disk is full"):
            send_forever()
        with pytest.raises(GroupBroken, match="its disk is full"):
            waiting.result()
    assert time.monotonic() - started < PATIENCE / 2


@pytest.mark.parametrize("called_off", [False, True])
def test_a_meeting_without_all_members_ends_with_the_reason(called_off):
    meeting, store = opened(2, timeout_s=PATIENCE if called_off else 2.0)
    with ThreadPoolExecutor(2) as threads:
        members = [
            threads.submit(WeightGroup, meeting, 0, CPU, store),
            threads.submit(WeightGroup, meeting, 1, CPU),
        ]
        if called_off:
            meeting.call_off("env runner 2 was lost")
    for member in members:
        with pytest.raises(GroupBroken, match="2 was lost" if called_off else "1 of 3 members did not come|the sender"):
            member.result()


def test_a_sender_that_is_gone_is_noticed():
    meeting, store = opened(1, timeout_s=2.0)
    del store
    with pytest.raises(GroupBroken):
        WeightGroup(meeting, 1, CPU)


def test_the_plan_is_of_what_is_sent(policy):
    dtypes = {name: torch.bfloat16 for name, _ in policy.model.named_parameters()}
    planned = [weight for bucket in planned_weights(policy.model, True, dtypes) for weight in bucket]
    state = policy.model.state_dict()
    assert {name: tensor.shape for name, tensor in planned} == {name: tensor.shape for name, tensor in state.items()}
    assert all(tensor.is_meta for _, tensor in planned)
    assert {tensor.dtype for name, tensor in planned if name in dtypes} == {torch.bfloat16}


def test_buckets_count_what_is_sent():
    held = [(str(i), torch.zeros(100)) for i in range(4)]
    assert [len(bucket) for bucket, _ in in_buckets(held, 800)] == [2, 2]
    assert [len(b) for b, _ in in_buckets(held, 800, dict.fromkeys("0123", torch.bfloat16))] == [4]
