"""Stages of `gpu_proof.py` that no other command covers. Each prints one JSON line: `gpu_proof_stages.py vllm|profile`."""

from __future__ import annotations

import argparse
import json
import time
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from checkpoint import LIMITS
from gpu_sides import make_side
from real_sizes import TEXT, build
from workload import Work, off_policy, packs

from sharegrpo_rl.data.types import Prompt
from sharegrpo_rl.generation.generator import Sampling
from sharegrpo_rl.models.loading import ModelSettings, load_policy, save_pretrained
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.probe import engine_fault, probe_questions

SLEEPS, SYNCS = 20, 3
GIB = 2**30


def vllm(model: str, device: str, folder: Path) -> dict[str, Any]:
    """An engine beside the trainer on one device: log-probs, then sleep and wake, then new weights, checked each time."""
    from sharegrpo_rl.config.run import VLLMOptions
    from sharegrpo_rl.generation.vllm.engine import VLLMEngine
    from sharegrpo_rl.generation.vllm.generator import VLLMGenerator
    from sharegrpo_rl.models.weights import engine_weights

    on_gpu, dtype = device == "cuda", "bfloat16" if device == "cuda" else "float32"
    save_pretrained(Policy(*build(model, device, getattr(torch, dtype)), LIMITS), folder / "model")
    policy = load_policy(ModelSettings(str(folder / "model"), dtype, prompts=LIMITS))
    policy.model.to(device)
    settings = VLLMOptions(sleep=on_gpu, gpu_memory_utilization=0.4, kv_cache_gb=None if on_gpu else 0.2)
    started = time.perf_counter()
    engine = VLLMEngine(
        str(folder / "model"), policy, dtype=dtype, max_completion_tokens=64, images_per_prompt=1, settings=settings
    )
    found: dict[str, Any] = {"start_s": time.perf_counter() - started}
    generator = VLLMGenerator(policy, engine)
    prompts = policy.encoder.encode(probe_questions(policy), check_length=False)
    found["fault"] = engine_fault(policy, generator.answer_probe())
    first, answers, slept, woken = digest(generator, prompts), set(), [], []
    for _ in range(SLEEPS if on_gpu else 2):
        answers.add(digest(generator, prompts))  # wakes the engine, and puts it to sleep again
        slept.append(used(on_gpu))
        with engine.awake():
            woken.append(used(on_gpu))
    found |= {"sleeps": len(slept), "same_answers": answers == {first}, "asleep_gib": slept, "awake_gib": woken}
    sent, seconds = 0, []
    for version in range(SYNCS):
        with torch.no_grad():
            for parameter in policy.model.parameters():
                parameter.mul_(1.01)
        started = time.perf_counter()
        engine.load(engine_weights(policy.model), version)
        seconds.append(time.perf_counter() - started)
        sent = sum(weight.numel() * weight.element_size() for weight in policy.model.parameters())
    found |= {"sync_s": seconds, "sync_gib": sent / GIB, "changed": digest(generator, prompts) != first}
    return found | {"fault_after_sync": engine_fault(policy, generator.answer_probe())}


def digest(generator: Any, prompts: list[Prompt]) -> str:
    """Of greedy answers."""
    answers = generator.generate(prompts, 1, range(len(prompts)), Sampling(16, greedy=True))
    return blake2b(repr([a[0].token_ids.tolist() for a in answers]).encode(), digest_size=8).hexdigest()


def used(on_gpu: bool) -> float:
    """GiB of the whole GPU, whoever has them."""
    if not on_gpu:
        return 0.0
    free, total = torch.cuda.mem_get_info()
    return round((total - free) / GIB, 2)


def profile(model: str, device: str, folder: Path) -> dict[str, Any]:
    """A learner step by kernels. `idle`: the share of the step in which no kernel ran (of a GPU; kernels in a row)."""
    on_gpu, small = device == "cuda", model == "tiny"
    options = argparse.Namespace(
        side="ours+checkpointed", model=model, device=device, dtype="bfloat16" if on_gpu else "float32",
        max_tokens_per_microbatch=16_384,
    )  # fmt: skip
    net, policy, prepare = make_side(options)
    work = Work(56, 2, 8, 2) if small else Work(896, 8, 512, 32)
    step = prepare(off_policy(packs(policy, work), net.get_output_embeddings().weight.shape[0]))
    step(), step()
    activities = [torch.profiler.ProfilerActivity.CUDA] if on_gpu else [torch.profiler.ProfilerActivity.CPU]
    started = time.perf_counter()
    with torch.profiler.profile(activities=activities) as profiler:
        step()
        if on_gpu:
            torch.cuda.synchronize()
    wall = time.perf_counter() - started
    name = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    spent = sorted(((getattr(e, name) / 1e6, e.count, e.key) for e in profiler.key_averages()), reverse=True)
    kernels = [{"name": key[:120], "seconds": round(s, 4), "calls": n} for s, n, key in spent[:15]]
    total = sum(s for s, *_ in spent)
    return {
        "step_s": wall,
        "kernels_s": total,
        "idle": max(0.0, 1 - total / wall) if on_gpu else None,
        "kernels": kernels,
    }


def main() -> None:
    """The command line."""
    command = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    command.add_argument("stage", choices=("vllm", "profile"))
    command.add_argument("--model", choices=TEXT, default="3b")
    command.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    command.add_argument("--folder", type=Path, required=True)
    given = command.parse_args()
    stage = {"vllm": vllm, "profile": profile}[given.stage]
    print(json.dumps({"measurement": given.stage} | stage(given.model, given.device, given.folder)))


if __name__ == "__main__":
    main()
