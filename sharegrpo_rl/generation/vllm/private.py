"""What the package uses of vLLM beyond the documented interface, all in this file: any release may move these names. Where
one is gone documented means do its work, slower but with the same results; or the engine says so and does not start."""

from __future__ import annotations

import inspect
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from operator import attrgetter
from typing import Any, Protocol

# Read by vLLM when it is first imported. Its engine runs in our own process: weights and prompts are passed, not sent. Its
# first model runner: custom logits processors of the second one have another interface. And no telemetry.
os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_USE_V2_MODEL_RUNNER": "0", "VLLM_NO_USAGE_STATS": "1"}
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import torch
import vllm
from torch import Tensor

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models.weights import GroupBroken, Meeting, WeightGroup, Weights

# Run as CPU builds: 0.29 and 0.32 with tests/*/test_vllm_*.py, 0.30 and 0.31 with those of the engine and of weight syncs.
# Every name below is there. 0.29's starts no Qwen3-VL, and Mistral 3 of 0.29 and 0.30 needs transformers 5.16.
TESTED = ("0.29.0", "0.30.0", "0.31.0", "0.32.0")
BACKEND = "sharegrpo_buckets"
GRID = "image_grid_thw"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """Names that do something together, as `module:attribute(arguments that must be there)`."""

    use: str
    names: tuple[str, ...]
    instead: str  # what does it where one of them is gone; "" for nothing


TRANSFER = Piece(
    "new weights are loaded as they come, layer by layer",
    (
        "vllm.distributed.weight_transfer.base:WeightTransferEngine(config, vllm_config, device, model)",
        "vllm.distributed.weight_transfer.base:WeightTransferEngine.parse_update_info(update_dict)",
        "vllm.distributed.weight_transfer.base:WeightTransferEngine.init_transfer_engine(init_info)",
        "vllm.distributed.weight_transfer.base:WeightTransferEngine.start_weight_update",
        "vllm.distributed.weight_transfer.base:WeightTransferEngine.update_weights(update_info)",
        "vllm.distributed.weight_transfer.base:WeightTransferEngine.finish_weight_update",
        "vllm.distributed.weight_transfer.factory:WeightTransferEngineFactory.register_engine",
        "vllm.model_executor.model_loader.reload:initialize_layerwise_reload(model)",
        "vllm.model_executor.model_loader.reload:finalize_layerwise_reload(model, model_config)",
        "vllm:LLM.init_weight_transfer_engine(request)",
        "vllm:LLM.start_weight_update",
        "vllm:LLM.update_weights(request)",
        "vllm:LLM.finish_weight_update(weight_version)",
    ),
    "reload_weights, once all of them are in memory",
)
INPUTS = Piece(
    "the engine gets the trainer's own ids and pixels",
    (
        "vllm.inputs:tokens_input(prompt_token_ids)",
        "vllm.inputs:mm_input(prompt_token_ids, mm_kwargs, mm_hashes, mm_placeholders)",
        "vllm.multimodal.inputs:MultiModalFieldConfig.flat_from_sizes(modality, size_per_item)",
        "vllm.multimodal.inputs:MultiModalFieldConfig.batched(modality, keep_on_cpu)",
        "vllm.multimodal.inputs:MultiModalKwargsItems.from_hf_inputs(hf_inputs, config_by_key)",
        "vllm.multimodal.inputs:PlaceholderRange(offset, length)",
    ),
    "",
)
RENDER = Piece(
    "prompts of vLLM's own processor are made before they are queued",
    (
        "vllm.renderers.inputs.preprocess:parse_model_prompt(model_config, prompt)",
        "vllm.renderers:BaseRenderer.render_cmpl(prompts, tok_params)",
        "vllm.renderers:BaseRenderer.default_cmpl_tok_params",
    ),
    "raw prompts",
)
BAN = Piece(
    "banned ids are masked out of the logits",
    (
        "vllm.v1.sample.logits_processor:LogitsProcessor(vllm_config, device, is_pin_memory)",
        "vllm.v1.sample.logits_processor:LogitsProcessor.apply(logits)",
        "vllm.v1.sample.logits_processor:LogitsProcessor.is_argmax_invariant",
        "vllm.v1.sample.logits_processor:LogitsProcessor.update_state(batch_update)",
    ),
    "allowed_token_ids of each request",
)
HEADS = Piece(
    "a model that the CPU build cannot run is refused by the size of its heads",
    ("vllm.v1.attention.backends.cpu_attn:CPUAttentionBackend.get_supported_head_sizes",),
    "vLLM's own error",
)
PIECES = (TRANSFER, INPUTS, RENDER, BAN, HEADS)


