"""`DrawnShapes-v0`: questions about figures drawn with Pillow, generated without end and without any file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sharegrpo_rl.data.types import QuestionBank
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.envs.options import EnvOptions, about
from sharegrpo_rl.envs.shapes.bank import DrawnShapesBank, expand_kinds
from sharegrpo_rl.envs.shapes.kinds import KIND_GROUPS, KINDS
from sharegrpo_rl.errors import UserError

__all__ = ["DrawnShapesBank", "DrawnShapesEnv", "DrawnShapesOptions"]


@dataclass(frozen=True)
class DrawnShapesOptions(EnvOptions):
    """What `env_config` may hold."""

    kinds: list[str] = field(
        default_factory=lambda: ["counting", "color", "form"],
        metadata=about(f"kinds of question: {', '.join(KINDS)}; or groups of them: {', '.join(KIND_GROUPS)}"),
    )
    image_size: int = field(
        default=42, metadata=about("width and height of the pictures", unit="pixels", minimum=14, maximum=1024)
    )
    num_wordings: int | None = field(
        default=3, metadata=about("wordings of each question; null = all that there are", minimum=1)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_kinds(self.kinds)


class DrawnShapesEnv(MultimodalQAEnv):
    """How many figures, which color, which form, more or fewer, left or above, sides, lengths and angles."""

    id = "DrawnShapes-v0"
    options_type = DrawnShapesOptions

    @classmethod
    def load_bank(cls, options: Any, split: str, *, check: bool = True) -> QuestionBank:
        """Generated, therefore right by construction: there is nothing to check."""
        skipped, limit = (options.skip_questions, options.max_questions) if split == "train" else (0, None)
        if limit is not None and skipped >= limit:
            raise UserError(
                f"env_config.skip_questions: {skipped} are left out of {limit} questions and none remains; "
                "lower it, or the warm start's rows, or raise max_questions"
            )
        return DrawnShapesBank(
            split,
            options.kinds,
            options.image_size,
            None if limit is None else limit - skipped,
            options.num_wordings,
            offset=skipped,
            subset_seed=options.subset_seed,
            transforms=options.transforms,
        )
