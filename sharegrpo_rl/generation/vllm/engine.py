"""One vLLM engine in this process: how it is started, fed with requests, given new weights, and put to sleep."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.generation.generator import EngineLost
from sharegrpo_rl.generation.vllm import private  # before vLLM, whose environment it sets
from sharegrpo_rl.generation.vllm.private import reason_of
from sharegrpo_rl.models.policy import Policy, unwrapped
from sharegrpo_rl.models.recurrence import keeps_states
from sharegrpo_rl.models.weights import Meeting, Weights, in_buckets

GIB = 2**30
CPU_BLOCK = 32  # tokens; prompts share whole blocks, and the CPU build's default of 128 would share no short prompt
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
        private.check_version()
        with _own_threads():
            self._llm = _start(
                folder,
                policy,
                self.settings,
                dtype=dtype,
                max_model_len=policy.encoder.settings.max_prompt_tokens + max_completion_tokens,
                **private.ban_arguments(policy.banned.tolist()),
                **_image_arguments(policy, images_per_prompt),
                **({} if adapter is None else lora_arguments(adapter)),
            )
        self._engine = self._llm.llm_engine
        self._sync = private.sync_of(self._llm)
        self.allowed_ids = private.allowed_ids(self._engine, policy.banned.tolist())
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
        return private.rendered(self._engine, raw)

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
            self._sync.start_weight_update()

    def load_bucket(self, weights: Weights) -> None:
        """Load some of the weights, by their checkpoint names."""
        if self._adapter:
            self._adapter.add(weights)
        else:
            self._sync.update_weights({"update_info": {"weights": weights}})

    def finish_load(self, version: int) -> None:
        """End the weight sync, and drop everything computed with the old weights."""
        if self._adapter:
            self._adapter.finish()
        else:
            self._sync.finish_weight_update(str(version))
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("vLLM kept its prefix cache over a change of weights: requests are still running")
        self._engine.reset_mm_cache()
        self._engine.reset_encoder_cache()
        self.version = version
        self._rest()

    def join(self, meeting: Meeting, first_rank: int) -> str:
        """Have every worker become a member of a weight group, from `first_rank` on; the reason where one could not."""
        self._sync.init_weight_transfer_engine({"init_info": {"meeting": meeting, "first_rank": first_rank}})
        return self._fault()

    def receive(self, plan: list[Weights], version: int) -> str:
        """Load the planned weights as they come from the group. The reason where they did not: the engine then has none
        that may be used."""
        self.start_load()
        self._sync.update_weights({"update_info": {"plan": plan}})
        fault = self._fault()
        if fault:
            self._sync.finish_weight_update()
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
            use_tqdm_on_load=False,
            **private.sync_arguments(),
            **arguments,
        )
    except Exception as error:  # whatever a model that vLLM does not know makes it raise
        raise UserError(f"config.engine: vLLM does not start with {folder!r} ({reason_of(error)})") from error


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
    config = unwrapped(policy.model).config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if supported := private.other_head_sizes(size):
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
        self.request: Any = None  # vLLM's LoRARequest

    def start(self) -> None:
        """Start collecting."""
        self._incoming = {}

    def add(self, weights: Weights) -> None:
        """Collect some tensors, under peft's names."""
        self._incoming |= {name: tensor.detach().clone().contiguous() for name, tensor in weights}

    def finish(self) -> None:
        """Replace the current adapter by the collected one."""
        from vllm.lora.request import LoRARequest

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