def find(name: str) -> Any:
    """What a name stands for; None where this vLLM has no such thing."""
    module, _, attribute = name.partition("(")[0].partition(":")
    try:
        return attrgetter(attribute)(import_module(module))
    except (ImportError, AttributeError):
        return None


@cache
def missing(piece: Piece) -> tuple[str, ...]:
    """Those of its names that this vLLM has not, or has with other arguments."""
    return tuple(name for name in piece.names if not _is_there(name))


def _is_there(name: str) -> bool:
    thing, wanted = find(name), set(re.findall(r"\w+", name.partition("(")[2]))
    if thing is None or not wanted:
        return thing is not None
    parameters = inspect.signature(thing).parameters
    return wanted <= set(parameters) or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def has(piece: Piece) -> bool:
    """Are all of its names there?"""
    return not missing(piece)


@cache
def check_version() -> None:
    """UserError where nothing does the work of a missing piece; one warning where this vLLM was not run with the package.

    Once in a process.
    """
    lacking = [piece for piece in PIECES if piece is not HEADS and not has(piece)]  # heads concern the CPU build alone
    for piece in lacking:
        if not piece.instead:
            raise UserError(
                f"config.engine: vLLM {vllm.__version__} has no {missing(piece)[0]}, through which {piece.use}; install one of "
                f"{', '.join(TESTED)}, or use hf"
            )
    if lacking or _minor(vllm.__version__) not in map(_minor, TESTED):
        logger.warning(
            "vLLM %s was not run with this package, only %s (CPU builds) were; its answers are checked against the trainer's "
            "when it has its first weights%s",
            vllm.__version__,
            ", ".join(TESTED),
            "".join(f"; without {missing(piece)[0]}: {piece.instead}" for piece in lacking),
        )


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]


def other_head_sizes(size: int) -> list[int]:
    """The sizes of attention heads that the CPU build has, where `size` is none of them."""
    sizes: list[int] = find(HEADS.names[0])() if has(HEADS) else [size]
    return [] if size in sizes else sizes


# Prompts


def text_input(ids: Sequence[int]) -> Any:
    """What `LLMEngine.add_request` takes for a text."""
    return find("vllm.inputs:tokens_input")(list(ids))


def picture_input(
    ids: Sequence[int], keys: Sequence[str], spans: Sequence[tuple[int, int]], items: Sequence[Any]
) -> Any:
    """And for ids among which each picture (its key, an item of `picture_item`) has a span: (offset, tokens)."""
    inputs = import_module("vllm.multimodal.inputs")
    return find("vllm.inputs:mm_input")(
        list(ids),
        mm_kwargs=inputs.MultiModalKwargsItems({"image": list(items)}),
        mm_hashes={"image": list(keys)},
        mm_placeholders={"image": [inputs.PlaceholderRange(offset, count) for offset, count in spans]},
    )


def picture_item(pixels: str, tensors: Mapping[str, Tensor]) -> Any:
    """A picture's pixels [patches, D], under the name `pixels`, and grid [1, 3], as vLLM's processor has them of Qwen's
    families."""
    inputs = import_module("vllm.multimodal.inputs")
    fields = {
        pixels: inputs.MultiModalFieldConfig.flat_from_sizes("image", tensors[GRID].prod(-1)),
        GRID: inputs.MultiModalFieldConfig.batched("image", keep_on_cpu=True),
    }
    return inputs.MultiModalKwargsItems.from_hf_inputs(tensors, fields)["image"][0]


