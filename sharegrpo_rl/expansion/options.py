"""The options of `expand`: one model for the command line, Python and the provenance of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from sharegrpo_rl.errors import UserError

DEFAULT_KEY_ENV = "OPENAI_API_KEY"
# With the model and the data set, these decide the replies; the others only how they are got.
DECIDING = ("variants", "attempts", "temperature", "max_tokens", "seed", "verify", "key_steps")


class ExpandOptions(BaseModel):
    """Options of one `expand`, checked before anything is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = Field(description="a folder, a file, or the name of a data set on the hub")
    out: Path = Field(description="the folder to write the new data set to")
    variants: int = Field(4, ge=0, description="rewordings of each question")
    endpoint: str | None = Field(
        None, description="an OpenAI-compatible endpoint", json_schema_extra={"metavar": "URL"}
    )
    model: str | None = Field(None, description="the endpoint's model to ask")
    key_env: str = Field(DEFAULT_KEY_ENV, description="environment variable that holds the key, if one is needed")
    local: str | None = Field(
        None, description="a model on this machine instead", json_schema_extra={"metavar": "MODEL_FOLDER"}
    )
    verify: bool = Field(False, description="let the model solve original and rewording, and compare its answers")
    key_steps: bool = Field(False, description="extract the key steps of each reference solution, too")
    split: Literal["train", "test", "all"] = Field("train", description="what to expand; the rest is carried over")
    limit: int | None = Field(None, ge=1, description="only the first N questions of a split")
    seed: int = Field(0, ge=0, description="seed that is sent with the requests")
    temperature: float = Field(1.0, ge=0, le=2, description="of rewordings and key steps")
    max_tokens: int = Field(2048, ge=16, description="most tokens of a reply")
    attempts: int = Field(2, ge=1, description="requests per question, each for what is still missing")
    concurrency: int = Field(8, ge=1, description="questions in flight at a time")
    requests_per_minute: float | None = Field(None, ge=0.01, description="at most this many, retries too")
    timeout: float = Field(120.0, ge=0.1, description="seconds for one try of a request")
    retries: int = Field(4, ge=0, description="further tries of a request that failed")
    columns: dict[str, str | None] = Field({}, description="names of columns: question=my_column")
    hub_config: str | None = Field(None, description="configuration of a hub data set")

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
