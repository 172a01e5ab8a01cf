"""Does our forward compute what the model's own does? Two texts and two pictures through both, when a model is loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from sharegrpo_rl.data.types import Completion, Prompt, PromptPack
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models.decoding import start_branches
from sharegrpo_rl.models.families import first_layers, narrow_windows, structural_obstacle, unknown_family
from sharegrpo_rl.models.policy import Policy, branch_logprobs, padded_logprobs, unwrapped
from sharegrpo_rl.models.prompts import Question

# How far log-probs may be apart: in float32 by the largest distance. In half precision by a pack's mean distance as a share of
# the spread of all: rounding gave up to 0.01 for the families of tests/models/test_probe.py, pictures not seen 0.33. A family
# that is not tested must come closer to share its prompts.
_EXACT, _ROUNDED, _ROUNDED_UNKNOWN = 1e-3, 0.2, 0.05
_OTHER_KERNELS = 0.05  # an engine's may always be this far apart: sure answers have no spread to measure rounding by
_WINDOW = 3  # tokens: less than a completion's
_COMPLETIONS = ((3, 1, 4, 1), (2, 7, 1))  # places in the tokens of an ordinary text


class OwnForwardError(UserError):
    """A model's own forward fails."""


def check_policy(policy: Policy) -> None:
    """Compare log-probs of a few tokens: the model's own forward, our trainer's and our sampler's.

    Only the first layers run. Where sharing the prompt makes a difference, the policy repeats it, row by row; where rows
    cannot run together, it runs them one at a time; where they differ then too: UserError with the difference.
    """
    model = unwrapped(policy.model)
    questions = probe_questions(policy)
    packs = _packs(policy, questions)
    with _quiet(model):
        own = _attempt(lambda: [_own(policy, p, q) for p, q in zip(packs, questions, strict=True)])
        if isinstance(own, Exception):
            raise OwnForwardError(
                f"model: the forward of {model.config.model_type} fails on a text and a picture ({_words(own)})"
            )
        if structural_obstacle(model) is None:
            policy.share_prompts()
            if (
                fault := _fault(policy, packs, own, _ROUNDED_UNKNOWN if unknown_family(model) else _ROUNDED)
            ) is not None:
                policy.repeat_prompts(f"with the prompt shared {fault}")
        if not policy.shares_prefix and (together := _fault(policy, packs, own)) is not None:
            policy.rows_alone = True
            if (alone := _fault(policy, packs, own)) is not None:
                raise UserError(
                    f"model: the trainer does not compute what {model.config.model_type} does itself: {alone}; it is not "
                    "supported"
                )
            _warn_once(f"one row at a time: several together: {together}")
    if policy.obstacle:
        _warn_once(f"one row per completion, the prompt repeated in each: {policy.obstacle}")


def probe_questions(policy: Policy) -> list[Question]:
    """Two texts and, where the model sees, three pictures, two of them of one shape."""
    rng = np.random.default_rng(0)
    questions = [Question("Is it so?"), Question("And why is it so, and not otherwise?")]
    if policy.encoder.image_processor is not None:
        seen = [rng.integers(0, 255, shape, dtype=np.uint8) for shape in ((56, 42, 3), (70, 126, 3), (56, 42, 3))]
        texts = ("What is to be seen here, and how many?", "Why?", "And here?")
        questions += [Question(text, (picture,)) for text, picture in zip(texts, seen, strict=True)]
    return questions


def _packs(policy: Policy, questions: Sequence[Question]) -> list[PromptPack]:
    """Each prompt with completions of several lengths, of ordinary tokens."""
    ordinary = policy.encoder.tokenizer("What is to be seen here?", add_special_tokens=False)["input_ids"]
    packs = []
    for group, prompt in enumerate(policy.encoder.encode(questions, check_length=False)):
        answers = [np.array([ordinary[(i + group) % len(ordinary)] for i in places]) for places in _COMPLETIONS]
        completions = tuple(Completion(ids, np.zeros(len(ids), np.float32), "", False) for ids in answers)
        packs.append(PromptPack(group, 0, prompt, completions, np.ones(len(answers)), np.ones(len(answers), bool)))
    return packs