def rendered(engine: Any, raw: Mapping[str, Any]) -> Any:
    """vLLM's own input for a raw prompt."""
    if not has(RENDER):
        return raw  # which `add_request` takes too
    parsed = find(RENDER.names[0])(engine.model_config, raw)
    (made,) = engine.renderer.render_cmpl([parsed], engine.renderer.default_cmpl_tok_params)
    return made


# Banned ids

LogitsProcessor: Any = find(BAN.names[0]) or object


class BannedIds(LogitsProcessor):
    """Sets the logits of `additional_config["banned_ids"]` to -inf in every row, before anything else, as the trainer does."""

    def __init__(self, vllm_config: object, device: torch.device, is_pin_memory: bool) -> None:
        banned = vllm_config.additional_config["banned_ids"]  # type: ignore[attr-defined]
        self.banned = torch.tensor(banned, dtype=torch.long, device=device)

    def apply(self, logits: Tensor) -> Tensor:
        return logits.index_fill_(-1, self.banned, float("-inf"))

    def is_argmax_invariant(self) -> bool:
        return False  # greedy requests must see it too

    def update_state(self, batch_update: object) -> None:
        """Stateless."""


def ban_arguments(banned: Sequence[int]) -> dict[str, Any]:
    """Arguments of vLLM's LLM that ban ids; {} where each request must name what is allowed."""
    if not has(BAN):
        return {}
    return {"logits_processors": [f"{__name__}:BannedIds"], "additional_config": {"banned_ids": list(banned)}}


def allowed_ids(engine: Any, banned: Sequence[int]) -> list[int] | None:
    """`allowed_token_ids` of every request; None where the engine bans ids by itself."""
    if has(BAN):
        return None
    return sorted(set(range(engine.model_config.get_vocab_size())).difference(banned))


# Weights


class WeightSync(Protocol):
    """A weight sync as the engine sees it: these methods of vLLM's LLM."""

    def init_weight_transfer_engine(self, request: dict[str, Any]) -> None:
        """Join a weight group: `init_info` is {meeting, first_rank}."""

    def start_weight_update(self) -> None:
        """Begin."""

    def update_weights(self, request: dict[str, Any]) -> None:
        """Take weights: `update_info` is {weights} or {plan}."""

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """End."""


class Member:
    """A worker's place in a weight group.

    What goes wrong with the group is kept as `fault`, not raised: vLLM would leave the answers of other workers unread.
    """

    group: WeightGroup | None = None
    fault = ""

    def enter(self, meeting: Meeting, rank: int, device: torch.device) -> None:
        """Leave the old group, become a member of another."""
        self.shutdown()
        try:
            self.group = WeightGroup(meeting, rank, device)
        except GroupBroken as error:
            self.fault = str(error)

    def receive(self, plan: list[Weights], load: Callable[[Iterable[tuple[str, Tensor]]], None]) -> None:
        """Load the planned weights as they come."""
        if self.group is None:
            self.fault = "an engine is not in the group"
            return
        try:
            load(self.group.receive(plan))
        except Exception as error:  # ours or vLLM's: the whole group is told
            self.fault = reason_of(error)
            self.shutdown()

    def shutdown(self) -> None:
        """Leave the group."""
        if self.group is not None:
            self.group.close(self.fault)
            self.group = None


def reason_of(error: Exception) -> str:
    """An error in words for one line; its class too, unless it is one that is told to users."""
    words = " ".join(str(error).split())[:300]
    is_told = isinstance(error, ValueError | RuntimeError | OSError) and words
    return words if is_told else f"{type(error).__name__}: {words}"


@dataclass
class Joining:
    """A weight group's meeting, and the rank of the engine's first worker in it."""

    meeting: Meeting
    first_rank: int


@dataclass
class Bucket:
    """Some of the weights, by their checkpoint names; or the plan of those that the group is about to send."""

    weights: Weights = field(default_factory=list)
    plan: list[Weights] = field(default_factory=list)


