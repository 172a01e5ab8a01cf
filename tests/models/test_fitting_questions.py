"""Which questions are too long to be asked: found from sizes where the processor tells, from pixels elsewhere."""

import io

import numpy as np
import pytest
from families_with_windows import glm4v
from PIL import Image
from small_families import llava, qwen2_vl, text_only

from sharegrpo_rl.data.images import EncodedImage
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models.prompts import PromptEncoder, PromptSettings, Question
from sharegrpo_rl.rollouts import groups
from sharegrpo_rl.rollouts.groups import fitting_questions


class Bank(list):
    name, split = "mine", "train"


def questions(pictures=True):
    rng = np.random.default_rng(0)
    bank = Bank()
    for number in range(40):
        text = "how many " * int(rng.integers(1, 30))
        sizes = rng.integers(20, 90, (int(rng.integers(0, 3)) if pictures else 0, 2))
        images = tuple(EncodedImage(png(width, height), f"{number}") for width, height in sizes)
        bank.append(SeedQuestion(str(number), text, "3", images, variants=(text + "in all",)))
    return bank


def png(width, height):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("build", [qwen2_vl, glm4v, llava])
@pytest.mark.parametrize("limits", [{}, {"max_pixels": 1600}])
@pytest.mark.parametrize("transformed", [False, True])
def test_those_that_fit_are_kept(build, limits, transformed, monkeypatch):
    monkeypatch.setattr(groups, "CHUNK", 7)
    encoder = PromptEncoder(build()[1], PromptSettings(max_prompt_tokens=150, **limits))
    bank = questions()
    sentence = max((t.sentence for t in groups.TRANSFORMS.values()), key=len) if transformed else ""

    def tokens(question):
        text = f"{question.wordings[1]} {sentence}".strip()
        return len(encoder.token_ids(Question(text, tuple(np.asarray(i.open()) for i in question.images))))

    expected = [i for i, question in enumerate(bank) if tokens(question) <= 150]
    assert 0 < len(expected) < 40
    assert fitting_questions(bank, encoder, transformed) == expected
    assert fitting_questions(bank, encoder, transformed, limit=3) == expected[:3]


def test_what_to_change_where_none_fits():
    bank, short = questions(), PromptSettings(max_prompt_tokens=5)
    own = r"all 40 questions are over-long \(the first is 0\); raise max_prompt_tokens = 5, or set max_pixels below .* 3136"
    with pytest.raises(UserError, match=own):
        fitting_questions(bank, PromptEncoder(qwen2_vl()[1], short))
    with pytest.raises(UserError, match=r"raise max_prompt_tokens = 5, or set max_pixels$"):
        fitting_questions(bank, PromptEncoder(llava()[1], short))
    with pytest.raises(UserError, match=r"raise max_prompt_tokens = 5$"):
        fitting_questions(questions(pictures=False), PromptEncoder(text_only("llama")[1], short))
