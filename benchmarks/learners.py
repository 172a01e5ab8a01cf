"""The learners of both sides behind one face, and the check that they compute the same before any is timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from checkpoint import our_policy, plain_model
from rows import RowLearner, training_rows
from timing import progress
from workload import off_policy

from sharegrpo_rl.config import GRPOOptions
from sharegrpo_rl.data.types import PromptPack
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.training.step import TrainingStep

LR = 1e-6
GRAD_CLIP = 1.0
TOLERANCE = 1e-5
SETTINGS = GRPOOptions(lr=LR, grad_clip=GRAD_CLIP, loss_aggregation="token_mean")

Result = tuple[float, float]  # the loss, and the norm of its gradient before it was clipped
Step = Callable[[], Result]
Prepare = Callable[[Sequence[PromptPack]], Step]


def our_learner(folder: Path) -> tuple[Policy, Prepare]:
    """Our policy, and our whole update on some packs."""
    policy = our_policy(folder)
    training = TrainingStep(policy, SETTINGS)

    def prepare(packs: Sequence[PromptPack]) -> Step:
        def step() -> Result:
            metrics = training.update(packs)
            return metrics["policy_loss"], metrics["grad_norm"]

        return step

    return policy, prepare


def peer_learner(name: str, folder: Path) -> Prepare:
    """The peer's optimizer step on the same pairs as rows, which are laid out before the clock starts."""
    if name == "trl":
        from trl_peer import TrlLearner

        learner: RowLearner | TrlLearner = TrlLearner(folder, LR, GRAD_CLIP)
    else:
        learner = RowLearner(plain_model(folder), LR, GRAD_CLIP)
    config = learner.model.config
    pad_id, image_id = config.text_config.pad_token_id, config.image_token_id

    def prepare(packs: Sequence[PromptPack]) -> Step:
        rows = training_rows(packs, pad_id, image_id)
        return lambda: learner.step(rows)

    return prepare


def require_equal_steps(policy: Policy, ours: Prepare, peer: Prepare, packs: list[PromptPack]) -> dict[str, Result]:
    """One step of each side from the same weights, off policy; ends the program where loss or gradient differ."""
    vocabulary = policy.model.get_output_embeddings().weight.shape[0]
    checked = off_policy(packs, vocabulary)
    return require_equal(ours(checked)(), peer(checked)())


def require_equal(ours: Result, peer: Result) -> dict[str, Result]:
    """Ends the program where loss or gradient norm differ by more than 1e-5 of the peer's."""
    for what, a, b in zip(("loss", "gradient norm"), ours, peer, strict=True):
        progress(f"{what}: {a:.9g} (ours), {b:.9g} (peer)")
        if not abs(a - b) <= TOLERANCE * abs(b):
            raise SystemExit(f"refused: the {what} of ours is {a:.9g}, of the peer {b:.9g}; nothing is reported")
    return {"ours": ours, "peer": peer}
