from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.data.rows import other_wordings, read_shared_wordings, with_choices
from sharegrpo_rl.errors import UserError


@given(st.text(max_size=3), st.lists(st.text(max_size=3)), st.lists(st.text(max_size=3)))
def test_wordings_differ(question: str, one: list[str], other: list[str]) -> None:
    plain = [" ".join(wording.split()) for wording in (question, *other_wordings(question, one, other))]
    assert len(set(plain)) == len(plain)
    assert set(plain) == {" ".join(wording.split()) for wording in (question, *one, *other)}


@given(st.lists(st.text(alphabet="ab ?.()", min_size=1), min_size=1, max_size=26))
def test_listing_choices_twice_changes_nothing(choices: list[str]) -> None:
    once = with_choices("Which?", choices)
    assert with_choices(once, choices) == once


def test_the_first_folder_with_a_file_counts(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    assert read_shared_wordings([tmp_path, tmp_path / "inner"]) == {}
    (tmp_path / "inner/question_variants.json").write_text('{"sum": ["Add them.", "What is the sum?"]}')
    assert read_shared_wordings([tmp_path, tmp_path / "inner"]) == {"sum": ("Add them.", "What is the sum?")}


@pytest.mark.parametrize("text", ["[", "[]", '{"sum": "[1]"}', '{"sum": [[]]}', "\udcff"])
def test_a_wrong_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "question_variants.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"question_variants\.json"):
        read_shared_wordings([tmp_path])
