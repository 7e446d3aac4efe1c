"""From a job's source to the table that a build reads: missing embeddings made, the writes of the delta folded in.

A source that needs neither is built from as it is. Otherwise WORK/prepared-<digest> appears whole, and stays until the
next inputs, so that a killed run need not make it again. Knows nothing about indexes or stores.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from index_builders import tables
from index_builders.rebuild.job_file import JobSettings
from index_builders.source import SPACE_KEY
from index_builders.staging import fsync, temporary_name, writing
from retrieval.delta import Folded
from retrieval.delta.columns import fitting
from retrieval.errors import InvalidData, SpaceMismatch
from retrieval.types import Bool

_ROWS = 8_192
_PREFIX = "prepared-"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """source: what to build from; embedded: rows that the tower had to read; left_out: rows it could not read.

    unfit: attributes of the delta that have a value which the source's columns cannot hold.
    """

    source: Path
    embedding_column: str
    embedded: int = 0
    left_out: int = 0
    unfit: tuple[str, ...] = ()


def prepare(
    job: JobSettings,
    source: Path,
    work: Path,
    *,
    inputs: str,
    space_id: str,
    foreign: bool,
    folded: Folded | None,
    progress: Progress | None = None,
) -> Prepared:
    """The table to build from.

    inputs: digest of all this depends on; foreign: the source's embeddings are of another space, so all are made anew.
    Raises InvalidData for rows that cannot be used, SpaceMismatch for writes of another space, StoreError for the disk.
    """
    files = tables.list_tables(source)
    column = job.embedding_column
    has = column in tables.read_schema(files[0]).names and not foreign
    embed = job.checkpoint is not None and (not has or _nulls(files, column))
    if not has and not embed:
        raise InvalidData(f"{job.source} has no column {column!r} of embeddings: name it, or a checkpoint to make them")
    if not embed and folded is None:
        return Prepared(source=source, embedding_column=column)
    out = work / f"{_PREFIX}{inputs[:16]}"
    making = temporary_name(out)
    with writing(work):
        for old in work.glob(f"{_PREFIX}*"):
            if old != out:
                shutil.rmtree(old)
    if out.is_dir():
        return Prepared(source=out, embedding_column=column)
    with writing(making):
        making.mkdir(parents=True)
        made = _write(job, files, making, work, space_id, has, embed, folded, progress)
        for path in making.iterdir():
            fsync(path)
        fsync(making)
        os.rename(making, out)
        fsync(work)
    return replace(made, source=out)


def _write(
    job: JobSettings,
    files: list[Path],
    out: Path,
    work: Path,
    space_id: str,
    has: bool,
    embed: bool,
    folded: Folded | None,
    progress: Progress | None,
) -> Prepared:
    fill = _Filler(job, work, has) if embed else None
    total = sum(tables.count_rows(file) for file in files)
    if fill is not None:
        done = 0
        for table in source_tables(files):
            fill.note(table)
            done += table.num_rows
            if progress is not None:
                progress("embed", done, total)
        fill.finish()
    gone = None
    if folded is not None:
        ids = [*folded.ids, *folded.deleted]
        gone = pa.array(ids, tables_id(files[0], job.id_column)) if ids else None
    writer: pq.ParquetWriter | None = None
    schema: pa.Schema | None = None
    unfit: list[str] = []
    try:
        for table in source_tables(files):
            if gone is not None:
                table = table.filter(pc.invert(pc.is_in(table.column(job.id_column), value_set=gone)))
            if fill is not None:
                table = fill.filled(table)
            if writer is None:
                schema = table.schema.with_metadata({SPACE_KEY: space_id.encode()})
                writer = pq.ParquetWriter(str(out / "rows.parquet"), schema, compression="none", use_dictionary=False)
            writer.write_table(table.replace_schema_metadata(schema.metadata if schema else None))
        if folded is not None and folded.ids and writer is not None and schema is not None:
            upserts, unfit = _upserts(folded, schema, job, space_id)
            writer.write_table(upserts)
    finally:
        if writer is not None:
            writer.close()
    return Prepared(
        source=out,
        embedding_column=job.embedding_column,
        embedded=0 if fill is None else fill.embedded,
        left_out=0 if fill is None else fill.left_out,
        unfit=tuple(unfit),
    )


def tables_id(file: Path, column: str) -> pa.DataType:
    """The plain type of the id column of a file."""
    kind = tables.read_schema(file).field(column).type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


class _Filler:
    """Puts embeddings where there are none; two passes, so that the tower always works on full parts."""

    def __init__(self, job: JobSettings, work: Path, has: bool) -> None:
        # torch takes seconds to load, which a job that embeds nothing does not have to wait for
        from index_builders.rebuild.embeddings import EmbeddingTable, contents
        from retrieval.towers.entity import EntityTower

        assert job.checkpoint is not None
        self._tower = EntityTower.load(job.checkpoint, threads=job.threads, precision=job.precision)
        self._table = EmbeddingTable(work / "embeddings", self._tower, part_rows=job.part_rows)
        self._contents, self._column, self._has, self._id = contents, job.embedding_column, has, job.id_column
        self.left_out = 0

    @property
    def embedded(self) -> int:
        return self._table.embedded

    def note(self, table: pa.Table) -> None:
        rows = table.filter(pa.array(self._wanting(table)))
        rows = rows.filter(pa.array(self._tower.present(rows))) if rows.num_rows else rows
        self._table.add(rows, self._contents(rows, self._tower.columns))

    def finish(self) -> None:
        self._table.flush()

    def filled(self, table: pa.Table) -> pa.Table:
        wanting = self._wanting(table)
        present = np.ones(table.num_rows, dtype=bool)
        if wanting.any():
            present[wanting] = self._tower.present(table.filter(pa.array(wanting)))
        self.left_out += int((~present).sum())
        table, wanting = table.filter(pa.array(present)), wanting[present]
        x = np.empty((table.num_rows, self._tower.d), dtype=np.float32)
        x[wanting] = self._table.take(self._contents(table.filter(pa.array(wanting)), self._tower.columns))
        if not wanting.all():
            had = table.filter(pa.array(~wanting)).column(self._column).combine_chunks()
            values = np.asarray(had.flatten().to_numpy(zero_copy_only=False), dtype=np.float32)
            if values.size != (~wanting).sum() * self._tower.d:
                raise InvalidData(
                    f"column {self._column!r} holds other dimensions than the {self._tower.d} of the checkpoint"
                )
            x[~wanting] = values.reshape(-1, self._tower.d)
        if self._column in table.column_names:
            table = table.drop_columns([self._column])
        return table.append_column(
            self._column, pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), self._tower.d)
        )

    def _wanting(self, table: pa.Table) -> Bool:
        if not self._has:
            return np.ones(table.num_rows, dtype=bool)
        return np.asarray(table.column(self._column).is_null().to_numpy(zero_copy_only=False), dtype=bool)


def source_tables(files: list[Path]) -> Iterator[pa.Table]:
    """The rows of a source, in order, some thousands at a time, with plain columns."""
    for file in files:
        for batch in tables.read_batches(file, None, _ROWS):
            yield pa.table([tables.plain(column) for column in batch.columns], names=batch.schema.names)


def _nulls(files: list[Path], column: str) -> bool:
    return any(batch.column(0).null_count for file in files for batch in tables.read_batches(file, [column], 65_536))


def _upserts(folded: Folded, schema: pa.Schema, job: JobSettings, space_id: str) -> tuple[pa.Table, list[str]]:
    """Rows of the entities that were written, and which of their attributes have values that do not fit the schema."""
    header = folded.header
    if header is not None and header.space_id != space_id:
        raise SpaceMismatch(
            f"the delta holds entities of space {header.space_id}, the rebuild makes {space_id}: upsert them again, or "
            "leave the delta out with delta = false"
        )
    attributes = pa.schema([each for each in schema if each.name not in {job.id_column, job.embedding_column}])
    table = fitting(folded.attributes, attributes)
    given = Counter(name for row in folded.attributes for name, value in row.items() if value is not None)
    fit = {name: table.num_rows - table.column(name).null_count for name in table.column_names}
    unfit = sorted(name for name, count in given.items() if fit.get(name, 0) < count)
    listed = pa.FixedSizeListArray.from_arrays(pa.array(folded.vectors.reshape(-1)), folded.vectors.shape[1])
    columns = {
        **dict(zip(table.column_names, table.columns, strict=True)),
        job.id_column: pa.array(folded.ids, schema.field(job.id_column).type),
        job.embedding_column: listed.cast(schema.field(job.embedding_column).type),
    }
    return pa.table([columns[name] for name in schema.names], schema=schema), unfit
