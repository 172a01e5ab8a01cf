"""What works with which family of models: `uv run python benchmarks/families.py --out families.json [--only llama gemma3]`.

Each family is a tiny random model of transformers' own classes with its own processor (`tests/models`), saved as a folder
and then used as a run uses it. Prints the Markdown table of docs/model.md and one JSON line. A family that a run refuses
has the line that it ends with; a cell that is not as it should be holds what was found instead.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "models")]
import families_by_rows as rows  # noqa: E402
import families_with_windows as windows  # noqa: E402
import real_vocabularies as vocabularies  # noqa: E402
import small_families as small  # noqa: E402
from tiny_models import tiny_policy  # noqa: E402

from sharegrpo_rl.config import GRPOOptions  # noqa: E402
from sharegrpo_rl.data.types import Completion, PromptPack  # noqa: E402
from sharegrpo_rl.errors import UserError  # noqa: E402
from sharegrpo_rl.generation.generator import Sampling  # noqa: E402
from sharegrpo_rl.generation.hf import HFGenerator  # noqa: E402
from sharegrpo_rl.grader.formats import ANSWER_FORMATS  # noqa: E402
from sharegrpo_rl.models.loading import (  # noqa: E402
    ModelSettings,
    Parts,
    load_model,
    load_policy,
    parameter_table,
    save_pretrained,
)
from sharegrpo_rl.models.policy import Policy, unwrapped  # noqa: E402
from sharegrpo_rl.models.prompts import PromptEncoder, PromptSettings, Question  # noqa: E402
from sharegrpo_rl.models.sizes import LANGUAGE, PROJECTOR, VISION, tried_sizes  # noqa: E402
from sharegrpo_rl.training.step import TrainingStep  # noqa: E402

Built = tuple[Any, Any]
TEXT_ONLY = (
    "llama",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "smollm3",
    "mistral",
    "lfm2",
    "gemma2",
    "cohere",
    "granite",
    "falcon_h1",
)
MORE_TEXT_ONLY = (
    "mixtral", "olmo2", "phi3", "glm4", "gemma", "cohere2", "ernie4_5", "deepseek_v3", "glm4_moe_lite",
)  # fmt: skip


def qwen2_5_vl() -> Built:
    policy = tiny_policy()
    return policy.model, policy.processor


def _qwen2_vl() -> Built:
    return small.qwen2_vl(vocabularies.qwen("3"))


def _qwen3_5() -> Built:
    return small.qwen3_5(tokenizer=vocabularies.qwen("3.5"))


def _llama() -> Built:
    return small.text_only("llama", vocabularies.smollm2())


WHOLE = {"qwen2_vl-151669": _qwen2_vl, "qwen3_5-248077": _qwen3_5, "llama-49152": _llama}  # with a published vocabulary
FAMILIES: dict[str, Callable[[], Built]] = {
    "qwen2_vl": small.qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": small.qwen3_vl,
    "qwen3_vl_moe": partial(small.qwen3_vl, experts=True),
    "qwen3_5": small.qwen3_5,
    "qwen3_5_moe": partial(small.qwen3_5, experts=True),
    "gemma3": windows.gemma3,
    "gemma4": windows.gemma4,
    "internvl": small.internvl,
    "glm4v": windows.glm4v,
    "glm46v": windows.glm46v,
    "mistral3": small.mistral3,
    "llava": small.llava,
    "llava_next": small.llava_next,
    "llava_onevision": rows.llava_onevision,
    "idefics3": small.idefics3,
    "smolvlm": small.smolvlm,
    "deepseek_vl": rows.deepseek_vl,
    "lfm2_vl": rows.lfm2_vl,
    "minicpmv4_6": rows.minicpmv4_6,
    "aya_vision": windows.aya_vision,
    "paligemma": windows.paligemma,
    "mllama": rows.mllama,
    **{name: partial(small.text_only, name) for name in TEXT_ONLY},
    "gemma3_text": partial(small.text_only, "gemma3"),
    **{name: partial(rows.more_text_only, name) for name in MORE_TEXT_ONLY},
    **WHOLE,
}
EXACT = 1e-5  # of log-probs, and of a gradient as a share of its norm, in float32
TEMPERATURE = 0.7
PROMPTS = PromptSettings(max_prompt_tokens=512, min_pixels=784, max_pixels=3136)
SYSTEM = "You look closely.\nThen you count."
COIN = '''
"""A reward that differs between texts, whatever they say: random models learn nothing from the right answers they never give."""
import hashlib

from sharegrpo_rl.config.registry import register_reward

register_reward("coin", lambda completions, **columns: [hashlib.sha256(c.encode()).digest()[0] % 2 for c in completions])
'''
OK = "ok"


@dataclass
class Family:
    """A family's model as a folder, and what several columns need."""

    name: str
    folder: Path
    sees: bool
    trained: Path = field(default_factory=Path)  # the run folder of the column `train`

    @cached_property
    def policy(self) -> Policy:
        return self.load()

    def load(self, **settings: Any) -> Policy:
        return load_policy(ModelSettings(str(self.folder), prompts=PROMPTS, temperature=TEMPERATURE, **settings))

    def questions(self) -> list[Question]:
        """A text, one picture and two, of different shapes; texts alone for a model that does not see."""
        one, two, three = drawn(3)
        if not self.sees:
            return [Question("How many?"), Question("And how many red ones are there?")]
        return [Question("How many?"), Question("And how many?", (one,)), Question("How many in both?", (two, three))]

    def packs(self, policy: Policy) -> list[PromptPack]:
        """The questions with random completions of several lengths."""
        rng = np.random.default_rng(0)
        legal = np.setdiff1d(np.arange(len(policy.encoder.tokenizer)), policy.banned.numpy())
        packs = []
        for group, prompt in enumerate(policy.encoder.encode(self.questions())):
            ids = [rng.choice(legal, n).astype(np.int64) for n in (3, 1, 5)]
            said = tuple(Completion(i, np.zeros(len(i), np.float32), "", False) for i in ids)
            packs.append(PromptPack(group, 0, prompt, said, np.array([1.0, -0.5, 0.7]), np.ones(3, bool)))
        return packs


