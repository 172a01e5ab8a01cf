"""The new data set: the files of the source with two more columns, and the images; it appears complete, in one step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sharegrpo_rl.data.images import ImageFile
from sharegrpo_rl.data.tables import HubTable, ParquetTable
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.expansion.source import Source, SourceFile
from sharegrpo_rl.files import replacing, storage_errors

NOTES = "expansion"  # the folder inside the data set for what is not a question; the loader skips it
PROVENANCE, REJECTED = "provenance.json", "rejected.jsonl"
VARIANTS, KEY_STEPS = "variants", "key_steps"
NewColumns = Mapping[str, Any]  # column -> value, of one row
_TYPES = {VARIANTS: pa.list_(pa.string()), KEY_STEPS: pa.list_(pa.list_(pa.string()))}
_BATCH_ROWS = 256


def journal_path(out: Path) -> Path:
    """Next to the data set, so that it outlives a run that was killed before there was one."""
    return out.with_name(f"{out.name}.journal.jsonl")


def check_out(out: Path, settings: dict[str, Any]) -> None:
    """UserError where `out` holds something that this command, with these settings, did not write."""
    if not out.name:
        raise UserError(f"--out {out}: name a folder to write")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a folder")
    if not out.exists() or not any(out.iterdir()):
        return
    recorded = None
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        recorded = json.loads((out / NOTES / PROVENANCE).read_bytes())["settings"]
    if not isinstance(recorded, dict):
        raise UserError(f"--out {out}: is not empty and no expanded data set; name another folder")
    for key in {**settings, **recorded}:
        if settings.get(key) != recorded.get(key):
            raise UserError(
                f"--out {out}: was made with {key} {recorded.get(key)!r}, now it is {settings.get(key)!r}; "
                "name another folder, or remove this one (the journal keeps its replies)"
            )


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """An empty folder to fill, which replaces `out` at the end; if that fails, nothing is left of it."""
    with storage_errors(out, "free space or name another folder with --out"), replacing(out) as partial:
        partial.mkdir()
        yield partial


def write_files(source: Source, columns: Mapping[Path, Sequence[NewColumns]], folder: Path) -> None:
    """Write each file of the source to `folder`, with the new columns of its rows, and copy the images it names."""
    for file in source.files:
        target = folder / file.target
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.on_disk and file.target not in columns:
            shutil.copyfile(source.root / file.target, target)
        elif target.suffix == ".jsonl":
            _write_jsonl(file, columns[file.target], target)
        else:
            _write_parquet(file, columns.get(file.target, [{}] * file.rows), target)
        if file.on_disk:
            _copy_images(source, file, folder)
    if source.shared is not None:
        target = folder / source.shared.absolute().relative_to(source.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.shared.read_bytes())


def _write_jsonl(file: SourceFile, columns: Sequence[NewColumns], target: Path) -> None:
    with target.open("wb") as out:
        for number, new in enumerate(columns):
            row = {**file.table[number], **new}
            try:
                line = json.dumps(row, ensure_ascii=False).encode()
            except UnicodeEncodeError:  # half a character in some other column: kept as the escape that it was
                line = json.dumps(row).encode()
            out.write(line + b"\n")


def _write_parquet(file: SourceFile, columns: Sequence[NewColumns], target: Path) -> None:
    names = list(dict.fromkeys(name for new in columns for name in new))
    writer: pq.ParquetWriter | None = None
    done = 0
    try:
        for table in _tables(file):
            part = table.slice(0, len(columns) - done)
            part = _with_columns(part, names, columns[done : done + len(part)])
            writer = writer or pq.ParquetWriter(target, part.schema, compression="zstd")
            writer.write_table(part)
            done += len(part)
            if done == len(columns) and done:
                break
    finally:
        if writer is not None:
            writer.close()


def _tables(file: SourceFile) -> Iterator[pa.Table]:
    """The file's rows in pieces; at least one piece, which may be empty, so that the columns are written."""
    table = file.table
    if isinstance(table, HubTable):
        yield from table.arrow_tables(_BATCH_ROWS)
        return
    assert isinstance(table, ParquetTable)
    reader = pq.ParquetFile(table.path)
    if reader.metadata.num_rows == 0 or not file.rows:
        yield reader.schema_arrow.empty_table()
        return
    for group in range(reader.num_row_groups):  # one after the other: a reader of all groups keeps all in memory
        for batch in reader.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group]):
            yield pa.Table.from_batches([batch], reader.schema_arrow)


def _with_columns(table: pa.Table, names: Sequence[str], columns: Sequence[NewColumns]) -> pa.Table:
    description = (
        table.schema.metadata
    )  # what `datasets` knows of the other columns; it infers the new ones from their types
    for name in names:
        values = pa.array([new[name] for new in columns], _TYPES[name])
        field = pa.field(name, _TYPES[name])
        index = table.schema.get_field_index(name)
        table = table.append_column(field, values) if index < 0 else table.set_column(index, field, values)
    return table.replace_schema_metadata(description)


def _copy_images(source: Source, file: SourceFile, folder: Path) -> None:
    """Image files keep their path within the data set; embedded ones are in the table already."""
    for row in source.read(file):
        for image in row.question.images:
            if isinstance(image, ImageFile):
                target = folder / _relative(image.path, source.root)
                if not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(image.read())


def _relative(path: Path, root: Path) -> Path:
    """The path relative to the root, `..` resolved without following links."""
    parts: list[str] = []
    for part in path.absolute().relative_to(root).parts:
        if part == ".." and parts:
            parts.pop()
        else:
            parts.append(part)
    return Path(*parts)