def _own(policy: Policy, pack: PromptPack, question: Question) -> Tensor:
    """Log-probs by the model's own forward, one unpadded row at a time, of what its processor makes of text and pictures."""
    model = unwrapped(policy.model)
    given = _processed(policy, pack.prompt, question)
    if given["input_ids"][0].tolist() != pack.prompt.input_ids.tolist():
        raise ValueError("its processor expands a picture to other tokens")
    found = []
    for completion in pack.completions:
        tail = torch.from_numpy(completion.token_ids)[None]
        row = {**given, **_extended(model, given, tail.shape[1]), "input_ids": torch.cat([given["input_ids"], tail], 1)}
        row = {k: v.to(model.device, model.dtype if v.is_floating_point() else v.dtype) for k, v in row.items()}
        logits = model(**row, use_cache=False).logits[0, len(pack.prompt.input_ids) - 1 : -1].float()
        found.append(logits.log_softmax(-1).gather(1, tail[0, :, None].to(logits.device))[:, 0])
    return torch.cat(found)


def _processed(policy: Policy, prompt: Prompt, question: Question) -> dict[str, Tensor]:
    if not question.pictures:
        return {"input_ids": torch.from_numpy(prompt.input_ids)[None]}
    encoder = policy.encoder
    out = policy.processor(
        text=[encoder.template(question)],
        add_special_tokens=False,
        return_tensors="pt",
        **encoder.picture_inputs(question),
    )
    dropped = {"attention_mask", "labels"}
    return {name: value for name, value in out.items() if isinstance(value, Tensor) and name not in dropped}


def _extended(model: Any, given: dict[str, Tensor], tokens: int) -> dict[str, Tensor]:
    """The types of a prompt's tokens and of those that follow, as the model itself goes on with them when it generates."""
    types = {name: given[name] for name in ("mm_token_type_ids", "token_type_ids") if name in given}
    for _ in range(tokens if types else 0):
        mask = torch.ones_like(next(iter(types.values())))
        types = model._update_model_kwargs_for_generation({}, {**types, "attention_mask": mask}, num_new_tokens=1)
        types = {name: types[name] for name in ("mm_token_type_ids", "token_type_ids") if name in types}
    return types


def _rows(policy: Policy, packs: Sequence[PromptPack]) -> Tensor:
    model, rule = unwrapped(policy.model), policy.logit_rule
    return padded_logprobs(model, packs, 1.0, None, policy.pad_id, rule, policy.rows_alone).logprobs


def _shared(policy: Policy, packs: Sequence[PromptPack]) -> Tensor:
    return branch_logprobs(unwrapped(policy.model), packs, 1.0, None, None, policy.logit_rule).logprobs


def _sampled(policy: Policy, packs: Sequence[PromptPack]) -> Tensor:
    """Log-probs that the sampler would have seen, had it drawn these completions."""
    batches = [[pack] for pack in packs] if policy.rows_alone else [list(packs)]
    images = policy.image_bank([[pack.prompt for pack in batch] for batch in batches])
    found = []
    for batch in batches:
        said = [c.token_ids for pack in batch for c in pack.completions]
        prompts, counts = [pack.prompt for pack in batch], [len(pack.completions) for pack in batch]
        longest = max(map(len, said))
        branches = start_branches(policy, prompts, counts, images, longest)
        tokens = torch.tensor([[ids[min(place, len(ids) - 1)] for ids in said] for place in range(longest)])
        steps: list[Tensor] = []
        for said_now in tokens.to(branches.logits.device):
            steps.append(branches.logits.float().log_softmax(-1).gather(1, said_now[:, None])[:, 0])
            if len(steps) < longest:
                branches.step(said_now)
        found += [row[: len(ids)] for row, ids in zip(torch.stack(steps, 1), said, strict=True)]
    return torch.cat(found)


