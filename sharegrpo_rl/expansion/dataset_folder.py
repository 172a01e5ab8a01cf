"""The new data set: the files of the source with two columns more, images beside them as they were."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sharegrpo_rl.data.images import ImageFile
from sharegrpo_rl.data.tables import HubTable, ParquetTable
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.expansion.endpoint import one_line
from sharegrpo_rl.expansion.source import Source, SourceFile

# ---- The folder that the new data set appears in, in one step and whole; and what was recorded there before.

NOTES = "expansion"  # the folder inside the data set for what is no question; the loader passes over it
PROVENANCE, REJECTED = "provenance.json", "rejected.jsonl"


def journal_path(out: Path) -> Path:
    """Beside the data set, so that it outlives a run that was killed before there was one."""
    return out.with_name(f"{out.name}.journal.jsonl")


def check_out(out: Path, settings: dict[str, Any]) -> None:
    """UserError where `out` holds something that this command, with these settings, did not write."""
    if not out.name:
        raise UserError(f"--out {out}: name a folder to write")
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a folder")
    if not any(out.iterdir()):
        return
    recorded = _recorded(out)
    if recorded is None:
        raise UserError(f"--out {out}: is not empty and no expanded data set; name another folder")
    different = [key for key in {**settings, **recorded} if settings.get(key) != recorded.get(key)]
    if different:
        key = different[0]
        raise UserError(
            f"--out {out}: was made with {key} {recorded.get(key)!r}, now it is {settings.get(key)!r}; "
            "name another folder, or remove this one (the journal keeps its replies)"
        )


def _recorded(out: Path) -> dict[str, Any] | None:
    try:
        recorded = json.loads((out / NOTES / PROVENANCE).read_bytes())["settings"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return recorded if isinstance(recorded, dict) else None


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `out` at the end; nothing is left of it where that fails."""
    partial, old = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.old")
    try:
        for leftover in (partial, old):
            if leftover.exists():
                shutil.rmtree(leftover)
        partial.mkdir(parents=True)
        yield partial
        if out.exists():
            out.rename(old)
        partial.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"--out {out}: cannot be written ({one_line(error.strerror or error)}); free space or name another folder"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


VARIANTS, KEY_STEPS = "variants", "key_steps"
Added = Mapping[str, Any]  # column -> value, of one row
_BATCH_ROWS = 256
_TYPES = {VARIANTS: pa.list_(pa.string()), KEY_STEPS: pa.list_(pa.list_(pa.string()))}


def write_files(source: Source, added: Mapping[Path, Sequence[Added]], folder: Path) -> None:
    """Write each file of the source to `folder`, with what was `added` to its rows, and copy the images it names."""
    for file in source.files:
        target = folder / file.target
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.on_disk and file.target not in added:
            shutil.copyfile(source.root / file.target, target)
        elif target.suffix == ".jsonl":
            _write_jsonl(file, added[file.target], target)
        else:
            _write_parquet(file, added.get(file.target, [{}] * file.rows), target)
        if file.on_disk:
            _copy_images(source, file, folder)
    if source.shared is not None:
        place = folder / source.shared.absolute().relative_to(source.root)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(source.shared.read_bytes())


def _write_jsonl(file: SourceFile, columns: Sequence[Added], target: Path) -> None:
    with target.open("wb") as out:
        for number, new in enumerate(columns):
            out.write(_encoded({**file.table[number], **new}) + b"\n")


def _encoded(row: dict[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a character in some other column: kept as the escape that it was
        return json.dumps(row).encode()


def _write_parquet(file: SourceFile, columns: Sequence[Added], target: Path) -> None:
    names = list(dict.fromkeys(name for new in columns for name in new))
    writer: pq.ParquetWriter | None = None
    done = 0
    try:
        for table in _tables(file):
            part = table.slice(0, len(columns) - done)
            part = _with_columns(part, names, columns[done : done + len(part)])
            if writer is None:
                writer = pq.ParquetWriter(target, part.schema, compression="zstd")
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


def _with_columns(table: pa.Table, names: Sequence[str], columns: Sequence[Added]) -> pa.Table:
    description = table.schema.metadata  # what `datasets` knows of the other columns; it tells the new ones by type
    for name in names:
        values = pa.array([new[name] for new in columns], _TYPES[name])
        field = pa.field(name, _TYPES[name])
        at = table.schema.get_field_index(name)
        table = table.append_column(field, values) if at < 0 else table.set_column(at, field, values)
    return table.replace_schema_metadata(description)


def _copy_images(source: Source, file: SourceFile, folder: Path) -> None:
    """Image files keep their place within the data set; embedded ones are in the table already."""
    for row in source.read(file):
        for image in row.question.images:
            if not isinstance(image, ImageFile):
                continue
            target = folder / _within(image.path, source.root)
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(image.read())


def _within(path: Path, root: Path) -> Path:
    """The path relative to the root, `..` worked out without following links."""
    parts: list[str] = []
    for part in path.absolute().relative_to(root).parts:
        if part == ".." and parts:
            parts.pop()
        else:
            parts.append(part)
    return Path(*parts)
