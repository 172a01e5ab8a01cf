"""The options of the other methods: what they add to GRPO's, and which defaults they change."""

from __future__ import annotations

from dataclasses import dataclass

from sharegrpo_rl.config.grpo import GRPOOptions
from sharegrpo_rl.config.option import option
from sharegrpo_rl.config.run import RunOptions


@dataclass
class ShareGRPOOptions(GRPOOptions):
    """Options of Share-GRPO: m variants share completions and rewards."""

    num_variants: int = option(
        2, "variants of each question in a group (V, the paper's m)", minimum=1, maximum=64, source="R1-ShareVL 4.1"
    )
    num_generations: int = option(6, "completions sampled for each variant (n)", minimum=1, source="R1-ShareVL 4.1")
    transform_probability: float = option(
        0.3, "chance of an image transform, for each slot", minimum=0, maximum=1, source="R1-ShareVL 4.1"
    )
    pairing: str = option("all", "train each completion under all variants, or only its own", choices=("all", "native"))
    advantage_levels: str = option(
        "global_local",
        "levels added up on native completions; shared ones take the global level alone",
        choices=("global_local", "global", "local"),
        source="S5-S7",
    )
    duplicate_rewards: bool = option(False, "global spread over rewards repeated m times, as the released code does")
    single_variant_doubles: bool = option(False, "with V = 1 add both levels (literal S7) instead of plain GRPO")


@dataclass
class GRPODOptions(GRPOOptions):
    """Options of GRPO-D (OThink-MR1): GRPO whose KL weight changes over training; other defaults follow R1-V."""

    kl_schedule: str = option(
        "v_shape",
        "course of the KL's weight over optimizer steps: the equation's v_shape, or linear_increase as in the prose",
        choices=("constant", "v_shape", "linear_increase"),
        source="O3",
    )
    rewards: dict = option({"accuracy": 1.0, "format": 1.0}, "weight of each registered reward", source="O1")
    loss_aggregation: str = option(
        "sequence_mean",
        "how token losses become one number",
        choices=("token_mean", "sequence_mean", "question_mean", "max_length"),
        source="O4",
    )
    advantage_eps: float = option(1e-4, "added to the spread", minimum=0, source="R1-V's code")


@dataclass
class StepGRPOOptions(GRPOOptions):
    """Options of StepGRPO (R1-VL): GRPO with rewards for the steps of the reasoning."""

    answer_format: str = option("steps", "form of a completion", choices=("think_answer", "boxed", "steps"))
    rewards: dict = option(
        {"accuracy": 1.0, "key_steps": 0.1, "step_validity": 1.0},
        "weight of each registered reward: StepRAR is accuracy + 0.1 key_steps, StepRVR is step_validity",
        source="R1-VL's code",
    )
    num_generations: int = option(4, "completions sampled for each variant (n)", minimum=1, source="R1-VL's code")
    temperature: float = option(
        1.2,
        "softmax temperature, in sampler and trainer",
        minimum=0,
        exclusive_minimum=True,
        source="R1-VL's code",
    )
    max_completion_tokens: int = option(1024, "longest completion", unit="tokens", minimum=1, source="R1-VL's code")
    kl_coeff: float = option(
        0.04,
        "weight of the KL to the reference policy, where kl_schedule is constant",
        minimum=0,
        source="R1-VL's code",
    )
    loss_aggregation: str = option(
        "sequence_mean",
        "how token losses become one number",
        choices=("token_mean", "sequence_mean", "question_mean", "max_length"),
        source="R1-VL's code",
    )
    advantage_eps: float = option(1e-4, "added to the spread", minimum=0, source="R1-VL's code")


@dataclass
class SFTOptions(RunOptions):
    """Options of SFT: each question's solution, or a short answer in the run's format, is taught as it stands."""

    num_questions: int = option(32, "seed questions an iteration", minimum=1)
    lr: float = option(1e-5, "learning rate", minimum=0, exclusive_minimum=True)
    loss_aggregation: str = option(
        "token_mean",
        "how token losses become one number",
        choices=("token_mean", "sequence_mean", "question_mean", "max_length"),
    )
    thought: str | None = option(
        None, "the thought in front of the answer where a row has no solution; null = one line"
    )