def _fault(policy: Policy, packs: Sequence[PromptPack], own: Sequence[Tensor], rounded: float = _ROUNDED) -> str | None:
    """How training or sampling as the policy does it now differs from the model's own log-probs; None where neither does."""
    dtype = unwrapped(policy.model).get_output_embeddings().weight.dtype
    batches = [range(len(packs)), range(2, len(packs), 2)]  # all, and pictures of one shape
    expected = [own[i] for batch in batches for i in batch]
    for compute in (_shared if policy.shares_prefix else _rows, _sampled):
        found = _attempt(lambda: torch.cat([compute(policy, [packs[i] for i in b]) for b in batches if b]))  # noqa: B023
        if isinstance(found, Exception):
            return f"it fails ({_words(found)})"
        apart, limit = _distance(found, expected, dtype, rounded)
        if not apart <= limit:
            return f"its log-probs are {apart:.1g} apart"
    return None


def _distance(
    found: Tensor, own: Sequence[Tensor], dtype: torch.dtype, rounded: float = _ROUNDED
) -> tuple[float, float]:
    """How far log-probs are apart, and how far they may be. `own`: those of each pack."""
    expected = torch.cat(list(own)).to(found.device)
    distance = (found - expected).abs()
    if dtype in (torch.float32, torch.float64):
        return float(distance.max()), _EXACT
    return max(float(part.mean()) for part in distance.split([len(x) for x in own])), rounded * float(expected.std())


def engine_fault(policy: Policy, packs: Sequence[PromptPack]) -> str | None:
    """How the log-probs that an engine sampled these packs with differ from the trainer's; None where they do not."""
    model, kept = unwrapped(policy.model), policy.logprob_temperature
    was_training = model.training
    model.eval()
    policy.logprob_temperature = None  # that of the engine, even where training takes another
    try:
        with torch.no_grad():
            found = policy.logprobs(packs).logprobs.cpu()
    finally:
        model.train(was_training)
        policy.logprob_temperature = kept
    own = [torch.from_numpy(np.concatenate([c.sampler_logprobs for c in pack.completions])) for pack in packs]
    computed_in = next(iter(policy.loaded_dtypes.values()), model.dtype)  # shards may be held in a wider type
    apart, limit = _distance(found, own, computed_in)
    return (
        None
        if apart <= max(limit, _OTHER_KERNELS / min(1.0, policy.temperature))
        else f"its log-probs are {apart:.1g} apart"
    )


def check_engine_answers(policy: Policy, packs: Sequence[PromptPack]) -> None:
    """UserError where an engine that has the policy's weights sampled these packs with other probabilities than its own."""
    if (fault := engine_fault(policy, packs)) is not None:
        family = unwrapped(policy.model).config.model_type
        raise UserError(f"config.engine: vLLM does not compute what {family} does here: {fault}; use hf")


T = TypeVar("T")


def _attempt(compute: Callable[[], T]) -> T | Exception:
    try:
        return compute()
    except (MemoryError, torch.OutOfMemoryError):  # says nothing about the model
        raise
    except Exception as error:  # whatever a foreign model raises: it is told, or another way is taken
        return error


@cache
def _warn_once(text: str) -> None:
    logging.getLogger(__name__).warning(text)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


@contextmanager
def _quiet(model: Any) -> Iterator[None]:
    """Inside, the model's first layers run alone, with short windows, without gradients, dropout and compiling."""
    was_training = model.training
    model.eval()
    try:
        with (
            torch.no_grad(),
            first_layers(model),
            narrow_windows(model, _WINDOW),
            torch.compiler.set_stance("force_eager"),
        ):
            yield
    finally:
        model.train(was_training)
