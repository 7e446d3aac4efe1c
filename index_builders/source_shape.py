"""How large a source is, from its metadata alone: rows, dimensions, and bytes of the ids and attributes of a row.

Parquet footers and schemas, Arrow IPC headers and .npy headers are read, no value. What cannot be known that way is
rounded up. Knows nothing about indexes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from index_builders import tables
from index_builders.source import SPACE_KEY, check_dimension
from index_builders.source_npy import load_npy
from retrieval.errors import InvalidData
from retrieval.types import IdType

_UNKNOWN_BYTES = 16  # of a value of variable length where the metadata does not tell


@dataclass(frozen=True, kw_only=True)
class SourceShape:
    """rows of d float32 dimensions; row_bytes: ids and attributes of one row, uncompressed; ids_are_text."""

    rows: int
    d: int
    row_bytes: float
    ids_are_text: bool


def read_shape(
    path: Path, ids: Path | None, *, id_column: str = "id", embedding_column: str = "embedding"
) -> SourceShape:
    """The shape of what `index_builders.source.open_source` would open; InvalidData says what cannot be used."""
    if path.suffix == ".npy":
        return _npy_shape(path, ids)
    rows, values, counted, row_bytes, d, text = 0, 0, 0, 0.0, 0, True
    for file in tables.list_tables(path):
        schema = tables.read_schema(file)
        for name in (id_column, embedding_column):
            if schema.names.count(name) != 1:
                raise InvalidData(f"{file} has no column {name!r}; it has: {', '.join(schema.names) or 'none'}")
        tables.check_embedding(schema.field(embedding_column).type, file, embedding_column)
        text = tables.id_type(schema.field(id_column).type, file, id_column) is IdType.STRING
        here = tables.count_rows(file)
        rows += here
        kind = schema.field(embedding_column).type
        if pa.types.is_fixed_size_list(kind):
            d = kind.list_size
        elif here:
            values, counted = values + _values(file, embedding_column), counted + here
        others = [field for field in schema if field.name != embedding_column]
        row_bytes += _parquet_bytes(file, others, here) if file.suffix in tables.PARQUET else here * _plain(others)
    if rows == 0:
        raise InvalidData(f"{path} has no rows: there is nothing to build")
    d = d or round(values / max(counted, 1))
    return SourceShape(rows=rows, d=check_dimension(d, path), row_bytes=row_bytes / rows, ids_are_text=text)


def read_space_id(path: Path) -> str | None:
    """The space that a source says its embeddings are of; None where it does not."""
    if path.suffix == ".npy":
        return None
    metadata = tables.read_schema(tables.list_tables(path)[0]).metadata or {}
    return metadata[SPACE_KEY].decode() if SPACE_KEY in metadata else None


def _npy_shape(path: Path, ids: Path | None) -> SourceShape:
    if ids is None:
        raise InvalidData(f"{path} holds vectors only: give their ids with --ids")
    found = load_npy(path)
    if found.ndim != 2 or found.dtype not in (np.float32, np.float16):
        raise InvalidData(f"{path} holds {found.dtype} of shape {list(found.shape)}; wanted float32 [rows, dims]")
    if len(found) == 0:
        raise InvalidData(f"{path} has no rows: there is nothing to build")
    text = ids.suffix != ".npy"
    try:
        held = ids.stat().st_size / len(found) + 4 if text else 8.0
    except OSError as error:
        raise InvalidData(f"cannot read {ids}: {error.strerror}") from error
    d = check_dimension(int(found.shape[1]), path)
    return SourceShape(rows=len(found), d=d, row_bytes=held, ids_are_text=text)


def _values(file: Path, column: str) -> int:
    """How many numbers the lists of a column hold; of an Arrow file, judged by its first batch."""
    if file.suffix in tables.PARQUET:
        footer = pq.read_metadata(file)
        groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
        leaves = [group.column(i) for group in groups for i in range(group.num_columns)]
        return sum(leaf.num_values for leaf in leaves if leaf.path_in_schema.split(".")[0] == column)
    first = next(tables.read_batches(file, [column], 1_024)).column(0)
    lengths = tables.list_lengths(first)
    return round(float(np.median(lengths)) * tables.count_rows(file))


def _parquet_bytes(file: Path, fields: list[pa.Field], rows: int) -> float:
    """Uncompressed bytes of the columns; a dictionary-encoded one counts at least as its Arrow type does."""
    footer = pq.read_metadata(file)
    held = dict.fromkeys((field.name for field in fields), 0.0)
    for group in (footer.row_group(i) for i in range(footer.num_row_groups)):
        for leaf in (group.column(i) for i in range(group.num_columns)):
            name = leaf.path_in_schema.split(".")[0]
            if name in held:
                held[name] += leaf.total_uncompressed_size
    return sum(max(held[field.name], rows * _fixed(field.type)) for field in fields)


def _plain(fields: list[pa.Field]) -> float:
    return sum(_fixed(field.type) or _UNKNOWN_BYTES for field in fields)


def _fixed(kind: pa.DataType) -> float:
    """Bytes of one value; 0 where they differ from value to value."""
    try:
        return max(1.0, kind.bit_width / 8) if not pa.types.is_dictionary(kind) else 4.0
    except ValueError:
        return 0.0
