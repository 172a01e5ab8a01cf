"""One vLLM engine in this process: how it is started, fed with requests, given new weights, and put to sleep."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakValueDictionary

# Read by vLLM when it is first imported. Its engine runs in our own process: weights and prompts are passed, not sent. Its
# first model runner: custom logits processors of the second one have another interface. And no telemetry.
os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_USE_V2_MODEL_RUNNER": "0", "VLLM_NO_USAGE_STATS": "1"}
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.lora.request import LoRARequest
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.renderers.inputs.preprocess import parse_model_prompt

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.generation.generator import EngineLost
from sharegrpo_rl.models.policy import Policy, unwrapped
from sharegrpo_rl.models.recurrence import keeps_states
from sharegrpo_rl.models.weights import GroupBroken, Meeting, WeightGroup, Weights, in_buckets

GIB = 2**30
CPU_BLOCK = 32  # tokens; prompts share whole blocks, and the CPU build's default of 128 would share no short prompt
BACKEND = "sharegrpo_buckets"
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # vLLM reserves memory for one of these


class EngineSettings(Protocol):
    """How an engine runs: the options of `config.vllm`."""

    tensor_parallel_size: int
    gpu_memory_utilization: float
    kv_cache_gb: float | None
    enforce_eager: bool | None
    sleep: bool


class VLLMEngine:
    """Holds the weights of a model's folder until others are loaded; `version` counts those.

    With `adapter` (the options of a LoRA) only adapters are loaded: the folder's weights are left unchanged.
    """

    def __init__(
        self,
        folder: str,
        policy: Policy,
        *,
        dtype: str,
        max_completion_tokens: int,
        images_per_prompt: int,
        settings: EngineSettings,
        adapter: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings = settings
        self.version: int | None = None
        self.images_per_prompt = images_per_prompt
        self.is_checked = False  # against the trainer, since its weights are the trainer's
        self.pictures: WeakValueDictionary[str, Any] = WeakValueDictionary()  # that requests hold, by key
        self._requests = count()
        with _own_threads():
            self._llm = _start(
                folder,
                policy,
                self.settings,
                dtype=dtype,
                max_model_len=policy.encoder.settings.max_prompt_tokens + max_completion_tokens,
                additional_config={"banned_ids": policy.banned.tolist()},
                **_image_arguments(policy, images_per_prompt),
                **({} if adapter is None else lora_arguments(adapter)),
            )
        self._engine = self._llm.llm_engine
        self._adapter = None if adapter is None else Adapter(self._engine, adapter)
        self._rest()

    @property
    def dtype(self) -> torch.dtype:
        """The precision that the engine computes in."""
        dtype: torch.dtype = self._engine.model_config.dtype
        return dtype

    def process(self, ids: Sequence[int], pictures: Sequence[Image.Image], keys: Sequence[str]) -> Any:
        """vLLM's own input for a prompt whose placeholders are not expanded; `keys` identify the pictures to its caches."""
        raw = {
            "prompt_token_ids": list(ids),
            "multi_modal_data": {"image": list(pictures)},
            "multi_modal_uuids": {"image": list(keys)},
        }
        renderer = self._engine.renderer
        parsed = parse_model_prompt(self._engine.model_config, raw)
        (made,) = renderer.render_cmpl([parsed], renderer.default_cmpl_tok_params)
        return made

    def submit(self, prompt: Any, parameters: Any) -> str:
        """Queue a prompt from `engine_input`; returns the request's id."""
        name = str(next(self._requests))
        self._engine.add_request(name, prompt, parameters, lora_request=self._adapter and self._adapter.request)
        return name

    def finished(self) -> list[Any]:
        """Run one step; the requests that ended with it, as vLLM's RequestOutputs. EngineLost where it fails."""
        try:
            outputs = self._engine.step()
        except Exception as error:
            raise EngineLost(f"vLLM failed: {type(error).__name__}: {error}") from error
        return [output for output in outputs if output.finished]

    def abort(self, requests: Sequence[str]) -> None:
        """Drop requests that are still running."""
        if requests:
            self._engine.abort_request(list(requests))

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int, timeout_s: float = float("inf")) -> None:
        """Load new weights, of some blocks or of all; TimeoutError where that takes too long."""
        started = time.monotonic()
        self.start_load()
        for number, (bucket, _) in enumerate(in_buckets(weights), 1):
            self.load_bucket(bucket)
            if time.monotonic() - started > timeout_s:
                raise TimeoutError(
                    f"vLLM took only {number} parts of weights {version} within {timeout_s:g} s; if it is merely slow, raise "
                    "weight_sync_timeout_s"
                )
        self.finish_load(version)

    def start_load(self) -> None:
        """Begin a weight sync: buckets follow."""
        self.version = None
        self._wake()
        if self._adapter:
            self._adapter.start()
        else:
            self._llm.start_weight_update()

    def load_bucket(self, weights: Weights) -> None:
        """Load some of the weights, by their checkpoint names."""
        if self._adapter:
            self._adapter.add(weights)
        else:
            self._llm.update_weights({"update_info": {"weights": weights}})

    def finish_load(self, version: int) -> None:
        """End the weight sync, and drop everything computed with the old weights."""
        if self._adapter:
            self._adapter.finish()
        else:
            self._llm.finish_weight_update(str(version))
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("vLLM kept its prefix cache over a change of weights: requests are still running")
        self._engine.reset_mm_cache()
        self._engine.reset_encoder_cache()
        self.version = version
        self._rest()

    def join(self, meeting: Meeting, first_rank: int) -> str:
        """Have every worker become a member of a weight group, from `first_rank` on; the reason where one could not."""
        self._llm.init_weight_transfer_engine({"init_info": {"meeting": meeting, "first_rank": first_rank}})
        return self._fault()

    def receive(self, plan: list[Weights], version: int) -> str:
        """Load the planned weights as they come from the group. The reason where they did not: the engine then has none
        that may be used."""
        self.start_load()
        self._llm.update_weights({"update_info": {"plan": plan}})
        fault = self._fault()
        if fault:
            self._llm.finish_weight_update()
            self._rest()
        else:
            self.finish_load(version)
        return fault

    def _fault(self) -> str:
        faults: list[str] = self._llm.collective_rpc("take_fault")
        return next(filter(None, faults), "")

    @contextmanager
    def awake(self) -> Iterator[None]:
        """The engine's GPU memory in place; given back afterwards where `sleep` is set."""
        self._wake()
        try:
            yield
        finally:
            self._rest()

    def _wake(self) -> None:
        if self.settings.sleep and self._engine.is_sleeping():
            self._llm.wake_up()

    def _rest(self) -> None:
        if self.settings.sleep:
            self._llm.sleep(level=1)

    def stop(self) -> None:
        """Free what the engine holds."""
        self._engine.engine_core.shutdown()