def drawn(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, shape, dtype=np.uint8) for shape in ((56, 42, 3), (70, 126, 3), (42, 56, 3))[:count]]


def path(family: Family) -> str:
    """Does the family share prompts, or run a row for each completion?"""
    if family.policy.rows_alone:
        return "rows, one at a time"
    return "shared" if family.policy.shares_prefix else "rows"


def logprobs(family: Family) -> str:
    """Log-probs and gradients against transformers' own forward, one row at a time, of what its processor makes."""
    policy, packs = family.policy, family.packs(family.policy)
    model = unwrapped(policy.model)
    own = torch.cat([_own(policy, p, q) for p, q in zip(packs, family.questions(), strict=True)])
    ours = policy.logprobs(packs).logprobs
    weights = torch.linspace(-1, 1.5, len(own))
    expected, found = (_gradient(model, (weights * x).sum()) for x in (own, ours))
    apart = float((own - ours).detach().abs().max())
    slope = float((found - expected).norm() / expected.norm())
    return verdict(apart <= EXACT and slope <= EXACT, f"{apart:.0e}, {slope:.0e}")


def _own(policy: Policy, pack: PromptPack, question: Question) -> Tensor:
    """By the model alone: each token's row ends before it, as when it generates, so that nothing later can be seen."""
    model, encoder = unwrapped(policy.model), policy.encoder
    given: dict[str, Any] = {"input_ids": torch.from_numpy(pack.prompt.input_ids)[None]}
    if question.pictures:
        given = policy.processor(
            text=[encoder.template(question)],
            add_special_tokens=False,
            return_tensors="pt",
            **encoder.picture_inputs(question),
        )
    prompt = given["input_ids"]
    found = []
    for completion in pack.completions:
        for place, token in enumerate(completion.token_ids.tolist()):
            row = dict(given)
            row.pop("attention_mask", None)
            said = torch.from_numpy(completion.token_ids[:place])[None]
            row["input_ids"] = torch.cat([prompt, said], 1)
            for name in ("mm_token_type_ids", "token_type_ids"):
                if name in row:
                    row[name] = torch.cat([row[name], torch.zeros_like(said)], 1)
            logits = model(**row, use_cache=False).logits[0, -1].float() / TEMPERATURE
            logits = logits.index_fill(0, policy.banned, float("-inf"))
            found.append(logits.log_softmax(-1)[token])
    return torch.stack(found)


def _gradient(model: Any, loss: Tensor) -> Tensor:
    model.zero_grad(set_to_none=True)
    loss.backward()
    whole = torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in model.parameters()])
    model.zero_grad(set_to_none=True)
    return whole


def sampler(family: Family) -> str:
    """The largest distance between the log-probs that a completion was sampled with and the trainer's."""
    policy, questions = family.policy, family.questions()
    prompts = policy.encoder.encode(questions)
    answers = HFGenerator(policy).generate(prompts, 3, range(len(prompts)), Sampling(8))
    packs = [
        PromptPack(i, 0, prompt, said, np.ones(3), np.ones(3, bool))
        for i, (prompt, said) in enumerate(zip(prompts, answers, strict=True))
    ]
    sampled = np.concatenate([c.sampler_logprobs for said in answers for c in said])
    with torch.no_grad():
        gap = float(np.abs(policy.logprobs(packs).logprobs.numpy() - sampled).max())
    return verdict(gap <= 3e-5, f"{gap:.0e}")


