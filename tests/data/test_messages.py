import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.data.messages import chat_messages, place_sentence
from sharegrpo_rl.errors import UserError


def parts(text: str, num_images: int, format_prompt: str = "") -> list[str]:
    (message,) = chat_messages(text, num_images, "", format_prompt)
    assert message["role"] == "user"
    return [part.get("text", "[image]") for part in message["content"]]


def test_images_come_first_without_marks() -> None:
    assert parts("How many?", 2, "Be brief.") == ["[image]", "[image]", "How many? Be brief."]


def test_images_stand_at_their_marks() -> None:
    assert parts("Is <image> like <image>?", 2) == ["Is", "[image]", "like", "[image]", "?"]
    assert parts("Compare <image><image>", 2, "Be brief.") == ["Compare", "[image]", "[image]", "Be brief."]


def test_a_text_question_is_text_only() -> None:
    assert parts("1 + 1?", 0) == ["1 + 1?"]


def test_the_system_prompt_comes_first() -> None:
    system, user = chat_messages("How many?", 1, " Think. ", "")
    assert system == {"role": "system", "content": [{"type": "text", "text": "Think."}]}
    assert user["role"] == "user"


@pytest.mark.parametrize("num_images", [0, 1, 3])
def test_marks_without_images_are_refused(num_images: int) -> None:
    with pytest.raises(UserError, match="2 <image> mark"):
        chat_messages("Is <image> like <image>?", num_images, "", "")


@given(st.text(min_size=1), st.sampled_from(["before", "after"]))
def test_the_sentence_stands_once(text: str, position: str) -> None:
    placed = place_sentence(text, "It was turned.", position)
    assert placed in (f"It was turned. {text}", f"{text} It was turned.")
    assert placed.startswith("It was turned.") or position == "after"
    assert place_sentence(text, None, position) == text


def test_an_unknown_position_is_refused() -> None:
    with pytest.raises(UserError, match="before or after"):
        place_sentence("How many?", "It was turned.", "between")
