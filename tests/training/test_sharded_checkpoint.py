"""Checkpoints of several ranks: resumed by other numbers of them and other shardings, complete or refused, exported."""

import numpy as np
import pytest
import torch
from rank_cases import LORA, Case, compared, made_step, trained, write_model
from rank_processes import on_ranks
from transformers import AutoModelForImageTextToText

from sharegrpo_rl.errors import NotFiniteError, UserError
from sharegrpo_rl.training.checkpoint import MARKER, _state, export_pretrained, full_weights, load, save
from sharegrpo_rl.training.sharding import full_tensor, local_part

SHARDINGS = (None, "ddp", "fsdp2")
SCHEDULED = {"lr": 1e-4, "lr_schedule": "cosine", "total_steps": 6, "minibatch_size": 3, "weight_decay": 0.01}
CASES = {
    "plain": Case(training=SCHEDULED),
    "frozen tower": Case(model={"freeze_vision_tower": True}, training=SCHEDULED),
    "rank 1 lora": Case(model={"lora": LORA | {"r": 1}}, training=SCHEDULED),  # fewer rows than ranks
    "bfloat16": Case(model={"dtype": "bfloat16"}, training=SCHEDULED),
}

TOLERANCE = {"ratio_max_deviation": 1e-5}  # of a single token: a float32 log-prob near -6 has steps of 5e-7
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # said of a process alone


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("checkpoints") / "model")


def run(sharding, function, *args):
    """On two ranks, or here; what rank 0 returns."""
    return function(*args, sharding) if sharding is None else on_ranks(2, function, *args, sharding)[0]


def state_of(step):
    """Weights as they are trained, moments and counters."""
    return {name: full_tensor(tensor).clone() for name, tensor in _state(step).items()}


def first_half(folder, case, out, sharding):
    """Two updates, a checkpoint, its state, and the metrics of two more updates."""
    step = made_step(folder, case, sharding)
    trained(step, case, [0, 1])
    save(step, out)
    return state_of(step), compared(trained(step, case, [2, 3]))


def second_half(folder, case, out, sharding):
    step = made_step(folder, case, sharding)
    load(step, out)
    return state_of(step), compared(trained(step, case, [2, 3]))


@pytest.mark.slow
@pytest.mark.parametrize("saved", SHARDINGS)
@pytest.mark.parametrize("name", CASES)
def test_another_sharding_goes_on_from_a_checkpoint(folder, tmp_path, name, saved):
    """Weights, moments and counters are the same bits; the steps that follow the same to 1e-6 (bfloat16: their kind)."""
    state, expected = run(saved, first_half, folder, CASES[name], tmp_path / "saved")
    files = {p.name for p in (tmp_path / "saved").glob("*.safetensors")}
    assert len(files) == (1 if saved is None else 2)
    for sharding in SHARDINGS:
        restored, found = run(sharding, second_half, folder, CASES[name], tmp_path / "saved")
        assert restored.keys() == state.keys()
        for key in state:
            torch.testing.assert_close(restored[key], state[key], rtol=0, atol=0, msg=key)
        for one, other in zip(found, expected, strict=True):
            if sharding == saved:
                assert one == other
            for key in other if name != "bfloat16" else ("policy_loss", "grad_norm"):
                tolerance = 0.02 if name == "bfloat16" else TOLERANCE.get(key, 1e-6)
                assert one[key] == pytest.approx(other[key], rel=tolerance, abs=tolerance), key


@pytest.mark.slow
def test_copies_that_are_sharded_leave_a_checkpoint_for_any_number_of_ranks(folder, tmp_path):
    case = CASES["plain"]
    state, _ = on_ranks(4, first_half, folder, case, tmp_path / "saved", "hsdp")[0]
    for restored in (
        run(None, second_half, folder, case, tmp_path / "saved")[0],
        run("fsdp2", second_half, folder, case, tmp_path / "saved")[0],
        on_ranks(4, second_half, folder, case, tmp_path / "saved", "hsdp")[3][0],
    ):
        assert restored.keys() == state.keys()
        assert all(torch.equal(restored[key], state[key]) for key in state)


def sizes_of_files(folder, out, sharding):
    step = made_step(folder, Case(), sharding)
    save(step, out)
    return sum(w.nbytes for w in state_of(step).values())


@pytest.mark.slow
def test_each_rank_writes_its_own_half(folder, tmp_path):
    total = run("fsdp2", sizes_of_files, folder, tmp_path / "saved")
    sizes = [p.stat().st_size for p in (tmp_path / "saved").glob("*.safetensors")]
    assert len(sizes) == 2
    for size in sizes:
        assert size == pytest.approx(total / 2, rel=0.1)


def in_parts(folder, out, sharding):
    """The bytes of this rank's state, and the sizes of its files; it goes on from them."""
    case = CASES["plain"]
    step = made_step(folder, case, sharding)
    trained(step, case, [0])
    save(step, out, part_bytes=100_000)
    mine = [p.stat().st_size for p in out.glob(f"shard-{step.ranks.rank + 1:05d}-*")]
    return sum(local_part(t).nbytes for t in _state(step).values()), mine


