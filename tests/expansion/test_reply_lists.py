"""The JSON list in a reply, in every dress that models give it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.expansion.prompts import NoList, text_list, text_lists

TWO = ["How many dots?", "Count the dots."]


@pytest.mark.parametrize(
    "reply",
    [
        json.dumps(TWO),
        f"```json\n{json.dumps(TWO)}\n```",
        f"```\n{json.dumps(TWO, indent=1)}\n```",
        f"Here you are:\n{json.dumps(TWO)}\nI hope that helps [really].",
        f'<think>Maybe [1, 2]? Or ["no"]</think>{json.dumps(TWO)}',
        f"Keep [IMAGE] in mind. {json.dumps(TWO)}",
        json.dumps({"variants": TWO}),
        json.dumps({"count": 2, "questions": TWO}),
        json.dumps({"1": TWO[0], "2": TWO[1]}),
        json.dumps([{"question": text} for text in TWO]),
    ],
)
def test_texts_are_found(reply: str) -> None:
    assert text_list(reply) == TWO


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "no",
        "[]",
        "[1, 2]",
        '["How many dots?", "Count',
        '{"a": 1}',
        "[[[[",
        "{" * 5000,
        "[" * 5000,
        '["a", null]',
        "null",
    ],
)
def test_other_replies_are_refused(reply: str) -> None:
    with pytest.raises(NoList):
        text_list(reply)


def test_latex_that_json_would_misread_is_kept() -> None:
    meant = r"Compute \frac{1}{2} + \beta \neq \(x\) for \theta."
    assert text_list(f'["{meant}"]') == [meant]
    assert text_list(json.dumps([meant])) == [meant]
    assert text_list(r'["Two lines\nThe second \"one\""]') == ['Two lines\nThe second "one"']


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\\"), min_size=1), min_size=1)
)
def test_what_was_written_is_read(texts: list[str]) -> None:
    assert text_list(f"Certainly!\n```json\n{json.dumps(texts)}\n```") == texts


@given(st.text())
def test_any_reply_is_a_list_or_refused(reply: str) -> None:
    for read in (text_list, text_lists):
        try:
            assert all(read(reply))
        except NoList:
            continue


def test_lists_of_lists() -> None:
    assert text_lists('```json\n[["x = 5", "5 = x"], "right angle", [3]]\n```') == [
        ["x = 5", "5 = x"],
        ["right angle"],
        ["3"],
    ]
    assert text_lists('{"key_steps": [["a"], ["b"]]}') == [["a"], ["b"]]
    for reply in ("[[]]", "[[null]]", "[]", "x", '[["a"], {"b": 1}]'):
        with pytest.raises(NoList):
            text_lists(reply)
