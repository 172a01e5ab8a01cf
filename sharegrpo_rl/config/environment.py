"""Options that every environment has; a task subclasses them for its own `env_config`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import field_validator

from sharegrpo_rl.config.option import Options, check_at, option
from sharegrpo_rl.data.transforms import check_names
from sharegrpo_rl.errors import UserError


class EnvOptions(Options):
    """What `env_config` may hold in every environment."""

    max_questions: int | None = option(
        None, "at most this many training questions, the skipped ones included; test stays whole", ge=1
    )
    subset_seed: int = option(0, "which training questions max_questions keeps", ge=0)
    skip_questions: int = option(0, "training questions to leave out from the start: those of the warm start", ge=0)
    transforms: list[str] | None = option(None, "image transforms to allow; null = the task's own list")
    transform_text_position: Literal["before", "after"] = option(
        "before", "the sentence about a transform comes before or after the question"
    )

    @field_validator("transforms")
    @classmethod
    def _known_transforms(cls, names: list[str] | None) -> list[str] | None:
        try:
            check_names(names or [])
        except UserError as error:
            raise UserError(f"transforms: {error}") from None
        return names


Table = TypeVar("Table", bound=Options)


def read_options(model: type[Table], table: Mapping[str, Any], where: str = "env_config") -> Table:
    """The options of `model` from the table at the key `where`; UserError where a key or value does not fit."""
    return check_at(f"{where}.", model, table)
