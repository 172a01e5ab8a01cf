"""The worker's end of a weight sync: a back end for vLLM's weight-transfer API that is handed buckets of tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

BACKEND = "sharegrpo_buckets"


@dataclass
class NoInit(WeightTransferInitInfo):
    """There is nothing to set up."""


@dataclass
class Bucket(WeightTransferUpdateInfo):
    """Some of the weights, under their checkpoint names."""

    weights: list[tuple[str, Tensor]] = field(default_factory=list)


class BucketTransfer(WeightTransferEngine[NoInit, Bucket]):
    """Loads buckets layer by layer, in place; layers of which nothing comes keep what they have."""

    init_info_cls = NoInit
    update_info_cls = Bucket

    def init_transfer_engine(self, init_info: NoInit) -> None:
        """Tensors come with the call itself."""

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict) -> None:
        """As the base class does it, which cannot wait for an accelerator where there is none."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: Bucket) -> None:
        with torch.no_grad():
            self.model.load_weights(update_info.weights)

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Nothing is held."""


class KnowsBuckets:
    """A worker extension without methods: workers in processes of their own import this module, and so the back end."""


WeightTransferEngineFactory.register_engine(BACKEND, BucketTransfer)
