"""A model on this machine: a real one of 80 thousand parameters, and the same replies whatever shares the batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from expansion_parts import json_lines, question_row

from sharegrpo_rl.data.images import EncodedImage
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.expansion.local import LocalModel
from sharegrpo_rl.expansion.session import Reply, Request, Unanswered


@pytest.fixture(scope="module")
def model_folder(make_policy: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sharegrpo_rl.models.loading import save_pretrained

    folder = tmp_path_factory.mktemp("tiny")
    save_pretrained(make_policy(), folder)
    return folder


def ask(model: LocalModel, *requests: Request) -> list[Any]:
    async def run() -> list[Any]:
        await model.check()
        return await asyncio.gather(*map(model.ask, requests), return_exceptions=True)

    return asyncio.run(run())


def test_replies_depend_on_the_request_alone(model_folder: Path, picture: bytes) -> None:
    model = LocalModel(str(model_folder))
    image = EncodedImage(picture, "a")
    requests = [
        Request("How many red circles?", 1.0, 12, 1),
        Request("How many red circles?", 1.0, 12, 2),
        Request("Which?", 0.0, 8, 1),
        Request("<image> Which?", 0.0, 8, 1, (image,)),
        Request("How many?", 0.5, 12, 1),
    ]
    together = ask(model, *requests)
    assert all(isinstance(reply, Reply) for reply in together)
    assert [ask(model, request)[0] for request in requests[::-1]][::-1] == together
    assert together[0] != together[1]
    assert ask(model, Request("Which?", 0.0, 8, 99)) == [together[2]]  # greedy: the seed plays no part


def test_too_long_a_prompt_fails_alone(model_folder: Path) -> None:
    model = LocalModel(str(model_folder))
    long, short = ask(model, Request("How many? " * 3000, 1.0, 12, 1), Request("How many?", 1.0, 12, 1))
    assert isinstance(long, Unanswered)
    assert "tokens" in str(long)
    assert isinstance(short, Reply)
    (wide,) = ask(model, Request("How many?", 1.0, 4096, 1))
    assert "--max-tokens 4096 exceed the model's 4096" in str(wide)


def test_other_weights_are_another_model(model_folder: Path, tmp_path: Path) -> None:
    import shutil

    first = LocalModel(str(model_folder)).identity
    assert LocalModel(str(model_folder)).identity == first
    shutil.copytree(model_folder, tmp_path / "copy")
    (tmp_path / "copy/generation_config.json").write_text("{}")
    assert LocalModel(str(tmp_path / "copy")).identity != first


def test_a_tokenizer_without_a_chat_template_is_refused(model_folder: Path) -> None:
    model = LocalModel(str(model_folder))
    model._policy.processor.chat_template = None
    model._policy.encoder.tokenizer.chat_template = None
    with pytest.raises(UserError, match="has no chat template"):
        ask(model, Request("a", 1.0, 4, 0))


def test_a_bug_in_generation_reaches_every_waiter(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LocalModel(str(model_folder))

    def broken(*arguments: Any) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(model._generator, "generate", broken)
    results = ask(model, Request("a", 1.0, 4, 0), Request("b", 1.0, 4, 0))
    assert [type(result) for result in results] == [ZeroDivisionError] * 2


def test_the_command_runs_on_it(
    model_folder: Path, make_set: Callable[..., Path], run_expand: Callable[..., str], tmp_path: Path
) -> None:
    """Eighty thousand random parameters reword nothing; that all of it is refused, counted and reproducible is the point."""
    data = make_set([question_row(n, solution="So a = 2.") for n in range(3)])
    options = {"local": str(model_folder), "max_tokens": 16, "attempts": 1, "key_steps": True, "concurrency": 3}
    summary = run_expand(data, **options)
    assert "0 of 6 variants for 3 questions" in summary
    assert "rejected 6 (reply 6); 6 requests, 0 replies reused" in summary
    texts = [entry["text"] for entry in json_lines(tmp_path / "new/expansion/rejected.jsonl")]
    assert "0 requests, 6 replies reused" in run_expand(data, **options)
    (tmp_path / "new.journal.jsonl").unlink()
    run_expand(data, **{**options, "concurrency": 1})
    assert [entry["text"] for entry in json_lines(tmp_path / "new/expansion/rejected.jsonl")] == texts
