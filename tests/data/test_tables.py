import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sharegrpo_rl.data.tables import ChainedTable, JsonlTable, ParquetTable, open_table
from sharegrpo_rl.errors import UserError

ROWS = st.lists(st.dictionaries(st.text(max_size=4), st.text(max_size=6) | st.integers() | st.none(), max_size=3))
REUSED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@REUSED
@given(ROWS, st.sampled_from(["\n", "\r\n", "\n\n", "\r\n\r\n"]), st.booleans(), st.booleans())
def test_jsonl_gives_every_row(tmp_path: Path, rows: list[dict], end: str, closed: bool, escaped: bool) -> None:
    lines = [json.dumps(row, ensure_ascii=escaped) for row in rows]
    text = end.join(lines) + (end if closed else "")
    (tmp_path / "a.jsonl").write_bytes(text.encode("utf-8", "surrogatepass"))
    table = JsonlTable(tmp_path / "a.jsonl")
    assert [table[index] for index in range(len(table))] == rows
    step = 1 + (len(end) > 2 or end == "\n\n")
    assert [table.location(index).rsplit(" ", 1)[1] for index in range(len(table))] == [
        str(1 + step * index) for index in range(len(rows))
    ]


@pytest.mark.parametrize("text", ['{"id": "r2", "image"', "[1, 2]", "x", "[" * 100_000, '"\udcff"'])
def test_a_bad_line_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"id": 0}\n{"id": 1}\n' + text.encode("utf-8", "surrogateescape") + b"\n{}\n")
    table = JsonlTable(tmp_path / "a.jsonl")
    assert len(table) == 4
    with pytest.raises(UserError, match=r"a\.jsonl line 3"):
        table[2]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"id": 0}\n')
    assert JsonlTable(tmp_path / "a.jsonl")[0] == {"id": 0}


def test_a_file_without_rows_is_an_empty_table(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\n\n")
    assert len(JsonlTable(tmp_path / "a.jsonl")) == 0


def write_parquet(path: Path, rows: int, picture: bytes) -> list[dict]:
    values = [
        {"id": i, "names": [str(i), "b"], "image": {"bytes": picture, "path": f"{i}.png"}, "missing": None}
        for i in range(rows)
    ]
    pq.write_table(pa.Table.from_pylist(values), path, row_group_size=50)
    return values


def test_parquet_gives_every_row_in_any_order(tmp_path: Path, picture: bytes) -> None:
    values = write_parquet(tmp_path / "a.parquet", 333, picture)
    table = ParquetTable(tmp_path / "a.parquet")
    assert len(table) == 333
    order = sorted(range(333), key=lambda i: i * 7919 % 333)
    assert [table[i] for i in order] == [values[i] for i in order]
    assert table.location(7).endswith("a.parquet row 7")


def test_parquet_is_converted_again_after_a_change(tmp_path: Path, own_cache: Path, picture: bytes) -> None:
    write_parquet(tmp_path / "a.parquet", 5, picture)
    assert len(ParquetTable(tmp_path / "a.parquet")) == 5
    assert len(ParquetTable(tmp_path / "a.parquet")) == 5
    assert len(list((own_cache / "arrow").iterdir())) == 1
    write_parquet(tmp_path / "a.parquet", 6, picture)
    assert len(ParquetTable(tmp_path / "a.parquet")) == 6


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:100], lambda data: data[:4] + b"\0" * 99 + data[103:]]
)
def test_a_broken_parquet_file_is_named(tmp_path: Path, own_cache: Path, picture: bytes, damage) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, 100, picture)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"a\.parquet"):
        ParquetTable(path)
    assert not [file for file in own_cache.rglob("*") if file.is_file()]


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: bytes
) -> None:
    write_parquet(tmp_path / "a.parquet", 3, picture)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="XDG_CACHE_HOME"):
        ParquetTable(tmp_path / "a.parquet")


def test_conversion_needs_the_memory_of_one_row_group(tmp_path: Path) -> None:
    """60 MB in 30 groups; in a process of its own, since Arrow counts the most that a process ever held."""
    code = """
import sys, pyarrow as pa, pyarrow.parquet as pq
from pathlib import Path
from sharegrpo_rl.data.tables import ParquetTable
column = pa.array([bytes([i % 251]) * 100_000 for i in range(20)])
path, schema = Path(sys.argv[1]), pa.schema({"data": pa.binary()})
with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
    for _ in range(30):
        writer.write_table(pa.table({"data": column}))
before = pa.default_memory_pool().max_memory()
table = ParquetTable(path)
assert len(table) == 600 and len(table[599]["data"]) == 100_000
print(pa.default_memory_pool().max_memory() - before)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.parquet")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 15_000_000


def test_tables_travel_by_pickle(tmp_path: Path, picture: bytes) -> None:
    write_parquet(tmp_path / "a.parquet", 100, picture)
    (tmp_path / "a.jsonl").write_text('{"id": "x"}\n\n{"id": "y"}\n')
    chained = ChainedTable([ParquetTable(tmp_path / "a.parquet"), JsonlTable(tmp_path / "a.jsonl")])
    assert chained[101] == {"id": "y"}
    data = pickle.dumps(chained)
    assert len(data) < 2000
    again = pickle.loads(data)
    assert (len(again), again[101], again[99]) == (102, chained[101], chained[99])
    assert again.location(101).endswith("a.jsonl line 3")
    assert again.folder(0) == tmp_path


@pytest.mark.parametrize("suffix", ["jsonl", "tsv"])
@pytest.mark.parametrize("how", ["cut short", "other rows", "replaced"])
def test_a_file_written_anew_while_it_is_read_is_an_error(tmp_path: Path, suffix: str, how: str) -> None:
    """Reading the mapped pages of a file that became shorter would end the process without a word."""
    path = tmp_path / f"train.{suffix}"
    lines = [f'{{"id": "{i:04}"}}' if suffix == "jsonl" else f"id{i:04}" for i in range(4000)]
    path.write_text("\n".join(lines))
    table = open_table(path)
    copy = pickle.loads(pickle.dumps(table))
    assert table[0] != table[3000] == copy[3000]
    if how == "replaced":
        path.rename(tmp_path / "old")
    path.write_text("\n".join(lines[:10] if how == "cut short" else reversed(lines)))
    os.utime(path, ns=(0, 1))  # whatever the clock's grain is
    for opened in (table, copy):
        with pytest.raises(UserError, match=rf"train\.{suffix}: was written anew"):
            opened[3000]


def test_another_process_finds_a_file_of_another_length(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"id": 1}\n' * 100)
    state = pickle.dumps(open_table(path))
    path.write_text('{"id": 1}\n')
    with pytest.raises(UserError, match="was written anew"):
        pickle.loads(state)[50]


def test_a_removed_file_can_be_read_on(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"id": 1}\n{"id": 2}\n')
    table = open_table(path)
    path.unlink()
    assert table[1] == {"id": 2}