@pytest.mark.slow
@pytest.mark.parametrize("sharding", [None, "fsdp2"])
def test_a_checkpoint_is_written_in_parts(folder, tmp_path, sharding):
    """No file is much larger than asked, and any sharding goes on from them."""
    out = tmp_path / "saved"
    found = [in_parts(folder, out, None)] if sharding is None else on_ranks(2, in_parts, folder, out, sharding)
    for held, sizes in found:
        assert len(sizes) > 3
        assert max(sizes) < 100_000 + 30_000  # and the names
        assert sum(sizes) == pytest.approx(held, rel=0.3)
    states = [run(s, second_half, folder, CASES["plain"], out)[0] for s in SHARDINGS]
    for state in states[1:]:
        assert all(torch.equal(state[key], states[0][key]) for key in states[0])
    next(iter(out.glob("shard-00001-*"))).unlink()
    with pytest.raises(UserError, match=r"\d+ of the checkpoint's \d+ files are here"):
        load(made_step(folder, CASES["plain"], None), out)


def saved_and_loaded(folder, out, sharding):
    case = Case(model={"freeze_vision_tower": True})
    step = made_step(folder, case, sharding)
    with torch.no_grad():
        for p in step.policy.model.parameters():
            p.mul_(1.5)  # frozen weights are not those of the folder any more
    save(step, out, everything=True)
    other = made_step(folder, case, sharding)
    load(other, out)
    return dict(full_weights(step.policy)), dict(full_weights(other.policy))


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
def test_frozen_weights_are_saved_where_asked(folder, tmp_path, sharding):
    expected, found = run(sharding, saved_and_loaded, folder, tmp_path / "saved")
    assert len(expected) > 40
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)


def saved_alone(folder, case, out):
    step = made_step(folder, case, None)
    trained(step, case, [0])
    save(step, out)


def weights_of(folder, case, saved, out, sharding):
    """All weights of a checkpoint, those that train, and those under checkpoint names; a folder in small files."""
    step = made_step(folder, case, sharding)
    load(step, saved)
    export_pretrained(step.policy, out, file_bytes=60_000)
    kinds = ({}, {"everything": False}, {"merged": True})
    return [dict(full_weights(step.policy, **options)) for options in kinds]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_full_weights_and_exports_are_those_of_one_process(folder, tmp_path, name):
    case = CASES[name]
    saved_alone(folder, case, tmp_path / "saved")
    alone = run(None, weights_of, folder, case, tmp_path / "saved", tmp_path / "alone")
    assert (len(alone[1]) < len(alone[0])) == (name in ("frozen tower", "rank 1 lora"))
    for sharding in ("ddp", "fsdp2"):
        found = run(sharding, weights_of, folder, case, tmp_path / "saved", tmp_path / sharding)
        for one, other in zip(found, alone, strict=True):
            assert one.keys() == other.keys()
            for key in one:
                merged = 1e-6 if "lora" in name else 0  # a product of shards adds up in another order
                torch.testing.assert_close(one[key], other[key], rtol=0, atol=merged, msg=key)
        exported = AutoModelForImageTextToText.from_pretrained(tmp_path / sharding, dtype="auto")
        assert len(list((tmp_path / sharding).glob("model-*.safetensors"))) > 3
        for key, weight in exported.state_dict().items():
            torch.testing.assert_close(weight, found[2][key], rtol=0, atol=0, msg=key)


def test_an_unfinished_or_foreign_checkpoint_is_refused(folder, tmp_path):
    step = made_step(folder, Case(), None)
    with pytest.raises(UserError, match="no complete checkpoint"):
        load(step, tmp_path / "nowhere")
    save(step, tmp_path / "saved")
    with pytest.raises(ValueError, match="is not empty"):
        save(step, tmp_path / "saved")
    with pytest.raises(UserError, match="is trained in the checkpoint or in this run, not in both"):
        load(made_step(folder, Case(model={"freeze_vision_tower": True}), None), tmp_path / "saved")
    (tmp_path / "saved" / MARKER).write_text('{"files": 2}')
    with pytest.raises(UserError, match="1 of the checkpoint's 2 files"):
        load(step, tmp_path / "saved")


def spoiled(folder, out, sharding):
    """What saving says on this rank after the last rank's part of a weight went wrong, and whether anything was written."""
    step = made_step(folder, Case(), sharding)
    name, weight = next((n, w) for n, w in step.policy.model.named_parameters() if n.endswith("down_proj.weight"))
    if step.ranks.rank == step.ranks.size - 1:
        with torch.no_grad():
            local_part(step.optimizer.weight_of(weight))[-1, 0] = float("nan")
    try:
        save(step, out)
    except NotFiniteError as error:
        return str(error).startswith(f"the weight of {name} is not finite"), list(out.iterdir())
    return False, []


def test_weights_that_are_not_finite_are_not_saved(folder, tmp_path):
    assert spoiled(folder, tmp_path / "alone", None) == (True, [])


@pytest.mark.slow
def test_a_weight_that_is_not_finite_on_one_rank_stops_all(folder, tmp_path):
    assert on_ranks(2, spoiled, folder, tmp_path / "both", "fsdp2") == [(True, [])] * 2


def test_nothing_is_lost_by_saving(folder, tmp_path):
    """A step that was saved goes on as one that was not."""
    metrics = []
    for saves in (False, True):
        step = made_step(folder, CASES["plain"], None)
        if saves:
            save(step, tmp_path / "saved")
        metrics.append(trained(step, CASES["plain"], [0, 1]))
    assert metrics[0] == metrics[1]
    assert np.isfinite(metrics[0][-1]["grad_norm"])
