"""`init`: the folder of a new run, with a run file that says what each key does, a reward to start from, and what to do next."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Literal

import yaml
from pydantic import field_validator

from sharegrpo_rl.config.option import Options, option
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.files import storage_errors, write_atomically
from sharegrpo_rl.runs.run_file import check_folder_name

SHAPES = "drawn_shapes"  # as data: questions on pictures that the package draws
Method = Literal["GRPO", "ShareGRPO", "StepGRPO", "GRPOD", "SFT"]
# Rewards of a method with a small one of the user's own beside them.
_REWARDS = {
    "GRPO": "{accuracy: 0.9, format: 0.1, brief: 0.05}",
    "ShareGRPO": "{accuracy: 0.9, format: 0.1, brief: 0.05}",
    "StepGRPO": "{accuracy: 1.0, key_steps: 0.1, step_validity: 1.0, brief: 0.05}",
    "GRPOD": "{accuracy: 1.0, format: 1.0, brief: 0.05}",
}
REWARD_FILE = '''\
"""Rewards of this run. `rewards:` in the run file gives each its weight; pass this file with --import."""

from sharegrpo_rl.config.registry import register_reward


def brief(completions, **columns):
    """1 for an empty response, 0 from 400 characters on.

    completions: the texts that were sampled for one question. columns: its row, such as `answer` and `question`, and your own
    columns. One value for each completion.
    """
    return [max(0.0, 1 - len(text) / 400) for text in completions]


register_reward("brief", brief)
'''


class InitOptions(Options):
    """What a new run is about, checked before anything is written."""

    name: str = option("my_run", "the folder to write, and the run's name")
    method: Method = option("ShareGRPO", "how it learns")
    data: str = option(SHAPES, f"{SHAPES} (made here), a file or folder of JSONL or parquet, or a name on the hub")
    model: str = option("tiny", "tiny (built here), a Hugging Face folder, or a name on the hub")
    gpus: int = option(0, "GPUs to use; 0 = the CPU", ge=0)

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return check_folder_name(name, "NAME")

    @property
    def samples(self) -> bool:
        """Does the method sample completions and reward them?"""
        return self.method != "SFT"

    @property
    def is_tiny(self) -> bool:
        return self.model == "tiny"

    @property
    def learners(self) -> int:
        """Remote learners: three quarters of several GPUs; 0 where one process does everything."""
        return 0 if self.gpus < 2 else self.gpus - self.runners

    @property
    def runners(self) -> int:
        return max(1, self.gpus // 4) if self.gpus > 1 and self.samples else 0

    @property
    def adapts(self) -> bool:
        """Adapters instead of all weights, where few GPUs have to hold a real model?"""
        return not self.is_tiny and 0 < self.gpus < 4


def write_run(options: InitOptions, folder: Path) -> list[Path]:
    """Write the files of a new run into `folder / NAME`; UserError where that is there, or the data is not."""
    target = folder / options.name
    if target.exists():
        raise UserError(f"{target}: is there already; give another NAME")
    if options.data != SHAPES and _is_path(options.data) and not Path(options.data).exists():
        raise UserError(f"--data: {options.data} is not there; give a file or folder, a hub name, or {SHAPES}")
    files = {f"{options.name}.yaml": run_file(options), "README.md": _readme(options)}
    if options.samples:
        files["rewards.py"] = REWARD_FILE
    with storage_errors(target, "choose another folder"):
        target.mkdir(parents=True)
        for name, text in files.items():
            write_atomically(target / name, text.encode())
    return [target / name for name in files]


def run_file(options: InitOptions) -> str:
    """The text of the run file."""
    return "\n".join(_lines(options)) + "\n"


def _lines(o: InitOptions) -> Iterator[str]:
    shapes = o.data == SHAPES
    what = " ".join(
        f"{o.method} with {o.model} on {o.data}, {_machine(o)}".split()
    )  # one line, whatever the names hold
    yield f"# {what}. All keys: sharegrpo-rl list options {o.method}"
    yield f"{_key(o.name)}:"
    yield f"  run: {o.method}"
    yield f"  env: {'DrawnShapes-v0' if shapes else 'MultimodalQA-v0'}"
    yield "  stop:"
    yield f"    training_iteration: {120 if o.is_tiny else 200} # whichever of several comes first: total_completions, ..."
    yield "  config:"
    yield from _indented(_shapes(o) if shapes else _data(o))
    yield from _indented(_tiny_model(o, shapes) if o.is_tiny else _model(o))
    yield from _indented(_batch(o))
    yield from _indented(_machine_keys(o))
    yield from _indented(
        f"""
        # evaluation on held-out questions, before, after and on the way; checkpoints
        evaluation_interval: {50 if o.is_tiny else 20} # iterations
        evaluation_questions: {500 if shapes and o.is_tiny else 200}
        checkpoint_interval: {5 if o.is_tiny else 10}
        """
    )


def _indented(text: str) -> Iterator[str]:
    for line in dedent(text).strip("\n").splitlines():
        yield f"    {line}".rstrip()


def _shapes(o: InitOptions) -> str:
    return f"""
        # data: pictures of coloured shapes, drawn as they are needed
        env_config:
          kinds: [counting, color, form]
          image_size: {42 if o.is_tiny else 224} # pixels
          num_wordings: 4 # of each question
          max_questions: 20000
        """


def _data(o: InitOptions) -> str:
    data = str(Path(o.data).absolute()) if _is_path(o.data) else o.data
    return f"""
        # data: rows with a question, an answer and any number of images; `sharegrpo-rl preview` shows what was read
        env_config:
          data: {json.dumps(data, ensure_ascii=False)}
          test_fraction: 0.05 # held out; take this line out if the data has a test split
          # columns: {{question: problem, answer: solution, images: image}} # where they have other names
        """


def _tiny_model(o: InitOptions, shapes: bool) -> str:
    warm = "{rows: 11200, steps: 350, lr: 2e-3, wordings: first, noise_words: 8}"
    if not shapes:
        warm = "{data: train, rows: 256, steps: 100, lr: 2e-3, wordings: first}"
    return f"""
        # model: a small Qwen2.5-VL, built from these sizes; the warm start teaches it to answer at all
        model: tiny
        model_config: {{hidden_size: 96, num_layers: 3, vision_layers: 2, patch_size: 7}}
        min_pixels: 784
        max_pixels: {3136 if shapes else 7056}
        warm_start: {warm}
        format_prompt: "" # the warm start has taught the format
        max_prompt_tokens: {512 if shapes else 1024}
        max_completion_tokens: {96 if o.method == "StepGRPO" else 48}
        """


def _model(o: InitOptions) -> str:
    lora = "lora: {r: 64, alpha: 128, target_modules: [language]} # adapters; null trains all weights"
    lines = [
        "# model",
        f"model: {json.dumps(o.model, ensure_ascii=False)}",
        "dtype: bfloat16",
        "activation_checkpointing: full # less memory, more time",
        "freeze_vision_tower: true",
        *([lora] if o.adapts else []),
        "max_pixels: 401408 # of a picture, as the model sees it",
        "max_prompt_tokens: 1024",
        "max_completion_tokens: 512",
    ]
    return "\n".join(lines)


def _batch(o: InitOptions) -> str:
    if not o.samples:
        questions, lr = (192, "5e-4") if o.is_tiny else (32, "1e-5")
        return f"""
        # optimization
        num_questions: {questions} # targets a step
        lr: {lr}
        """
    share = o.method == "ShareGRPO"
    lr = "2e-4" if o.is_tiny else "1e-5 # for adapters" if o.adapts else "1e-6"
    lines = [
        f"# groups: {16 if o.is_tiny else 32} questions an iteration, each answered {12 if o.is_tiny else 8} times",
        f"num_questions: {16 if o.is_tiny else 32}",
        *(
            ["num_variants: 2 # wordings of each", "transform_probability: 0.3 # of turned, mirrored, noisy pictures"]
            * share
        ),
        f"num_generations: {(12 if o.is_tiny else 8) // (2 if share else 1)} # for each {'wording' if share else 'question'}",
        f"rewards: {_REWARDS[o.method]} # brief is in rewards.py",
        *(
            ["kl_schedule: v_shape # the KL weight falls, then grows", "kl_min: 0.0", "kl_max: 0.02"]
            * (o.method == "GRPOD")
        ),
        "# optimization",
        f"lr: {lr}",
    ]
    return "\n".join(lines)


def _machine_keys(o: InitOptions) -> str:
    if o.gpus == 0:
        return f"max_tokens_per_microbatch: {16384 if o.is_tiny else 4096} # bounds the memory of a step"
    if o.gpus == 1:
        runner = "\nnum_gpus_per_env_runner: 1" if o.samples else ""
        return (
            f"# one GPU{' for learner and generation' if o.samples else ''}\nnum_gpus_per_learner: 1{runner}"
            + _budget()
        )
    lines = [
        f"# {o.gpus} GPUs: {o.learners} learn" + (f", {o.runners} generate" if o.samples else ""),
        f"num_learners: {o.learners}",
        "num_gpus_per_learner: 1",
        f"sharding: {'fsdp2' if o.learners > 1 else 'ddp'}",
    ]
    if o.samples:
        lines += [f"num_env_runners: {o.runners}", "num_gpus_per_env_runner: 1"]
        lines += [
            "engine: vllm # the extra `vllm`; hf needs nothing, and is slower",
            "vllm: {gpu_memory_utilization: 0.9}",
        ]
    return "\n".join(lines) + _budget()


def _budget() -> str:
    return "\nmax_tokens_per_microbatch: 8192 # bounds the memory of a step"


def _machine(o: InitOptions) -> str:
    return "on the CPU" if o.gpus == 0 else f"on {o.gpus} GPU{'s' * (o.gpus > 1)}"


def _is_path(data: str) -> bool:
    """Is it a path, and not a hub name?"""
    from sharegrpo_rl.data.tables import looks_like_hub_name  # late: the command line asks for options only

    return Path(data).exists() or not looks_like_hub_name(data)


def _key(name: str) -> str:
    """A name as a key of YAML, which would read `12` or `null` as something else."""
    is_word = re.fullmatch(r"[A-Za-z_][\w-]*", name) and yaml.safe_load(name) == name
    return name if is_word else json.dumps(name)


def _readme(o: InitOptions) -> str:
    file, extra = shlex.quote(f"{o.name}.yaml"), " --import rewards.py" if o.samples else ""
    run = shlex.quote(f"runs/{o.name}")
    look = f"sharegrpo-rl preview {file}{extra}"
    return f"""\
# {o.name}

{o.method} with `{o.model}` on {"drawn shapes" if o.data == SHAPES else f"`{o.data}`"}, {_machine(o)}.

```bash
{look:<60} # questions as the model will see them
{f"sharegrpo-rl plan {file}{extra}":<60} # memory, steps, a rough time
{f"sharegrpo-rl train {file}{extra}":<60} # train; curves, checkpoints and the model are in runs/{o.name}
```

Change a key in the file, or for one run: `--set config.lr=1e-5`. Then `sharegrpo-rl report {run}` writes a page of the
run, and `sharegrpo-rl evaluate {run}/export` measures the model again.
"""
