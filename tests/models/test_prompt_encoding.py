"""Prompts: image placeholders, limits, bounds, text-only models, banned ids."""

from copy import copy

import numpy as np
import pytest
import torch
from families_with_windows import gemma3, glm4v, glm46v
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_families import idefics3, internvl, llava, mistral3, qwen2_vl, text_only
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models.families import banned_ids
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import PromptEncoder, PromptSettings, Question, picture_key
from sharegrpo_rl.models.tiny import build_tokenizer


def picture(height=28, width=28, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def places(policy, prompt):
    return int((prompt.input_ids == policy.model.config.image_token_id).sum())


def test_prompt_ids_equal_the_processors_own(policy):
    pictures = (picture(), picture(42, 28, 1))
    prompt = policy.encoder.encode([Question("Compare <image> with <image> now.", pictures)])[0]
    size = {"shortest_edge": 784, "longest_edge": 3136}
    text = policy.encoder.template(Question("Compare <image> with <image> now.", pictures))
    own = policy.processor(text=[text], images=list(pictures), size=size, return_tensors="np", add_special_tokens=False)
    assert prompt.input_ids.tolist() == own["input_ids"][0].tolist()
    pixels = np.concatenate([np.asarray(i.tensors["pixel_values"]) for i in prompt.images])
    np.testing.assert_array_equal(pixels, own["pixel_values"])
    assert places(policy, prompt) == sum(int(g.prod()) // 4 for g in own["image_grid_thw"])


def test_pictures_are_processed_once_and_told_apart_by_key(policy):
    one, other = picture(seed=1), picture(seed=2)
    first, second = policy.encoder.encode([Question("a", (one, other)), Question("b", (other,))])
    assert [i.key for i in first.images] == [picture_key(one), picture_key(other)]
    assert second.images[0].tensors["pixel_values"] is first.images[1].tensors["pixel_values"]
    alone = policy.encoder.encode([Question("b", (other,))])[0]
    np.testing.assert_array_equal(alone.images[0].tensors["pixel_values"], second.images[0].tensors["pixel_values"])


def test_wrong_number_of_image_placeholders(policy):
    with pytest.raises(UserError):
        policy.encoder.encode([Question("One <image>, two <image>.", (picture(),))])


def test_an_over_long_prompt_is_a_user_error(policy):
    encoder = PromptEncoder(policy.processor, PromptSettings(max_prompt_tokens=20, min_pixels=784, max_pixels=3136))
    with pytest.raises(UserError, match="more than max_prompt_tokens = 20"):
        encoder.encode([Question("word " * 30)])
    with pytest.raises(UserError, match="lower max_pixels"):
        encoder.encode([Question("", (picture(56, 56),))])
    assert len(encoder.token_ids(Question("word " * 30))) > 20  # counting has no limit


@pytest.mark.parametrize("build", [qwen2_vl, glm4v, glm46v])
def test_limits_that_are_not_given_are_the_checkpoint_s_own(build):
    _, processor = build()
    side = processor.image_processor.patch_size * processor.image_processor.merge_size
    processor.image_processor.size = {"shortest_edge": 6 * side**2, "longest_edge": 40 * side**2}
    encoder = PromptEncoder(processor, PromptSettings())
    for size in (side, 3 * side, 20 * side):
        question = Question("What?", (picture(size, size),))
        own = processor(
            text=[encoder.template(question)],
            images=[[Image.fromarray(question.pictures[0])]],
            add_special_tokens=False,
        )
        assert encoder.token_ids(question).tolist() == own["input_ids"][0]


@pytest.mark.parametrize("build", [qwen2_vl, glm4v, glm46v])
def test_limits_mean_the_same_size_on_every_family(build):
    """GLM's processor counts a picture's pixels twice: with its own counting, a picture would get half the tokens."""
    _, processor = build()
    side = processor.image_processor.patch_size * processor.image_processor.merge_size
    encoder = PromptEncoder(processor, PromptSettings(min_pixels=9 * side**2, max_pixels=64 * side**2))
    for size, tokens in ((40 * side, 64), (5 * side, 25), (side, 9)):
        question = Question("What?", (picture(size, size),))
        assert encoder.picture_tokens(question, encoder.encode([question])[0]) == tokens


def test_a_processor_without_limits_gets_pictures_within_them():
    policies = [
        Policy(*mistral3(), PromptSettings(**limits)) for limits in ({}, {"max_pixels": 784}, {"min_pixels": 4000})
    ]
    question = Question("What?", (picture(40, 40),))
    free, small, large = (places(p, p.encoder.encode([question])[0]) for p in policies)
    assert small < free < large
    assert policies[1].encoder.picture_inputs(question)["images"][0][0].size == (28, 28)


@pytest.mark.parametrize(
    ("given", "other"), [({"max_pixels": 783}, "min_pixels"), ({"min_pixels": 3137}, "max_pixels")]
)
def test_one_limit_beyond_the_checkpoint_s_other(given, other, policy):
    with pytest.raises(UserError, match=f"beyond the checkpoint's own {other} = .*; give {other} too"):
        PromptEncoder(policy.processor, PromptSettings(**given)).encode([Question("What?", (picture(),))])


def test_an_extreme_picture_is_a_user_error(policy):
    with pytest.raises(UserError, match="aspect ratio"):
        policy.encoder.encode([Question("Look.", (picture(4, 1000),))])


@settings(max_examples=60)
@given(
    st.text(max_size=60),
    st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), max_size=3),
    st.sampled_from([(784, 3136), (196, 784), (784, 784), (3136, 20000)]),
)
def test_token_bound_is_an_upper_bound(policy, text, sizes, pixels):
    sizes = [(h, w) for h, w in sizes if max(h, w) <= 150 * min(h, w)]
    limits = PromptSettings("Be brief.", "Answer in a word.", 100_000, *pixels)
    encoder = PromptEncoder(policy.processor, limits)
    text = text.replace("<", "(").replace("\ud800", "")
    bound = encoder.token_bound(text, len(sizes))
    assert bound is not None
    assert len(encoder.token_ids(Question(text, tuple(picture(h, w) for h, w in sizes)))) <= bound


