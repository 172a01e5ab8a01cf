"""The EnvRunner that samples from its own vLLM engine, which receives new weights in buckets."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils.annotations import override
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from sharegrpo_rl.data.types import PromptPack, QuestionBank
from sharegrpo_rl.models.weights import adapter_weights, engine_weights, to_tensor
from sharegrpo_rl.rollouts.env_runner import QAEnvRunner

if TYPE_CHECKING:
    from sharegrpo_rl.generation.vllm.engine import VLLMEngine
    from sharegrpo_rl.generation.vllm.generator import VLLMGenerator


@dataclass(frozen=True)
class WeightPart:
    """One bucket of a weight sync: name -> array, behind an object reference."""

    version: int
    number: int  # 0, 1, ...
    last: bool
    arrays: Any


class VLLMEnvRunner(QAEnvRunner):
    """Weights arrive through `load_weights` (in this process) or `take_part` (from the driver). RLlib's own sync is ignored:
    it knows neither the engine's version nor merged adapters."""

    engine: VLLMEngine | None = None

    def start_engine(self) -> VLLMEngine:
        """The engine, started at the first call. A module that is this runner's own is an outline: the engine has the weights."""
        if self.engine is None:
            from sharegrpo_rl.generation.vllm.engine import VLLMEngine

            if self.module is None:
                self.make_module()
            c = self.config
            self.engine = VLLMEngine(
                c.model_folder or c.model,
                self.module.policy,
                dtype=c.dtype,
                max_completion_tokens=c.max_completion_tokens,
                images_per_prompt=most_images(self.env.bank),
                settings=self.options.vllm,
                adapter=c.lora if c.sends_adapters() else None,
            )
        return self.engine

    def answer_probe(self) -> list[PromptPack]:
        """A new engine's answers to the questions of the check at load, which the learners hold against their own model; []
        of an engine that was asked before."""
        engine = self.start_engine()
        packs = [] if engine.is_checked else self.make_generator().answer_probe()
        engine.is_checked = True
        return packs

    @override(QAEnvRunner)
    def make_generator(self) -> VLLMGenerator:
        from sharegrpo_rl.generation.vllm.generator import VLLMGenerator

        return VLLMGenerator(self.module.policy, self.start_engine(), self.options.rollout_timeout_s)

    def prepare(self) -> None:
        """Start the engine where there is none."""
        self.start_engine()

    def drop_engine(self) -> None:
        """Stop the engine; the next call that needs one starts another."""
        if self.engine is not None:
            self.engine.stop()
            self.engine = None
            gc.collect()  # its parts refer to each other; on a GPU its weights would stay beside the next one's

    def load_weights(self, version: int, everything: bool) -> None:
        """Hand the engine the weights of this process's own module, which the Learner trains."""
        timeout_s = self.options.weight_sync_timeout_s
        model = self.module.policy.model
        weights = adapter_weights(model) if self.config.sends_adapters() else engine_weights(model, everything)
        self.start_engine().load(weights, version, timeout_s)
        self.make_generator().check_once()  # both have the same weights now
        self._weights_seq_no = version

    def take_part(self, part: WeightPart) -> None:
        """Load a part of new weights."""
        engine = self.start_engine()
        if part.number == 0:
            self._weights_seq_no = -1  # no version until the last part has arrived
            engine.start_load()
        engine.load_bucket([(name, to_tensor(array)) for name, array in ray.get(part.arrays).items()])
        if part.last:
            engine.finish_load(part.version)
            self._weights_seq_no = part.version

    @override(Checkpointable)
    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Only the version of the weights, which are the Learner's."""
        return {WEIGHTS_SEQ_NO: self._weights_seq_no}

    @override(Checkpointable)
    def set_state(self, state: dict[str, Any]) -> None:
        """Does nothing: see the class."""

    @override(EnvRunner)
    def stop(self) -> None:
        super().stop()
        self.drop_engine()


def most_images(bank: QuestionBank) -> int:
    """The largest number of images in one question."""
    return max((len(bank[i].images) for i in range(len(bank))), default=0)
