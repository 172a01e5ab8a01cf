"""The options of `expand`: one model for the command line, Python and the provenance of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from sharegrpo_rl.config.option import Options, option
from sharegrpo_rl.errors import UserError

DEFAULT_KEY_ENV = "OPENAI_API_KEY"
# With the model and the data set, these decide the replies; the others only how they are got.
DECIDING = ("variants", "attempts", "temperature", "max_tokens", "seed", "verify", "key_steps")


class ExpandOptions(Options):
    """Options of one `expand`, checked before anything is read."""

    data: str = option(..., "a folder, a file, or the name of a data set on the hub")
    out: Path = option(..., "the folder to write the new data set to")
    variants: int = option(4, "rewordings of each question", ge=0)
    endpoint: str | None = option(None, "an OpenAI-compatible endpoint")
    model: str | None = option(None, "the endpoint's model to ask")
    key_env: str = option(DEFAULT_KEY_ENV, "environment variable that holds the key, if one is needed")
    local: str | None = option(None, "a model on this machine instead")
    verify: bool = option(False, "have the model solve original and rewording, and compare its answers")
    key_steps: bool = option(False, "extract the key steps of each reference solution, too")
    split: Literal["train", "test", "all"] = option("train", "what to expand; the rest is copied")
    limit: int | None = option(None, "only the first N questions of a split", ge=1)
    seed: int = option(0, "seed that is sent with the requests", ge=0)
    temperature: float = option(1.0, "temperature of rewordings and key steps", ge=0, le=2)
    max_tokens: int = option(2048, "most tokens of a reply", ge=16)
    attempts: int = option(2, "requests per question, each for what is still missing", ge=1)
    concurrency: int = option(8, "questions in flight at a time", ge=1)
    requests_per_minute: float | None = option(None, "at most this many, retries included", ge=0.01)
    timeout: float = option(120.0, "seconds for one attempt of a request", ge=0.1)
    retries: int = option(4, "further attempts after a failed request", ge=0)
    columns: dict[str, str | None] = option({}, "a column's name: question=my_column")
    hub_config: str | None = option(None, "configuration of a hub data set")

    @field_validator("columns", mode="before")
    @classmethod
    def _read_pairs(cls, value: Any) -> Any:
        """`question=my_column` and the like, as the command line has them, become {field: column}."""
        if not isinstance(value, list | tuple):
            return value or {}
        columns = {}
        for pair in value:
            name, _, column = pair.partition("=")
            if not (name and column):
                raise UserError(f"--column {pair}: write FIELD=NAME, such as question=my_column")
            columns[name] = column
        return columns

    def model_post_init(self, context: Any, /) -> None:
        """UserError where options contradict each other."""
        if (self.endpoint is None) == (self.local is None):
            raise UserError("name one model: --endpoint URL --model NAME, or --local MODEL_FOLDER")
        if self.endpoint is not None and not (self.model or "").strip():
            raise UserError(f"--endpoint {self.endpoint}: say which of its models to ask, with --model NAME")
        if self.local is not None and self.model is not None:
            raise UserError("--model belongs to --endpoint; a local model is named by its folder alone")
        if self.variants == 0 and not self.key_steps:
            raise UserError("--variants 0 without --key-steps leaves nothing to do")

    def deciding(self) -> dict[str, Any]:
        """The values that decide the replies."""
        return {name: getattr(self, name) for name in DECIDING}