def bans(family: Family) -> str:
    """Special tokens that a picture brings into a prompt are banned."""
    policy, encoder = family.policy, family.policy.encoder
    if not family.sees:
        return "none to ban"
    with_picture, without = encoder.encode([Question("Why?", tuple(drawn(1))), Question("Why?")])
    special = set(encoder.tokenizer.all_special_ids) | set(encoder.tokenizer.added_tokens_decoder)
    media = (set(with_picture.input_ids.tolist()) - set(without.input_ids.tolist())) & special
    said = media - set(policy.banned.tolist())
    return verdict(bool(media) and not said, f"may say {encoder.tokenizer.convert_ids_to_tokens(sorted(said))}")


def freezing(family: Family) -> str:
    """A frozen part stays as it was while the rest moves; a part that is not there is refused."""
    for part, key in ((VISION, "freeze_vision_tower"), (PROJECTOR, "freeze_projector")):
        if not family.sees:
            if not _refuses(partial(family.load, **{key: True})):
                return f"{key} of a model without one is taken"
            continue
        policy = family.load(**{key: True})
        moved = _moved(family, policy)
        if part in moved or LANGUAGE not in moved:
            return f"{key}: moved {sorted(moved)}"
    return OK


def lora(family: Family) -> str:
    """Adapters of the language model move, and nothing else does."""
    policy = family.load(lora={"r": 2, "alpha": 4, "target_modules": ["language"]})
    own = [n for n, _ in unwrapped(policy.model).named_parameters() if "lora_" not in n]
    moved = _moved(family, policy)
    if moved != {LANGUAGE}:
        return f"moved {sorted(moved)}"
    if any(p.requires_grad for n, p in policy.model.named_parameters() if "lora_" not in n):
        return "trains weights below its adapters"
    return "ok, experts not" if any(".experts." in n for n in own) else OK


def _moved(family: Family, policy: Policy) -> set[str]:
    """Parts of which a training step moved a weight."""
    before = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
    TrainingStep(policy, GRPOOptions(lr=1e-2)).update(family.packs(policy))
    parts = Parts(policy.model)
    return {parts.of(n) for n, p in policy.model.named_parameters() if not torch.equal(p, before[n])}


def plan(family: Family) -> str:
    """`plan` counts, from the config alone, the parameters of each part, and how often a prompt runs."""
    sizes = tried_sizes(str(family.folder), None)
    counted = {part: count for part, count, _ in parameter_table(family.policy.model)}
    if dict(sizes.parameters) != counted:
        return f"{dict(sizes.parameters)} instead of {counted}"
    return OK if (sizes.obstacle is None) == family.policy.shares_prefix else "ok, counts rows"


def system(family: Family) -> str:
    """The system prompt stands in the prompt as it is, once; or is refused."""
    settings = replace(PROMPTS, system_prompt=SYSTEM)
    try:
        text = PromptEncoder(family.policy.processor, settings).template(Question("How many?"))
    except UserError:
        return "refused"
    return verdict(text.count(SYSTEM) == 1 and "[{" not in text, repr(text)[:80])


def thinking(family: Family) -> str:
    """Where the template opens a thought it belongs to the response, for its format."""
    processor = load_model(str(family.folder), "float32")[1]
    tokenizer = getattr(processor, "tokenizer", processor)
    for part in {id(p): p for p in (processor, tokenizer)}.values():
        if getattr(part, "chat_template", None):
            part.chat_template += "{%- if add_generation_prompt %}{{ '<think>\\n' }}{%- endif %}"
    encoder = PromptEncoder(processor, PROMPTS)
    whole = encoder.opening + "I look.</think><answer>3</answer>"
    right = encoder.template(Question("How many?")).endswith("<think>\n") and encoder.opening == "<think>\n"
    return verdict(right and ANSWER_FORMATS["think_answer"].matches(whole), f"opening {encoder.opening!r}")


