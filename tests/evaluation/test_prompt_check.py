"""Prompts and ground truths are held against the model before training: what it cannot be asked is found with its row."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tiny_models import tiny_policy
from tokenizers import AddedToken, normalizers

from sharegrpo_rl.algorithms.registry import build_config
from sharegrpo_rl.algorithms.warm_start import check_targets, target_pack
from sharegrpo_rl.envs.bank_view import BankView
from sharegrpo_rl.envs.registry import make_bank, make_env
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.prompt_check import check_prompts
from sharegrpo_rl.evaluation.report import GeneratedText
from sharegrpo_rl.evaluation.verdict import grade
from sharegrpo_rl.models.prompts import PromptEncoder, PromptSettings, Question
from sharegrpo_rl.rollouts.env_runner import BackgroundGrader

SETTINGS = PromptSettings(max_prompt_tokens=512, min_pixels=784, max_pixels=3136)


def data_set(folder, *changes, size=(28, 28)):
    """A set of three rows, each of which a change may alter; the test split has the same."""
    Image.new("RGB", (28, 28)).save(folder / "small.png")
    Image.new("RGB", size).save(folder / "other.png")
    rows = [
        {"id": f"r{i}", "question": f"How many dots, {i}?", "answer": str(i), "image": "small.png"} for i in range(3)
    ]
    for index, change in changes:
        rows[index] |= change
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def environment(data, **options):
    return make_env("MultimodalQA-v0", {"data": data}, **options)


def encoder_of(policy, **settings):
    return PromptEncoder(policy.processor, PromptSettings(**{**vars(SETTINGS), **settings}))


def with_template(change):
    """An encoder of a fresh tiny model whose chat template is changed by a function of its text."""
    policy = tiny_policy()
    policy.processor.chat_template = change(policy.processor.chat_template)
    policy.processor.tokenizer.chat_template = policy.processor.chat_template
    return policy.encoder


def test_a_sound_data_set_passes(policy, tmp_path):
    check_prompts(environment(data_set(tmp_path)), policy.encoder)


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|im_end|>", "<|vision_start|>"])
@pytest.mark.parametrize("change", [{}, {"image": None}])
@pytest.mark.parametrize("key", ["question", "question_variants"])
def test_special_tokens_in_questions_are_found_with_their_row(policy, tmp_path, token, change, key):
    text = f"What does {token} mean?"
    data = data_set(tmp_path, (1, {key: [text] if key == "question_variants" else text, **change}))
    with pytest.raises(
        UserError, match=r"train.jsonl line 2, id r1: .*a special token of the model.*escape_special_tokens"
    ):
        check_prompts(environment(data), policy.encoder)
    with pytest.raises(UserError, match=r"test.jsonl line 2, id r1"):
        check_prompts(environment(data, split="test"), policy.encoder)
    escaping = encoder_of(policy, escape_special_tokens=True)
    check_prompts(environment(data), escaping)


def test_escaped_special_tokens_are_read_as_plain_text(policy):
    pictures = (np.zeros((28, 28, 3), np.uint8),)
    (prompt,) = encoder_of(policy, escape_special_tokens=True).encode(
        [Question("Is <|im_end|> or <|image_pad|> it?", pictures)]
    )
    (plain,) = policy.encoder.encode([Question("Is this or that it?", pictures)])
    special = set(policy.encoder.tokenizer.all_special_ids) | {policy.model.config.image_token_id}
    assert [i for i in prompt.input_ids if i in special] == [i for i in plain.input_ids if i in special]
    assert "< |im_end|> or < |image_pad|> it?" in prompt.text


def test_special_tokens_of_the_run_s_own_texts_are_found(policy, tmp_path):
    with pytest.raises(UserError, match="system_prompt: it holds '<|im_end|>'".replace("|", r"\|")):
        check_prompts(environment(data_set(tmp_path)), encoder_of(policy, system_prompt="Stop at <|im_end|>."))


@pytest.mark.parametrize("size", [(2100, 10), (10, 2100), (201, 1)])
def test_pictures_that_the_processor_refuses_are_found_with_their_row(policy, tmp_path, size):
    data = data_set(tmp_path, (2, {"image": "other.png"}), size=size)
    with pytest.raises(UserError, match=rf"line 3, id r2: a picture of {size[0]} x {size[1]} pixels is narrower"):
        check_prompts(environment(data), policy.encoder)


def test_a_model_without_a_chat_template_is_refused(tmp_path):
    with pytest.raises(UserError, match="model: it has no chat template"):
        check_prompts(environment(data_set(tmp_path)), with_template(lambda text: None))


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('no such thing') }}", "{% if %}", "{{ messages[0]['content'] + 'text' }}", "{{ 1 / 0 }}"],
)
def test_a_template_that_fails_is_named_with_its_own_words(tmp_path, template):
    with pytest.raises(UserError, match=r"model: its chat template fails \(\w+: "):
        check_prompts(environment(data_set(tmp_path)), with_template(lambda text: template))


def test_a_template_that_refuses_system_messages_is_told_from_a_broken_one(tmp_path):
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    encoder = with_template(lambda text: refusing + text)
    check_prompts(environment(data_set(tmp_path)), encoder)
    encoder.settings = PromptSettings(**{**vars(SETTINGS), "system_prompt": "Count."})
    with pytest.raises(
        UserError, match=r"system_prompt: the model's chat template refuses .*no system role.*leave it empty"
    ):
        check_prompts(environment(data_set(tmp_path)), encoder)


@pytest.mark.parametrize("opened", ["<think>", "<think>\n"])
def test_a_thought_that_the_template_opens_counts_as_the_response_s(tmp_path, opened):
    encoder = with_template(lambda text: text + opened.replace("\n", "{{ '\\n' }}"))
    assert encoder.opening == opened
    env = environment(data_set(tmp_path))
    question, answer = env.bank[2], "so</think><answer>2</answer>"
    rubric = env.rubric_of(question)
    assert grade(rubric, question, GeneratedText(answer, 5, opening=encoder.opening)).format_ok
    assert not grade(rubric, question, GeneratedText(answer, 5)).format_ok
    requests = [SimpleNamespace(question_index=2)]
    with BackgroundGrader(env, requests, encoder.opening) as grader:
        ((score,), _) = grader.results([[SimpleNamespace(text=answer, truncated=False)]])[0]
    assert score.parts == {"accuracy": 1.0, "format": 1.0}


def test_a_tag_that_the_template_opens_is_not_taught_again():
    policy = tiny_policy()
    policy.processor.chat_template += "<think>"
    target = "<think>so</think><answer>2</answer>"
    (completion,) = target_pack(policy, 0, None, target).completions
    assert completion.text == target.removeprefix("<think>")
    assert policy.encoder.decode(completion.token_ids) == completion.text


def test_format_tags_that_are_special_tokens_are_seen_by_the_grader():
    policy = tiny_policy()
    tags = ["<think>", "</think>", "<answer>", "</answer>"]
    policy.processor.tokenizer.add_tokens([AddedToken(tag, special=True) for tag in tags], special_tokens=True)
    encoder = PromptEncoder(policy.processor, SETTINGS)
    text = "<think>so</think><answer>2</answer>"
    ids = encoder.tokenizer(text + "<|im_end|>", add_special_tokens=False)["input_ids"]
    assert encoder.decode(ids) == text
    assert encoder.special_tokens(f"Write {text} <|im_end|>") == ["<|im_end|>"]


@pytest.mark.parametrize(("answer_format", "answer"), [("steps", "5 ### 6"), ("boxed", "a } b {")])
def test_a_ground_truth_that_does_not_earn_its_own_reward_is_refused_with_its_row(tmp_path, answer_format, answer):
    data = data_set(tmp_path, (1, {"answer": answer}))
    with pytest.raises(UserError, match=r"train.jsonl line 2, id r1: .*does not earn its own reward.*leave it out"):
        environment(data, answer_format=answer_format)


def test_a_ground_truth_that_the_tokenizer_cannot_write_is_refused_with_its_row(tmp_path):
    policy = tiny_policy()
    policy.processor.tokenizer.backend_tokenizer.normalizer = normalizers.Replace("0", "o")
    with pytest.raises(UserError, match=r"line 1, id r0: the model's tokenizer cannot write the ground truth '0'"):
        check_prompts(environment(data_set(tmp_path)), policy.encoder)


def test_a_target_that_would_teach_another_answer_or_format_is_refused_with_its_row(tmp_path):
    config = build_config("SFT", "MultimodalQA-v0", {}, 0)
    bank = make_bank("MultimodalQA-v0", {"data": data_set(tmp_path)}, "train")
    check_targets(bank, config)
    broken = BankView(
        bank, [0, 1], lambda q: replace(q, solution="They say </think> first." if q.id == "r1" else "I count.")
    )
    with pytest.raises(
        UserError, match=r"line 2, id r1: the target that supervised training would teach earns nothing"
    ):
        check_targets(broken, config)


def test_a_model_without_an_end_token_is_refused():
    from sharegrpo_rl.models.families import end_ids

    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=None))
    with pytest.raises(UserError, match="names an end token"):
        end_ids(model, SimpleNamespace(eos_token_id=None))
    model.generation_config.eos_token_id = [7, 9]
    assert end_ids(model, SimpleNamespace(eos_token_id=None)) == (7, 9)
