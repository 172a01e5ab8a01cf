"""`Arithmetic-v0`: questions on two numbers without any image, a part of the number facts kept for the test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sharegrpo_rl.data.types import QuestionBank
from sharegrpo_rl.envs.arithmetic.bank import ArithmeticBank
from sharegrpo_rl.envs.arithmetic.kinds import KINDS, LARGEST_FACTOR, check_kinds
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.envs.options import EnvOptions, about
from sharegrpo_rl.envs.row_choice import check_skip


@dataclass(frozen=True)
class ArithmeticOptions(EnvOptions):
    """What `env_config` may hold."""

    kinds: list[str] = field(
        default_factory=lambda: ["addition", "subtraction"],
        metadata=about(f"kinds of question: {', '.join(KINDS)} (of numbers up to {LARGEST_FACTOR})"),
    )
    max_number: int = field(default=20, metadata=about("largest number in a question", minimum=5, maximum=999))
    held_out_share: float = field(
        default=1 / 3,
        metadata=about("share of the number facts that no training question uses", minimum=0, maximum=0.9),
    )
    held_out_seed: int = field(default=0, metadata=about("which number facts are held out", minimum=0))
    num_wordings: int | None = field(
        default=3, metadata=about("wordings of each question; null = all that there are", minimum=1)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kinds(self.kinds)


class ArithmeticEnv(MultimodalQAEnv):
    """Sums, differences and products; accuracy on held-out facts tells calculation from remembered answers."""

    id = "Arithmetic-v0"
    options_type = ArithmeticOptions

    @classmethod
    def load_bank(cls, options: Any, split: str, *, check: bool = True) -> QuestionBank:
        """Generated, therefore right by construction: there is nothing to check."""
        skipped, limit = (options.skip_questions, options.max_questions) if split == "train" else (0, None)
        if limit is not None:
            check_skip(skipped, limit, "Arithmetic-v0 (train)")
        return ArithmeticBank(
            split,
            options.kinds,
            options.max_number,
            options.held_out_share,
            None if limit is None else limit - skipped,
            options.num_wordings,
            held_out_seed=options.held_out_seed,
            offset=skipped,
            subset_seed=options.subset_seed,
        )
