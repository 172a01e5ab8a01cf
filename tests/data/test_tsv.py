"""TSV tables: cells as pandas writes them, broken files, rows found by their first cell."""

import csv
import io
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.data import tables as tsv
from sharegrpo_rl.data.tables import TsvTable, open_table
from sharegrpo_rl.errors import UserError

CELL = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=8)


def write(path, rows, quoting=csv.QUOTE_MINIMAL):
    text = io.StringIO()
    csv.writer(text, delimiter="\t", quoting=quoting, lineterminator="\n").writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    return path


@given(st.lists(st.tuples(CELL, CELL), max_size=6), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
def test_what_csv_writes_is_read_back(tmp_path_factory, rows, quoting):
    path = write(tmp_path_factory.mktemp("t") / "a.tsv", [("index", "text"), *rows], quoting)
    table = TsvTable(path)
    wanted = [{"index": a or None, "text": b or None} for a, b in rows if (a, b) != ("", "") or quoting]
    assert [row for row in (table[i] for i in range(len(table))) if any(row.values())] == [
        row for row in wanted if any(row.values())
    ]


def test_line_breaks_across_chunks_and_windows_line_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(tsv, "_CHUNK", 7)
    path = tmp_path / "a.tsv"
    path.write_bytes('﻿index\ttext\r\n0\t"two\nlines ""quoted"" here"\r\n\r\n1\tplain\r\n'.encode())
    table = TsvTable(path)
    assert table.columns == ["index", "text"]
    assert [table[i]["text"] for i in range(len(table))] == ['two\nlines "quoted" here', "plain"]
    assert table.location(1) == f"{path} row 1"
    assert pickle.loads(pickle.dumps(table))[1] == table[1]


def test_rows_are_found_by_their_first_cell(tmp_path):
    table = TsvTable(write(tmp_path / "a.tsv", [("index", "x"), ("7", "a"), ("9", "b")], csv.QUOTE_ALL))
    assert (table.find("9"), table.find("8")) == (1, None)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"a\ta\n1\t2\n", "repeated column"),
        (b"a\tb\n1\n", "row 0: 1 cells, 2 columns"),
        (b'a\tb\n1\t"2\n3\t4\n', "a quote is left open"),
        (b"a\tb\n1\t\xff\n", "row 0: not UTF-8"),
    ],
)
def test_broken_files_are_named(tmp_path, content, words):
    path = tmp_path / "a.tsv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        TsvTable(path)[0]


def test_a_row_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tsv, "MAX_ROW_BYTES", 50)
    path = write(tmp_path / "a.tsv", [("index", "x"), ("0", "y" * 60)])
    with pytest.raises(UserError, match="row 0: larger than"):
        TsvTable(path)[0]


QUOTED = st.text(st.sampled_from('ab"\t\n é'), max_size=30)


@given(QUOTED)
def test_quotes_are_read_as_python_and_pandas_read_them(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("t") / "a.tsv"
    path.write_text(f"index\ttext\n{text}\n", encoding="utf-8", newline="")
    wanted = [row for row in csv.reader(io.StringIO(text + "\n", newline=""), delimiter="\t") if row]
    try:
        table = TsvTable(path)
    except UserError as error:
        assert "a quote is left open" in str(error)  # noqa: PT017
        return
    lines = [row for row in wanted if row != [""]]
    got = [table._cells(record, "row") for record in range(1, len(table) + 1)]
    assert [row for row in got if row != [""]] == lines


def test_an_inch_sign_is_a_character(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('index\ttext\tA\n0\tIs it 5" wide?\t6"\n1\tIs it 7" wide?\t"8"" or\t9"""\n2\t"a"b\tc\n')
    table = TsvTable(path)
    assert [table[i]["text"] for i in range(len(table))] == ['Is it 5" wide?', 'Is it 7" wide?', "ab"]
    assert [table[i]["A"] for i in range(len(table))] == ['6"', '8" or\t9"', "c"]
    pandas = pytest.importorskip("pandas")
    assert pandas.read_csv(path, sep="\t").astype(str).to_dict("records") == [table[i] for i in range(len(table))]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.tsv", "a.jsonl"])
def test_other_unicode_encodings_are_named(tmp_path, encoding, name):
    path = tmp_path / name
    path.write_text('{"index": 1}\n{"index": 2}\n', encoding=encoding)
    with pytest.raises(UserError, match=rf"{name} is UTF-(16|32) text, .*iconv -f UTF-(16|32) -t UTF-8"):
        open_table(path)


@pytest.mark.parametrize(("name", "where"), [("a.tsv", "row 0"), ("a.jsonl", "line 2")])
def test_latin_1_is_named(tmp_path, name, where):
    path = tmp_path / name
    path.write_text('{"question": "x"}\n{"question": "déjà"}\n', encoding="latin-1")
    table = open_table(path)
    with pytest.raises(UserError, match=rf"{name} {where}: not UTF-8 \(byte 0xe9, as Latin-1 .*iconv -f WINDOWS-1252"):
        table[len(table) - 1]
