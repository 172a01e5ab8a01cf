"""What `expand` is told, checked before anything is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.expansion.question import Wanted
from sharegrpo_rl.expansion.requests import Asker

DEFAULT_KEY_ENV = "OPENAI_API_KEY"


@dataclass(frozen=True)
class ExpandOptions:
    """Options of one `expand`; those of `wanted` and the model decide the replies, the others only how they are got."""

    data: str
    out: Path
    wanted: Wanted
    split: str = "train"
    limit: int | None = None
    columns: dict[str, str | None] = field(default_factory=dict)
    hub_config: str | None = None
    endpoint: str | None = None
    model: str | None = None
    key_env: str = DEFAULT_KEY_ENV
    local: str | None = None
    concurrency: int = 8
    requests_per_minute: float | None = None
    timeout: float = 120.0
    retries: int = 4

    def __post_init__(self) -> None:
        if (self.endpoint is None) == (self.local is None):
            raise UserError("name one model: --endpoint URL --model NAME, or --local MODEL_FOLDER")
        if self.endpoint is not None and not (self.model or "").strip():
            raise UserError(f"--endpoint {self.endpoint}: say which of its models to ask, with --model NAME")
        if self.local is not None and self.model is not None:
            raise UserError("--model belongs to --endpoint; a local model is named by its folder alone")
        if self.wanted.variants == 0 and not self.wanted.key_steps:
            raise UserError("--variants 0 without --key-steps leaves nothing to do")


def column_choices(pairs: Sequence[str]) -> dict[str, str | None]:
    """`question=my_column` and the like as {field: column}; UserError for another form."""
    chosen: dict[str, str | None] = {}
    for pair in pairs:
        name, equals, column = pair.partition("=")
        if not (name and equals and column):
            raise UserError(f"--column {pair}: write FIELD=NAME, such as question=my_column")
        chosen[name] = column
    return chosen


def make_asker(options: ExpandOptions) -> Asker:
    """The endpoint or the local model; UserError where either is no good at first sight."""
    if options.local is not None:
        from sharegrpo_rl.expansion.local import LocalModel

        return LocalModel(options.local)
    from sharegrpo_rl.expansion.endpoint import Endpoint

    if options.key_env != DEFAULT_KEY_ENV and options.key_env not in os.environ:
        raise UserError(f"--key-env {options.key_env}: no such variable is set; set it, or leave the option out")
    assert options.endpoint is not None
    assert options.model is not None
    return Endpoint(
        options.endpoint,
        options.model,
        os.environ.get(options.key_env, ""),
        timeout=options.timeout,
        retries=options.retries,
        requests_per_minute=options.requests_per_minute,
        key_env=options.key_env,
    )