@settings(max_examples=300)
@given(
    st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([14, 28, 32]), st.integers(1, 2000), st.integers(1, 2000)
)  # fmt: skip
def test_image_bound_holds_for_every_size(policy, height, width, factor, low, high):
    """The bound on image tokens against the processor's own arithmetic, over all sizes and limits."""
    if max(height, width) > 200 * min(height, width):
        return
    low, high = sorted((low * factor, high * factor))
    h, w = smart_resize(height, width, factor, low, high)
    from sharegrpo_rl.models.prompts import most_image_tokens

    assert h * w // factor**2 <= most_image_tokens(factor, low, high)


def test_no_bound_where_the_processor_gives_none():
    encoder = Policy(*llava(), PromptSettings()).encoder
    assert encoder.token_bound("a", 1) is None
    assert encoder.token_bound("abc", 0) >= len(encoder.token_ids(Question("abc")))


@pytest.fixture(scope="module")
def processors():
    return [qwen2_vl()[1], glm4v()[1]]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 1),
    st.text(max_size=60) | st.text(" =\n", max_size=300),
    st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), max_size=3),
    st.sampled_from([(784, 3136), (196, 784), (784, 784), (3136, 20000), (None, None)]),
    st.integers(1, 400),
)
def test_sizes_tell_whether_a_prompt_fits(processors, kind, text, sizes, pixels, limit):
    sizes = [(w, h) for w, h in sizes if max(h, w) <= 150 * min(h, w)]
    encoder = PromptEncoder(processors[kind], PromptSettings("Be brief.", "Answer in a word.", limit, *pixels))
    text = text.replace("<", "(").replace("[", "(").replace("\ud800", "")
    pictures = tuple(picture(h, w) for w, h in sizes)
    assert encoder.fits(text, sizes) == (len(encoder.token_ids(Question(text, pictures))) <= limit)


def test_pixels_are_needed_where_the_processor_does_not_tell():
    encoder = Policy(*llava(), PromptSettings()).encoder
    assert encoder.fits("a", [(30, 30)]) is None
    assert encoder.fits("abc", []) is True


def test_text_only_models_refuse_pictures():
    policy = Policy(*text_only("llama"), PromptSettings())
    assert policy.encoder.encode([Question("How many?")])[0].images == ()
    with pytest.raises(UserError, match="text-only"):
        policy.encoder.encode([Question("How many?", (picture(),))])


