"""Texts beside the entities they belong to: a table of entities and folders of texts in, one Parquet table out.

The texts are held in memory, with the entities' ids looked up among them once; the entities stream past. An entity
without texts gets a null. Knows nothing about how texts were made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from index_builders import tables
from index_builders.enrich.log import ENTITY
from index_builders.enrich.parts import PartFolder, stored_plan
from index_builders.staging import fsync, temporary_name, writing
from retrieval.errors import InvalidArgument, InvalidData
from retrieval.types import IdType

Progress = Callable[[str, int, int], None]  # (stage, done, total)
_ROWS = 65_536


class _Texts:
    """The columns of one folder of texts: `columns` in wide types, `kinds` as they are stored, and where each id is."""

    def __init__(self, folder: Path, table: pa.Table, entity_ids: pa.ChunkedArray) -> None:
        self.folder = folder
        self.kinds = {field.name: field.type for field in table.schema if field.name != ENTITY}
        # one chunk makes the look-up by row fast, and the texts of many entities pass what 32-bit offsets can reach
        self.columns = {name: _one_chunk(table.column(name).cast(_wide(kind))) for name, kind in self.kinds.items()}
        self.rows = pc.index_in(entity_ids, value_set=table.column(ENTITY))  # int32 [entities], null where absent

    def of(self, start: int, count: int) -> list[pa.Array]:
        """The columns for entities start .. start + count."""
        rows = self.rows.slice(start, count)
        rows = pa.concat_arrays(rows.chunks) if rows.num_chunks else pa.array([], pa.int32())
        return [column.take(rows).cast(self.kinds[name]) for name, column in self.columns.items()]


def join_texts(entities: Path, texts: list[Path], out: Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """Write `out`: every row and column of `entities` in their order, then the columns of each folder of texts.

    The report has rows, and for each column how many entities have it. InvalidData for texts that are not finished,
    whose ids are of another type, or whose column exists already; InvalidArgument when `out` exists.
    """
    if out.exists():
        raise InvalidArgument(f"{out} exists already: remove it or give another name")
    if not texts:
        raise InvalidArgument("there are no texts to join: give a folder of texts with --texts")
    files = tables.list_tables(entities)
    schema = tables.read_schema(files[0])
    for file in files[1:]:
        if not tables.read_schema(file).equals(schema):
            raise InvalidData(f"{file} has other columns than {files[0]}: join the tables one at a time")
    if schema.names.count(ENTITY) != 1:
        raise InvalidData(f"{entities} has no column {ENTITY!r}; it has: {', '.join(schema.names) or 'none'}")
    kind = tables.id_type(schema.field(ENTITY).type, files[0], ENTITY)
    ids = _entity_ids(files, kind)
    joined: list[_Texts] = []
    whole = schema
    for folder in texts:
        made = _Texts(folder, _read_texts(folder, kind, entities), ids)
        for name, of_type in made.kinds.items():
            if name in whole.names:
                raise InvalidData(
                    f"the column {name!r} of {folder} exists already in {entities} or in other texts: make the texts "
                    "with another --column, or drop the old one"
                )
            whole = whole.append(pa.field(name, of_type))
        joined.append(made)
    rows = len(ids)
    done = 0
    with _replacing(out) as temporary, pq.ParquetWriter(temporary, whole, compression="zstd") as writer:
        for file in files:
            for batch in tables.read_batches(file, schema.names, _ROWS):
                beside = [column for made in joined for column in made.of(done, batch.num_rows)]
                writer.write_batch(pa.RecordBatch.from_arrays([*batch.columns, *beside], schema=whole))
                done += batch.num_rows
                if progress is not None:
                    progress("join", done, rows)
    having = {name: rows - made.rows.null_count for made in joined for name in made.kinds}
    return {"out": str(out), "rows": rows, "with": having}


def _read_texts(folder: Path, kind: IdType, entities: Path) -> pa.Table:
    plan = stored_plan(folder)
    if plan is None:
        raise InvalidData(f"{folder} is no folder of texts: make it with retrieval enrich")
    parts = PartFolder(folder, plan["digest"])
    finished = sum(parts.finished(number) is not None for number in range(plan["partitions"]))
    if finished < plan["partitions"]:
        raise InvalidData(
            f"{folder} has {finished} of {plan['partitions']} parts whole: run the enrichment that made it again"
        )
    if plan["id_type"] != kind:
        raise InvalidData(
            f"the ids of {folder} are {plan['id_type']}, those of {entities} are {kind}: cast one column of ids"
        )
    table = pa.concat_tables(pq.read_table(parts.file(number)) for number in range(plan["partitions"]))
    if len(pc.unique(table.column(ENTITY))) != table.num_rows:
        raise InvalidData(f"{folder} has an id more than once: remove it and run the enrichment that made it again")
    return table


def _entity_ids(files: list[Path], kind: IdType) -> pa.ChunkedArray:
    batches = [
        tables.plain_ids(batch.column(ENTITY), kind, file)
        for file in files
        for batch in tables.read_batches(file, [ENTITY], _ROWS)
    ]
    return pa.chunked_array(batches, pa.string() if kind is IdType.STRING else pa.int64())


def _wide(kind: pa.DataType) -> pa.DataType:
    """The type with 64-bit offsets."""
    if pa.types.is_string(kind):
        return pa.large_string()
    if pa.types.is_list(kind):
        return pa.large_list(_wide(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _wide(field.type)) for field in kind.fields])
    return kind


def _one_chunk(column: pa.ChunkedArray) -> Any:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A temporary name that becomes `out` when all went well and is removed otherwise."""
    temporary = temporary_name(out)
    with writing(out):
        try:
            yield temporary
            fsync(temporary)
            os.replace(temporary, out)
            fsync(out.parent)
        finally:
            temporary.unlink(missing_ok=True)