def train(family: Family) -> str:
    """Two iterations of GRPO by the command line, over none to two pictures of unequal shapes a question."""
    out = family.folder.parent
    data = out / "data"
    _write_data(data, family.sees)
    (out / "coin.py").write_text(COIN)
    config = {
        "model": str(family.folder), "env_config": {"data": str(data)}, "rewards": {"accuracy": 1.0, "coin": 1.0},
        "num_questions": 4, "num_generations": 4, "max_completion_tokens": 8, "min_pixels": 784, "max_pixels": 3136,
        "num_threads": 1, "lr": 1e-3, "evaluation_interval": 0,
    }  # fmt: skip
    run = {family.name: {"run": "GRPO", "env": "MultimodalQA-v0", "stop": {"training_iteration": 2}, "config": config}}
    file = out / "run.yaml"
    file.write_text(json.dumps(run))  # JSON is YAML
    command = [sys.executable, "-m", "sharegrpo_rl.cli", "train", str(file), "--import", str(out / "coin.py")]
    command += ["--storage-path", str(out), "--name", "run"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no word"])[-1][:200]
    family.trained = out / "run"
    results = [json.loads(line) for line in (family.trained / "result.json").read_text().splitlines()]
    learner = [r["learners"]["default_policy"] for r in results]
    steps, gap = learner[-1]["optimizer_steps"], max(m["logprob_diff_max"] or 0.0 for m in learner)
    return verdict(
        len(results) == 2 == steps and gap <= 1e-4, f"{len(results)} iterations, {steps:g} steps, gap {gap:.0e}"
    )


def _write_data(folder: Path, sees: bool) -> None:
    rng = np.random.default_rng(1)
    folder.mkdir()
    for split, count in (("train", 24), ("test", 8)):
        lines = []
        for i in range(count):
            row: dict[str, Any] = {"id": f"{split}{i}", "question": f"How many in number {i}?", "answer": str(i % 4)}
            if sees:
                row["images"] = []
                for k in range((i + 1) % 3):
                    height, width = rng.integers(40, 150, 2)
                    row["images"].append(f"{split}{i}_{k}.png")
                    pixels = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / row["images"][-1])
            lines.append(json.dumps(row))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


def export(family: Family) -> str:
    """The trained folder in transformers alone says what it says in ours, greedily."""
    folder = family.trained / "export"
    auto, side = (AutoModelForImageTextToText, AutoProcessor) if family.sees else (AutoModelForCausalLM, AutoTokenizer)
    model, processor = auto.from_pretrained(folder, dtype="float32"), side.from_pretrained(folder)
    policy = load_policy(ModelSettings(str(folder), prompts=PROMPTS, temperature=TEMPERATURE))
    banned = {"suppress_tokens": policy.banned.tolist()} if len(policy.banned) else {}
    equal = 0
    for question, prompt in zip(family.questions(), policy.encoder.encode(family.questions()), strict=True):
        ours = HFGenerator(policy).generate([prompt], 1, [0], Sampling(8, greedy=True))[0][0].token_ids.tolist()
        given = policy.encoder.picture_inputs(question) if question.pictures else {}
        text = policy.encoder.template(question)
        inputs = processor(text=[text], add_special_tokens=False, return_tensors="pt", **given)
        said = model.generate(**inputs, max_new_tokens=8, do_sample=False, **banned)[0, inputs["input_ids"].shape[1] :]
        equal += said.tolist()[: len(ours)] == ours
    return verdict(equal == len(family.questions()), f"{equal} of {len(family.questions())} answers")


def verdict(right: bool, found: str) -> str:
    return OK if right else found


def _refuses(call: Callable[[], Any]) -> bool:
    try:
        call()
    except UserError:
        return True
    return False


COLUMNS: dict[str, Callable[[Family], str]] = {
    "path": path,
    "log-probs, gradients": logprobs,
    "sampler": sampler,
    "bans": bans,
    "freezing": freezing,
    "LoRA": lora,
    "plan": plan,
    "system prompt": system,
    "thinking": thinking,
    "train": train,
    "export": export,
}


def examine(name: str, columns: Iterable[str] = ()) -> dict[str, str]:
    """Each column's cell for a family; `refused` alone where a run refuses the model."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        model, processor = FAMILIES[name]()
        sees = getattr(processor, "image_processor", None) is not None
        try:
            save_pretrained(Policy(model, processor, PROMPTS), out / "model")
            family = Family(name, out / "model", sees)
            family.policy  # noqa: B018  (loads it)
        except UserError as error:
            return {"refused": str(error)}
        cells = {}
        for column in columns or COLUMNS:
            try:
                cells[column] = COLUMNS[column](family)
            except Exception as error:  # a cell of the table: what is wrong
                cells[column] = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        return cells


def table(found: dict[str, dict[str, str]]) -> str:
    """In Markdown, a row for each family."""
    lines = ["| family | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, cells in found.items():
        shown = [f"refused: {cells['refused']}"] if "refused" in cells else [cells.get(c, "-") for c in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(s.replace("|", "\\|") for s in shown) + " |")
    return "\n".join(lines)


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES), metavar="FAMILY")
    options.add_argument("--columns", nargs="+", choices=COLUMNS, default=list(COLUMNS), metavar="COLUMN")
    options.add_argument("--out", type=Path, help="a JSON file, written after each family")
    given = options.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, str]] = {}
    for name in given.only:
        found[name] = examine(name, given.columns)
        print(name, found[name], file=sys.stderr, flush=True)
        if given.out:
            given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