def test_system_and_format_prompts_are_in_the_template(policy):
    settings = PromptSettings("You count.", "One number.", 512, 784, 3136)
    text = PromptEncoder(policy.processor, settings).template(Question("How many?", (picture(),)))
    assert text.index("You count.") < text.index("<|image_pad|>") < text.index("How many?") < text.index("One number.")
    assert text.endswith("<|im_start|>assistant\n")


def test_banned_ids_are_the_vision_tokens_and_the_heads_padding(policy):
    vocabulary = policy.encoder.tokenizer.get_vocab()
    banned = set(policy.banned.tolist())
    assert {i for token, i in vocabulary.items() if token.startswith(("<|vision_", "<|image_", "<|video_"))} <= banned
    assert set(range(len(policy.encoder.tokenizer), policy.model.lm_head.weight.shape[0])) <= banned
    assert not banned & {policy.encoder.tokenizer.eos_token_id, vocabulary["<|im_end|>"], vocabulary["a"]}
    assert policy.model.config.image_token_id in banned_ids(policy.model, policy.processor)


def test_marks_of_media_are_banned_in_every_family():
    """What surrounds a picture, and ids that only the config names; not what ends a turn, whatever the processor calls it."""
    model, processor = idefics3()
    processor.end_of_utterance_token = processor.tokenizer.eos_token
    banned = set(processor.tokenizer.convert_ids_to_tokens(banned_ids(model, processor)))
    assert {"<image>", "<fake_token_around_image>", "<global-img>", "<row_1_col_2>"} <= banned
    assert processor.tokenizer.eos_token not in banned
    model, tokenizer = text_only("llama")
    marks = ["[IMG_BREAK]", "<|begin_of_video|>", "<audio>", "TILE", "<start_of_turn>", "<|channel>", "<tool_call>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks}, replace_extra_special_tokens=False)
    model.resize_token_embeddings(len(tokenizer) + 2)
    model.config.image_start_token_id, model.config.audio_token_index = 41, 42
    model.config.video_token_id, model.config.tool_call_token_id = len(tokenizer) + 2, 43  # the first is above the head
    found = banned_ids(model, tokenizer)
    assert {41, 42, len(tokenizer), len(tokenizer) + 1} <= set(found)
    assert not {43, len(tokenizer) + 2} & set(found)
    assert {m for m in marks if tokenizer.convert_tokens_to_ids(m) in found} == set(marks[:4])


def test_banned_ids_have_log_prob_minus_infinity(policy, tiny):
    logits = torch.zeros(1, policy.model.lm_head.weight.shape[0])
    from sharegrpo_rl.ops.logprobs import mask_logits

    logprobs = mask_logits(logits, 1.0, policy.banned).log_softmax(-1)[0]
    assert bool(logprobs[policy.banned].isneginf().all())
    assert int(logprobs.isfinite().sum()) == len(logprobs) - len(policy.banned)
    pack = tiny.pack(policy, (2,), (1.0,))
    pack.completions[0].token_ids[1] = policy.encoder.tokenizer.convert_tokens_to_ids("<|vision_end|>")
    assert policy.logprobs([pack]).logprobs.isneginf().tolist() == [False, True]


PARTS = "{% for m in messages %}[{{ m.role }}] {% for p in m.content %}{{ p.text }}{% endfor %}\n{% endfor %}"
ANY_FORM = "{{ content if content is string else content[0].text }}"
TEMPLATES = {
    "text in system, parts in user": "{% for m in messages %}[{{ m.role }}] "
    "{% if m.role == 'system' %}{{ m.content }}{% else %}{{ m.content[0].text }}{% endif %}\n{% endfor %}",
    "parts in both": PARTS,
    "either": "{% for m in messages %}{% set content = m.content %}[{{ m.role }}] " + ANY_FORM + "\n{% endfor %}",
    "system before the question": "[user] {% if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}"
    "{% endif %}{{ messages[-1].content[0].text }}\n",
}


def encoder_with(policy, template, system_prompt):
    processor = copy(policy.processor)
    processor.chat_template = template
    return PromptEncoder(processor, PromptSettings(system_prompt, "", 512, 784, 3136))


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
@pytest.mark.parametrize("system", ["You look closely.", "Say 'so'.\nOr {not}: [{'type': 'text'}]"])
def test_a_system_prompt_is_shown_as_it_is(policy, template, system):
    text = encoder_with(policy, template, system).template(Question("How many?"))
    assert text.count(system) == 1
    assert text.replace(system, "").replace("[system]", "").split() == ["[user]", "How", "many?"]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            "{% for m in messages if m.role == 'user' %}{{ m.content[0].text }}{% endfor %}",
            "does not show a system message",
        ),
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ messages[0].content[0].text }}",
            "refuses a system message .*no system",
        ),
    ],
    ids=["left out", "refused"],
)
def test_a_template_without_a_system_prompt_says_so(policy, template, words):
    with pytest.raises(UserError, match=rf"system_prompt: .*{words}.*put its text into format_prompt"):
        encoder_with(policy, template, "You look.").template(Question("How many?"))
    assert encoder_with(policy, template, "").template(Question("How many?")) == "How many?"


