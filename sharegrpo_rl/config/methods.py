"""Options of the other methods: what they add to GRPO's, and which defaults they change."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from sharegrpo_rl.config.option import option
from sharegrpo_rl.config.registry import LOSSES
from sharegrpo_rl.config.run import AnswerFormat, GRPOOptions, KLSchedule, LossAggregation, RunOptions


class ShareGRPOOptions(GRPOOptions):
    """Share-GRPO: the variants of a question share their completions and rewards."""

    num_variants: int = option(2, source="R1-ShareVL 4.1")
    num_generations: int = option(6, source="R1-ShareVL 4.1")
    transform_probability: float = option(0.3, source="R1-ShareVL 4.1")
    pairing: Literal["all", "native"] = option(
        "all", "train each completion under the prompts of all variants, or only under its own"
    )
    advantage_levels: Literal["global_local", "global", "local"] = option(
        "global_local",
        "advantage levels added up for native completions; shared ones get the global level only",
        source="S5-S7",
    )
    duplicate_rewards: bool = option(
        False, "compute the global standard deviation over rewards repeated m times, as the released code does"
    )
    single_variant_doubles: bool = option(False, "with V = 1 add both levels (literal S7) instead of plain GRPO")

    def completions_per_prompt(self) -> int:
        return self.num_generations * (self.num_variants if self.pairing == "all" else 1)


class GRPODOptions(GRPOOptions):
    """GRPO-D (OThink-MR1): GRPO whose KL weight changes during training; other defaults follow R1-V."""

    kl_schedule: KLSchedule = option("v_shape", source="O3")
    rewards: dict[str, float] = option({"accuracy": 1.0, "format": 1.0}, source="O1")
    loss_aggregation: LossAggregation = option("sequence_mean", source="O4")
    advantage_eps: float = option(1e-4, source="R1-V's code")


class StepGRPOOptions(GRPOOptions):
    """StepGRPO (R1-VL): GRPO with rewards for the steps of the reasoning."""

    answer_format: AnswerFormat = option("steps")
    rewards: dict[str, float] = option(
        {"accuracy": 1.0, "key_steps": 0.1, "step_validity": 1.0},
        "weight of each registered reward: StepRAR is accuracy + 0.1 key_steps, StepRVR is step_validity",
        source="R1-VL's code",
    )
    num_generations: int = option(4, source="R1-VL's code")
    temperature: float = option(1.2, source="R1-VL's code")
    max_completion_tokens: int = option(1024, source="R1-VL's code")
    kl_coeff: float = option(0.04, source="R1-VL's code")
    loss_aggregation: LossAggregation = option("sequence_mean", source="R1-VL's code")
    advantage_eps: float = option(1e-4, source="R1-VL's code")


class SFTOptions(RunOptions):
    """SFT: trains on each question's solution, or on a short answer in the run's format."""

    num_questions: int = option(32)
    lr: float = option(1e-5)
    thought: str | None = option(None, "the thought before the answer if a row has no solution; null = one fixed line")

    @field_validator("loss")
    @classmethod
    def _check_loss(cls, name: str) -> str:
        LOSSES.check(name)
        return name
