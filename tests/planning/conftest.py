"""A run file whose plan is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """A run of Qwen2.5-VL-7B that trains all weights."""
    path = tmp_path / "run.yaml"
    path.write_text(
        "mine:\n  run: ShareGRPO\n  env: MultimodalQA-v0\n  stop: {training_iteration: 2}\n"
        "  config: {model: Qwen/Qwen2.5-VL-7B-Instruct, dtype: bfloat16, env_config: {data: questions.parquet}}\n"
    )
    return path