THINKING = (
    "{% for m in messages %}{% generation %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endgeneration %}{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% else %}<think>\n{% endif %}"
)


def test_variables_reach_the_chat_template(policy):
    def encoder(**given):
        settings = PromptSettings("", "", 512, 784, 3136, chat_template_kwargs=given)
        processor = copy(policy.processor)
        processor.chat_template = THINKING
        return PromptEncoder(processor, settings)

    assert encoder().opening == "<think>\n"
    assert encoder(enable_thinking=True).template(Question("Why?")) == "Why?<think>\n"
    assert encoder(enable_thinking=False).template(Question("Why?")) == "Why?<think></think>"
    assert encoder(enable_thinking=False).opening == ""
    with pytest.raises(UserError, match=r"chat_template_kwargs\.enable_thinkin: .* did you mean enable_thinking\?"):
        encoder(enable_thinkin=False).template(Question("Why?"))
    for reserved in ("messages", "add_generation_prompt", "tokenize"):
        with pytest.raises(UserError, match=rf"chat_template_kwargs\.{reserved}: .*no such variable"):
            encoder(**{reserved: False}).template(Question("Why?"))


MARKS = {
    "gemma 4": ("<|channel>", "thought\n", "<channel|>"),
    "magistral": ("[THINK]", "", "[/THINK]"),
    "kimi": ("◁think▷", "", "◁/think▷"),
}


@pytest.mark.parametrize(("begin", "word", "end"), MARKS.values(), ids=MARKS.keys())
def test_a_thought_in_a_model_s_own_marks_reads_as_one(begin, word, end):
    """Sampled, opened by the template, and taught; other special tokens stay hidden."""
    tokenizer = build_tokenizer(("How many? thought I look. 3 </think><answer>",), 300)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [begin, end, "<turn>"]}, replace_extra_special_tokens=False
    )
    tokenizer.chat_template = "{{ messages[0].content }}<turn>"
    encoder = PromptEncoder(tokenizer, PromptSettings())
    said = f"{begin}{word}I look.{end}<answer>3</answer>"
    ids = tokenizer(said + "<turn>", add_special_tokens=False)["input_ids"]
    assert encoder.decode(ids) == "<think>I look.</think><answer>3</answer>"
    assert encoder.in_own_marks("<think>I look.</think><answer>3</answer>") == said
    assert encoder.opening == ""
    tokenizer.chat_template += f"{{{{ {begin + word!r} }}}}"  # a text's own line end would be cut off
    assert PromptEncoder(tokenizer, PromptSettings()).opening == "<think>"
    tokenizer.chat_template += end  # no thought is wanted: it is closed already
    assert PromptEncoder(tokenizer, PromptSettings()).opening == ""


def test_texts_of_models_without_such_marks_are_left_alone(policy):
    text = "[THINK]I look.[/THINK] <think>so</think>"
    ids = policy.encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert policy.encoder.decode(ids) == policy.encoder.in_own_marks(text) == text


@pytest.mark.parametrize(
    ("build", "tokens"),
    [(qwen2_vl, 6), (llava, 4), (gemma3, 4 + 6), (internvl, 3 * 4 + 2), (mistral3, 2 * 3 + 2)],
    ids=["qwen2_vl", "llava", "gemma3", "internvl", "mistral3"],
)
def test_tokens_of_a_picture_are_counted(build, tokens):
    """42 x 28 pixels: with the marks of rows and of the picture, where a family has them."""
    encoder = PromptEncoder(build()[1], PromptSettings(min_pixels=784, max_pixels=3136))
    for shown in ((), (picture(28, 42),), (picture(28, 42), picture(28, 42, 1))):
        question = Question("How many?", shown)
        assert encoder.picture_tokens(question, *encoder.encode([question])) == tokens * len(shown)
