"""Rendering ahead of the engine: prompts enter in their order as they are ready, and are the same whatever threads do."""

import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from sharegrpo_rl.algorithms.registry import build_config
from sharegrpo_rl.data import images
from sharegrpo_rl.data.types import Slot, SlotRequest
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.models.prompts import Question
from sharegrpo_rl.rollouts import env_runner
from sharegrpo_rl.rollouts.env_runner import QAEnvRunner, Rendering, render, show

PATIENCE = 120  # seconds for what takes none: only a test that fails waits so long


@pytest.fixture(autouse=True)
def _several_threads(monkeypatch):
    monkeypatch.setattr(images, "THREADS", 3)
    monkeypatch.setattr(env_runner, "THREADS", 3)


@pytest.fixture
def make_runner(policy, tmp_path):
    """make_runner(pictures of each row): an env runner over the rows of a file, with the tiny model."""

    def make(*rows, **options):
        rng = np.random.default_rng(0)
        lines = []
        for i, count in enumerate(rows):
            names = [f"{i}-{j}.png" for j in range(count)]
            for name in names:
                Image.fromarray(rng.integers(0, 256, (56, 28, 3), np.uint8)).save(tmp_path / name)
            lines.append({"id": f"q{i}", "question": f"What is {i}?", "answer": str(i), "images": names})
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        settings = {"env_config": {"data": str(tmp_path)}, "max_completion_tokens": 6, **options}
        runner = QAEnvRunner(config=build_config("GRPO", "MultimodalQA-v0", settings, 0))
        runner.share_module(SimpleNamespace(policy=policy))
        return runner

    return make


def requests(count, transforms=(None, "noise_25")):
    """One for each of the first `count` questions and each transform, in their order."""
    slots = [Slot(k, 0, name, 7) for k, name in enumerate(transforms)]
    return [SlotRequest(i, i, slot, 2, 10 * i + slot.slot) for i in range(count) for slot in slots]


def as_values(prompts):
    return [
        (p.input_ids.tolist(), p.text, [(i.key, np.asarray(i.tensors["pixel_values"]).tobytes()) for i in p.images])
        for p in prompts
    ]


def answers(episodes):
    return [
        (e.custom_data["request"], e.custom_data["completion"].token_ids.tolist(), e.get_return()) for e in episodes
    ]


def block(env, monkeypatch, question, until):
    """Let a question's pictures be shown only after `until`."""
    real = type(env).reset

    def reset(self, *, seed=None, options=None):
        if options["question_index"] == question:
            assert until.wait(PATIENCE)
        return real(self, seed=seed, options=options)

    monkeypatch.setattr(type(env), "reset", reset)


def test_prompts_are_those_of_one_after_the_other(make_runner, policy):
    runner, asked = make_runner(1, 0, 2, 1), requests(4)
    one_by_one = [
        policy.encoder.encode([Question(o["question"], o["images"], info["image_keys"])])[0]
        for o, info in show(runner.env, asked)
    ]
    assert as_values(render(runner.env, policy.encoder, asked)) == as_values(one_by_one)


def test_a_picture_of_several_prompts_is_made_once(make_runner, policy):
    runner = make_runner(2)
    one, other, noisy = render(runner.env, policy.encoder, requests(1, (None, None, "noise_25")))
    assert [a is b for a, b in zip(one.images, other.images, strict=True)] == [True, True]
    assert {i.key for i in one.images}.isdisjoint(i.key for i in noisy.images)


def test_the_first_prompt_is_there_before_the_last_is_rendered(make_runner, policy, monkeypatch):
    runner, read = make_runner(1, 1, 1), threading.Event()
    block(runner.env, monkeypatch, 2, read)
    with Rendering(runner.env, policy.encoder, requests(3, (None,))) as rendering:
        assert rendering.prompts[0].images
        assert not rendering.prompts.has(2)
        read.set()
        assert len(list(rendering.prompts)) == 3


def test_answers_do_not_depend_on_which_prompt_is_ready_first(make_runner, monkeypatch):
    runner, asked, late = make_runner(1, 1, 2), requests(3), threading.Event()
    expected = answers(runner.sample(requests=asked))
    real = Rendering._render

    def first_question_last(self, index, request):
        prompt = real(self, index, request)
        if request.question_index == 2:
            late.set()
        return prompt

    monkeypatch.setattr(Rendering, "_render", first_question_last)
    block(runner.env, monkeypatch, 1, late)
    assert answers(runner.sample(requests=asked)) == expected
    assert [request for request, *_ in expected] == [request for request in asked for _ in range(2)]


def test_what_fails_in_a_thread_ends_the_sampling(make_runner, policy):
    runner = make_runner(1, 1)
    (runner.env.bank[1].images[0].path).unlink()
    with pytest.raises(UserError, match=r"1-0\.png"):
        runner.sample(requests=requests(2))


def test_twenty_pictures_in_one_prompt(make_runner, policy, monkeypatch):
    """Several of them are processed at once: each waits for another."""
    runner, together = make_runner(20), threading.Barrier(2)
    inner = policy.encoder.image_processor
    runner.sample(requests=requests(1, (None,)))  # whatever is made at first use

    class Meeting:
        def __call__(self, *arguments, **keywords):
            together.wait(PATIENCE)
            return inner(*arguments, **keywords)

        def __getattr__(self, name):
            return getattr(inner, name)

    monkeypatch.setattr(policy.encoder, "image_processor", Meeting())
    (prompt,) = render(runner.env, policy.encoder, requests(1, (None,)))
    assert len(prompt.images) == 20
    (completions,) = HFGenerator(policy).generate([prompt], 2, [0], env_runner.Sampling(6))
    episodes = runner.sample(requests=requests(1, (None,)))
    assert [len(e.custom_data["prompt"].images) for e in episodes] == [20, 20]
    assert len(completions) == 2
