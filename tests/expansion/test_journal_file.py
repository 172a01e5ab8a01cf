"""The journal: what is in it is never asked again, and a kill costs at most the line that was being written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.expansion.session import Reply, ReplyJournal, Request


def test_replies_come_back_as_they_went_in(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "j.jsonl"
    replies = {"a": Reply("two\nlines \u2028 😀 \ud800 \x00"), "b": Reply("[]", truncated=True)}
    with ReplyJournal.open(path) as journal:
        for key, reply in replies.items():
            journal.add(key, reply)
    with ReplyJournal.open(path) as again:
        assert len(again) == 2
        assert {key: again.get(key) for key in "ab"} == replies
        assert again.get("c") is None


@pytest.mark.parametrize(
    "tail", [b'{"key": "b", "te', b'{"key": "b", "text": "t", "truncated": false}', b"\xff\xfe", b"{"]
)
def test_a_half_written_last_line_is_dropped(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "j.jsonl"
    with ReplyJournal.open(path) as journal:
        journal.add("a", Reply("one"))
    lines = path.read_bytes()
    path.write_bytes(lines + tail)
    with ReplyJournal.open(path) as journal:
        journal.add("b", Reply("two"))
    assert path.read_bytes().startswith(lines)
    with ReplyJournal.open(path) as journal:
        assert (journal.get("a"), journal.get("b"), len(journal)) == (Reply("one"), Reply("two"), 2)


@given(cut=st.integers(0, 400))
def test_cut_anywhere_it_opens_and_keeps_the_whole_lines(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "j.jsonl"
    with ReplyJournal.open(path) as journal:
        for n in range(4):
            journal.add(str(n), Reply("x" * 10 * n))
    data = path.read_bytes()[:cut]
    path.write_bytes(data)
    with ReplyJournal.open(path) as journal:
        assert len(journal) == data.count(b"\n")


@pytest.mark.parametrize(
    "line", ["{}", "[]", "nonsense", '{"key": "a"}', '{"key": ["a"], "text": "", "truncated": false}']
)
def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text(f'{{"key": "a", "text": "t", "truncated": false}}\n{line}\n')
    with pytest.raises(UserError, match=r"j\.jsonl line 2: damaged; delete that line"), ReplyJournal.open(path):
        pass
    assert path.exists()


def test_two_runs_cannot_share_one(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with ReplyJournal.open(path), pytest.raises(UserError, match="in use by another"), ReplyJournal.open(path):
        pass
    assert not path.exists()  # nothing was asked
    with ReplyJournal.open(path):
        pass


def test_where_nothing_can_be_written_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), ReplyJournal.open(tmp_path / "file" / "j.jsonl"):
        pass


def test_keys_differ_with_everything_that_decides_a_reply() -> None:
    base = {"prompt": "p", "temperature": 1.0, "max_tokens": 9, "seed": 0}
    keys = {Request(**base).key("m"), Request(**base).key("n")}
    for change in ({"prompt": "q"}, {"temperature": 0.0}, {"max_tokens": 8}, {"seed": 1}):
        keys.add(Request(**{**base, **change}).key("m"))
    assert len(keys) == 6
    assert Request(**base).key("m") == Request(**base).key("m")
