"""SFT: supervised fine-tuning as an algorithm, on the same data and with the same reports as the RL methods."""

from __future__ import annotations

import time
from typing import Any, TypeAlias

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import TIMERS

from sharegrpo_rl.algorithms.base import RunAlgorithm
from sharegrpo_rl.algorithms.recovery import recovering
from sharegrpo_rl.algorithms.registry import register_algorithm
from sharegrpo_rl.algorithms.warm_start import check_targets, target_pack, target_text
from sharegrpo_rl.config import SFTOptions
from sharegrpo_rl.data.types import PromptPack
from sharegrpo_rl.envs.generated import GeneratedBank
from sharegrpo_rl.rollouts.groups import plan_requests


@register_algorithm("SFT")
class SFT(RunAlgorithm):
    """Supervised fine-tuning: `num_questions` targets an iteration, one for one wording of each question.

    A target is the question's reference solution; where a row has none, a short answer in the run's format. Its packs are
    marked as not sampled, so the step compares them with no sampler and no earlier policy; the loss (`loss: likelihood`)
    is the negative log-likelihood of the target's tokens under the prompt that RL would use, weighed by
    `loss_aggregation`. The warm start before RL teaches the same targets: `algorithms/warm_start.py`.

    It is also the example of a method that samples nothing: a RunAlgorithm needs `Options` and a `training_step` that
    hands packs to the learner group, and logs what comes back.

    >>> SFT.Config().training(lr=2e-3).loss
    'likelihood'
    """

    Options: TypeAlias = SFTOptions

    @override(RunAlgorithm)
    def setup(self, config: Any) -> None:
        super().setup(config)
        if not isinstance(self.bank, GeneratedBank):
            check_targets(self.bank, self.config)

    @recovering
    @override(Algorithm)
    def training_step(self) -> None:
        """Render the next questions, and train on their targets."""
        started = time.perf_counter()
        packs = self._target_packs()
        with self.metrics.log_time((TIMERS, "learning"), reduce="mean", window=1):
            update = self.learner_group.update(packs)
        seconds = time.perf_counter() - started
        tokens = sum(len(c.token_ids) for p in packs for c in p.completions)
        self.metrics.log_value("taught_tokens_per_second", tokens / seconds, reduce="mean", window=1)
        self.log_update(update)

    def _target_packs(self) -> list[PromptPack]:
        """The targets of the next `num_questions` questions, each under its own prompt.

        Wording and image transform are drawn as in RL, from the same seeds.
        """
        requests = plan_requests(self.bank, self.pick_questions(), self.options, self.seed, self.iteration)
        policy = self.rl_module.policy
        return [
            target_pack(policy, request.group, prompt, target_text(self.bank[request.question_index], self.config))
            for request, prompt in zip(requests, self.render(requests), strict=True)
        ]
