"""Where a build's rows come from: one batch shape for Parquet, Arrow IPC and .npy, read as a stream.

A batch is ids (Arrow, may hold nulls), vectors float32 [n, d], attributes, and a first verdict per row on what only the
source can see (a null embedding, a wrong length). Nothing larger than a batch is held. Knows nothing about shards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from index_builders import tables
from index_builders.quarantine import NULL_EMBEDDING, WRONG_DIMENSION
from retrieval.errors import InvalidData
from retrieval.params import MAX_DIM, MIN_DIM
from retrieval.types import F32, AnyArray, IdType

_BATCH_BYTES = 1 << 21
SPACE_KEY = b"space_id"  # Parquet and Arrow schema metadata


@dataclass(frozen=True, kw_only=True)
class Batch:
    """n source rows. reasons uint8 [n] of index_builders.quarantine; a row with one has zeros for a vector."""

    ids: pa.Array
    vectors: F32
    reasons: AnyArray
    attributes: pa.Table


class Source(Protocol):
    """A source that has been opened and whose shape is known."""

    files: list[Path]
    rows: int
    d: int
    id_type: IdType
    space_id: str | None

    def batches(self) -> Iterator[Batch]:
        """The rows, in source order."""
        ...


def open_source(path: Path, ids: Path | None, *, id_column: str, embedding_column: str) -> Source:
    """Open a Parquet or Arrow file, a folder of them, or a .npy with `ids`; InvalidData says what cannot be used."""
    if path.suffix == ".npy":
        from index_builders.source_npy import NpySource

        if ids is None:
            raise InvalidData(f"{path} holds vectors only: give their ids with --ids")
        return NpySource(path, ids, id_column=id_column)
    if ids is not None:
        raise InvalidData(f"--ids goes with a .npy source; {path} brings its own ids in column {id_column!r}")
    return TableSource(tables.list_tables(path), id_column=id_column, embedding_column=embedding_column)


def check_dimension(d: int, where: object) -> int:
    """Return d if an index can have it, else InvalidData."""
    if not MIN_DIM <= d <= MAX_DIM:
        raise InvalidData(f"{where} has embeddings of {d} dimensions; {MIN_DIM} to {MAX_DIM} are possible")
    return d


class TableSource:
    """Parquet and Arrow IPC files with an id column, an embedding column and any attribute columns."""

    def __init__(self, files: list[Path], *, id_column: str, embedding_column: str) -> None:
        self.files = files
        self._id, self._embedding = id_column, embedding_column
        self._schema = self._check_schemas()
        self.rows = sum(tables.count_rows(file) for file in files)
        if self.rows == 0:
            raise InvalidData(
                f"{files[0] if len(files) == 1 else files[0].parent} has no rows: there is nothing to build"
            )
        metadata = self._schema.metadata or {}
        self.space_id = metadata[SPACE_KEY].decode() if SPACE_KEY in metadata else None
        self.id_type = tables.id_type(self._schema.field(id_column).type, files[0], id_column)
        self.d = check_dimension(self._dimension(), files[0])

    def batches(self) -> Iterator[Batch]:
        """The rows, file by file."""
        attributes = [name for name in self._schema.names if name not in {self._id, self._embedding}]
        size = max(256, _BATCH_BYTES // (4 * self.d))
        for file in self.files:
            for batch in tables.read_batches(file, None, size):
                vectors, reasons = self._vectors(batch.column(self._embedding))
                columns = [tables.plain(batch.column(name)) for name in attributes]
                yield Batch(
                    ids=tables.plain_ids(batch.column(self._id), self.id_type, file),
                    vectors=vectors,
                    reasons=reasons,
                    attributes=pa.table(columns, names=attributes),
                )

    def _vectors(self, column: pa.Array) -> tuple[F32, AnyArray]:
        n = len(column)
        lengths = tables.list_lengths(column)
        reasons = np.zeros(n, dtype=np.uint8)
        reasons[lengths != self.d] = WRONG_DIMENSION
        reasons[lengths < 0] = NULL_EMBEDDING
        good = reasons == 0
        values = column.filter(pa.array(good)).flatten()
        x = np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float32).reshape(-1, self.d)
        if good.all():
            return x, reasons
        out = np.zeros((n, self.d), dtype=np.float32)
        out[good] = x
        return out, reasons

    def _check_schemas(self) -> pa.Schema:
        first = tables.read_schema(self.files[0])
        for file in self.files:
            schema = tables.read_schema(file)
            for name in (self._id, self._embedding):
                if schema.names.count(name) != 1:
                    raise InvalidData(f"{file} has no column {name!r}; it has: {', '.join(schema.names) or 'none'}")
            tables.check_embedding(schema.field(self._embedding).type, file, self._embedding)
            mine, theirs = (s.remove(s.get_field_index(self._embedding)) for s in (first, schema))
            if not mine.equals(theirs):
                raise InvalidData(
                    f"{file} has other columns than {self.files[0]}: the files of one source are one table"
                )
            if (first.metadata or {}).get(SPACE_KEY) != (schema.metadata or {}).get(SPACE_KEY):
                raise InvalidData(f"{file} and {self.files[0]} hold embeddings of different spaces")
        return first

    def _dimension(self) -> int:
        """The dimension that most rows have. Declared where lists are of fixed size; otherwise counted."""
        lengths: Counter[int] = Counter()
        for file in self.files:
            kind = tables.read_schema(file).field(self._embedding).type
            if pa.types.is_fixed_size_list(kind):
                lengths[kind.list_size] += tables.count_rows(file)
                continue
            for batch in tables.read_batches(file, [self._embedding], 65_536):
                counted = pc.value_counts(pc.list_value_length(batch.column(self._embedding)).drop_null())
                for entry in counted.to_pylist():
                    lengths[entry["values"]] += entry["counts"]
        if not lengths:
            raise InvalidData(f"column {self._embedding!r} of {self.files[0]} holds nulls only")
        # the smaller dimension on a tie, so that the plan does not hang on the order of files
        return max(lengths, key=lambda length: (lengths[length], -length))