WeightTransferEngine: Any = find(TRANSFER.names[0]) or object


class BucketTransfer(Member, WeightTransferEngine):
    """The worker's end of a weight sync: loads buckets in place, layer by layer; layers without new weights keep theirs."""

    init_info_cls = Joining
    update_info_cls = Bucket

    def init_transfer_engine(self, init_info: Joining) -> None:
        self.enter(init_info.meeting, init_info.first_rank + self.parallel_config.rank, self.device)

    def start_weight_update(self) -> None:
        find("vllm.model_executor.model_loader.reload:initialize_layerwise_reload")(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """As in the base class, which fails to synchronize where there is no accelerator."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: Bucket) -> None:
        if update_info.plan:
            self.receive(update_info.plan, self._load)
        else:
            self._load(update_info.weights)

    def _load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        with torch.no_grad():
            self.model.load_weights(weights)

    def finish_weight_update(self) -> None:
        find("vllm.model_executor.model_loader.reload:finalize_layerwise_reload")(self.model, self.model_config)


class Collector(Member):
    """The worker's end without vLLM's transfer interface: keeps copies of all new weights, then loads them at once."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._arrived: dict[str, Tensor] = {}

    def join(self, meeting: Meeting, first_rank: int) -> None:
        """Become a member of a weight group."""
        self.enter(meeting, first_rank + self._worker.rank, self._worker.device)

    def start(self) -> None:
        """Begin with none."""
        self._arrived = {}

    def add(self, weights: Weights | None = None, plan: list[Weights] | None = None) -> None:
        """Keep some, given or to come from the group: then all that are planned, or none."""
        if plan:
            self.receive(plan, self._keep)
        else:
            self._keep(weights or [])

    def _keep(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self._arrived |= {name: tensor.detach().clone() for name, tensor in weights}

    def finish(self) -> None:
        """Load them, if any came."""
        if self._arrived:
            with torch.no_grad():
                self._worker.reload_weights(weights_iterator=iter(self._arrived.items()))
        self._arrived = {}


class KnowsBuckets:
    """A worker extension. Through it workers in other processes import this module, and so the back end."""

    weight_transfer_engine: BucketTransfer
    weight_collector: Collector | None = None

    def weight_member(self) -> BucketTransfer | Collector:
        """This worker's end of the weight syncs."""
        if has(TRANSFER):
            return self.weight_transfer_engine
        if self.weight_collector is None:
            self.weight_collector = Collector(self)
        return self.weight_collector

    def collect_weights(self, method: str, arguments: dict[str, Any]) -> None:
        """Call a method of the collector."""
        getattr(self.weight_member(), method)(**arguments)

    def take_fault(self) -> str:
        """What went wrong with the weight group since the last call, if anything."""
        member = self.weight_member()
        fault, member.fault = member.fault, ""
        return fault


class CollectedSync:
    """A weight sync through the workers' collectors."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    def _call(self, method: str, arguments: dict[str, Any]) -> None:
        self._llm.collective_rpc("collect_weights", args=(method, arguments))

    def init_weight_transfer_engine(self, request: dict[str, Any]) -> None:
        self._call("join", request["init_info"])

    def start_weight_update(self) -> None:
        self._call("start", {})

    def update_weights(self, request: dict[str, Any]) -> None:
        self._call("add", request["update_info"])

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._call("finish", {})


def sync_arguments() -> dict[str, Any]:
    """Arguments of vLLM's LLM for weight syncs."""
    back_end = {"weight_transfer_config": {"backend": BACKEND}} if has(TRANSFER) else {}
    return {"worker_extension_cls": f"{__name__}.KnowsBuckets", **back_end}


def sync_of(llm: Any) -> WeightSync:
    """How an engine gets new weights."""
    sync: WeightSync = llm if has(TRANSFER) else CollectedSync(llm)
    return sync


if has(TRANSFER):
    find("vllm.distributed.weight_transfer.factory:WeightTransferEngineFactory").register_engine(
        BACKEND, BucketTransfer
    )
