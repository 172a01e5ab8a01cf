"""Which GPU a plan compares with."""

from __future__ import annotations

import pytest

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.planning.gpus import GIB, GPUS, choose_gpu, parse_smi


def test_a_listed_type() -> None:
    assert choose_gpu("h100-80", None) is GPUS["h100-80"]


def test_memory_alone_has_no_speed() -> None:
    gpu = choose_gpu(None, 12)
    assert gpu is not None
    assert (gpu.memory, gpu.flops) == (12 * GIB, None)


def test_memory_over_a_type_s_own() -> None:
    gpu = choose_gpu("a100-80", 20)
    assert gpu is not None
    assert (gpu.memory, gpu.flops) == (20 * GIB, GPUS["a100-80"].flops)


def test_an_unknown_type_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"--gpu h1000: no such type \(known: h200-141"):
        choose_gpu("h1000", None)


@pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS.keys())
def test_names_say_the_memory(gpu: object) -> None:
    name, memory = gpu.name, gpu.memory  # type: ignore[attr-defined]
    assert memory / 1e9 == pytest.approx(float(name.split("-")[1]), rel=0.08)


@pytest.mark.parametrize(
    ("text", "memory_mib", "speeds_of"),
    [
        ("NVIDIA H100 80GB HBM3, 81559\nNVIDIA H100 80GB HBM3, 81559\n", 81559, "h100-80"),
        ("NVIDIA A100-SXM4-40GB, 40960", 40960, "a100-40"),
        ("NVIDIA GeForce RTX 4090, 24564", 24564, "rtx4090-24"),
        ("Quadro P400, 2048", 2048, None),
    ],
)
def test_this_machine_s_gpu(text: str, memory_mib: int, speeds_of: str | None) -> None:
    gpu = parse_smi(text)
    assert gpu is not None
    assert gpu.memory == memory_mib * 2**20
    assert gpu.flops == (GPUS[speeds_of].flops if speeds_of else None)


def test_an_answer_of_another_form_is_no_gpu() -> None:
    assert parse_smi("No devices were found") is None