def _start(folder: str, policy: Policy, settings: EngineSettings, **arguments: Any) -> Any:
    """vLLM's LLM; UserError where it refuses to start."""
    from vllm import LLM
    from vllm.platforms import current_platform

    on_cpu = current_platform.is_cpu()
    if on_cpu and settings.sleep:
        raise UserError("config.vllm.sleep: vLLM's CPU build cannot sleep; set it to false")
    if on_cpu:
        _check_heads(policy)
    cache_gb = settings.kv_cache_gb or (1.0 if on_cpu else None)
    if on_cpu:
        # After a chunk of a prompt vLLM rewinds the request's generator, which a CPU's cannot: no chunked prefill.
        arguments |= {"block_size": CPU_BLOCK, "enable_chunked_prefill": False}
    # Without chunks it keeps the states of hybrid models for no prefix.
    arguments["enable_prefix_caching"] = not (on_cpu and keeps_states(unwrapped(policy.model)))
    if settings.tensor_parallel_size > 1:
        arguments["distributed_executor_backend"] = "mp"  # in a trial of Tune it would choose Ray's
    try:
        return LLM(
            model=folder,
            generation_config="vllm",  # not the folder's own sampling settings
            tensor_parallel_size=settings.tensor_parallel_size,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            kv_cache_memory_bytes=None if cache_gb is None else int(cache_gb * GIB),
            enforce_eager=on_cpu if settings.enforce_eager is None else settings.enforce_eager,
            enable_sleep_mode=settings.sleep,
            logprobs_mode="processed_logprobs",
            logits_processors=["sharegrpo_rl.generation.vllm.generator:BannedIds"],
            weight_transfer_config={"backend": BACKEND},
            worker_extension_cls="sharegrpo_rl.generation.vllm.engine.KnowsBuckets",
            use_tqdm_on_load=False,
            **arguments,
        )
    except Exception as error:  # whatever a model that vLLM does not know makes it raise
        raise UserError(f"config.engine: vLLM does not start with {folder!r} ({reason_of(error)})") from error


def reason_of(error: Exception) -> str:
    """An error in words for one line; its class too, unless it is one that is told to users."""
    words = " ".join(str(error).split())[:300]
    is_told = isinstance(error, ValueError | RuntimeError | OSError) and words
    return words if is_told else f"{type(error).__name__}: {words}"


def _image_arguments(policy: Policy, images_per_prompt: int) -> dict[str, Any]:
    """Number and size of a prompt's images, from which vLLM plans its memory. They come processed, so it caches none."""
    encoder = policy.encoder
    if encoder.image_processor is None:
        return {}
    arguments: dict[str, Any] = {
        "limit_mm_per_prompt": {"image": images_per_prompt, "video": 0},
        "mm_processor_cache_gb": 0,
    }
    if encoder.has_grids:  # pictures come processed, and normalized already
        arguments |= {"mm_processor_kwargs": encoder.picture_limits, "mm_device_do_normalize": False}
    return arguments


def _check_heads(policy: Policy) -> None:
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    config = unwrapped(policy.model).config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    supported = CPUAttentionBackend.get_supported_head_sizes()
    if size not in supported:
        raise UserError(
            f"config.engine: vLLM's CPU build has no attention heads of size {size}, only {', '.join(map(str, supported))}; "
            "use hf, or for `tiny` a model_config whose hidden_size / num_heads is one of these"
        )


@contextmanager
def _own_threads() -> Iterator[None]:
    """Keep this process's number of torch threads: vLLM's CPU worker sets another and forbids changing it."""
    setter, threads = torch.set_num_threads, torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads = setter
        setter(threads)


def lora_arguments(lora: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of vLLM's LLM for one adapter at a time, in the model's own precision."""
    rank = lora.get("r", 16)
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": min(r for r in LORA_RANKS if r >= rank)}


class Adapter:
    """The LoRA adapter of a running engine; `request` is None until one is loaded.

    Collected from buckets and passed on as peft's files, under a new id each time: what vLLM keeps for an id, in its slots
    and its prefix cache, belongs to older weights.
    """

    def __init__(self, engine: Any, lora: Mapping[str, Any]) -> None:
        self._engine, self._lora = engine, lora
        self._incoming: dict[str, Tensor] = {}
        self._number = 0
        self.request: LoRARequest | None = None

    def start(self) -> None:
        """Start collecting."""
        self._incoming = {}

    def add(self, weights: Weights) -> None:
        """Collect some tensors, under peft's names."""
        self._incoming |= {name: tensor.detach().clone().contiguous() for name, tensor in weights}

    def finish(self) -> None:
        """Replace the current adapter by the collected one."""
        self._number += 1
        folder = Path(tempfile.mkdtemp(prefix="sharegrpo_rl-adapter-"))
        try:
            save_file(self._incoming, folder / "adapter_model.safetensors")
            (folder / "adapter_config.json").write_text(json.dumps(self._settings()))
            request = LoRARequest(f"adapter-{self._number}", self._number, str(folder))
            if self.request is not None:
                self._engine.remove_lora(self.request.lora_int_id)
            if not self._engine.add_lora(request):
                raise RuntimeError(f"vLLM did not take adapter {self._number}")
            self._engine.pin_lora(self._number)  # its files are deleted below: it must not be loaded again
            self.request = request
        finally:
            shutil.rmtree(folder)
            self._incoming = {}

    def _settings(self) -> dict[str, Any]:
        layers = {name.split(".lora_")[0].rsplit(".", 1)[1] for name in self._incoming}
        return {
            "peft_type": "LORA",
            "r": self._lora.get("r", 16),
            "lora_alpha": self._lora.get("alpha", 32.0),
            "target_modules": sorted(layers),
            "bias": "none",
        }


@dataclass
class Joining(WeightTransferInitInfo):
    """A weight group's meeting, and the rank of the engine's first worker in it."""

    meeting: Meeting
    first_rank: int


@dataclass
class Bucket(WeightTransferUpdateInfo):
    """Some of the weights, by their checkpoint names; or the plan of those that the group is about to send."""

    weights: Weights = field(default_factory=list)
    plan: list[Weights] = field(default_factory=list)


class BucketTransfer(WeightTransferEngine[Joining, Bucket]):
    """The worker's end of a weight sync: loads buckets in place, layer by layer; layers without new weights keep theirs.

    What goes wrong with the group is kept as `fault`, not raised: vLLM would leave the answers of other workers unread.
    """

    init_info_cls = Joining
    update_info_cls = Bucket
    group: WeightGroup | None = None
    fault = ""

    def init_transfer_engine(self, init_info: Joining) -> None:
        """Leave the old group, become a member of another."""
        self.shutdown()
        rank = init_info.first_rank + self.parallel_config.rank
        try:
            self.group = WeightGroup(init_info.meeting, rank, self.device)
        except GroupBroken as error:
            self.fault = str(error)

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """As in the base class, which fails to synchronize where there is no accelerator."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: Bucket) -> None:
        if update_info.plan:
            self._receive_planned(update_info.plan)
        else:
            self._load(update_info.weights)

    def _receive_planned(self, plan: list[Weights]) -> None:
        if self.group is None:
            self.fault = "an engine is not in the group"
            return
        try:
            self._load(self.group.receive(plan))
        except Exception as error:  # ours or vLLM's: the whole group is told
            self.fault = reason_of(error)
            self.shutdown()

    def _load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        with torch.no_grad():
            self.model.load_weights(weights)

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Leave the group."""
        if self.group is not None:
            self.group.close(self.fault)
            self.group = None


class KnowsBuckets:
    """A worker extension. Through it workers in other processes import this module, and so the back end."""

    weight_transfer_engine: BucketTransfer

    def take_fault(self) -> str:
        """What went wrong with the weight group since the last call, if anything."""
        fault, self.weight_transfer_engine.fault = self.weight_transfer_engine.fault, ""
        return fault


WeightTransferEngineFactory.register_engine(BACKEND, BucketTransfer)
