"""Reading Parquet and Arrow IPC files the same way: schema, row count, batches, and plain column types.

Every fault of a file becomes an InvalidData that names it. Knows nothing about entities.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrieval.errors import InvalidData
from retrieval.store.generation import ARROW_ID_TYPES
from retrieval.types import AnyArray, IdType

PARQUET = {".parquet", ".pq"}
ARROW = {".arrow", ".feather", ".ipc"}
_READ_BYTES = 1 << 20  # read at once of a column: without it the whole row group is held, compressed


def list_tables(path: Path) -> list[Path]:
    """The Parquet or Arrow files at `path`, a file or a folder (searched below, names with . or _ first left out)."""
    if path.is_file():
        if path.suffix not in PARQUET | ARROW:
            raise InvalidData(
                f"{path} is of no known kind: give a .parquet, .arrow or .npy file, or a folder of the first two"
            )
        return [path]
    if not path.is_dir():
        raise InvalidData(f"{path} does not exist: give a .parquet, .arrow or .npy file, or a folder of the first two")
    found = sorted(
        file
        for file in path.rglob("*")
        if file.suffix in PARQUET | ARROW and file.is_file() and not file.name.startswith((".", "_"))
    )
    if not found:
        raise InvalidData(f"{path} holds no .parquet or .arrow file")
    return found


def read_schema(file: Path) -> pa.Schema:
    """Schema of one file, metadata included."""
    with _readable(file):
        return pq.read_schema(file) if file.suffix in PARQUET else _open_ipc(file).schema


def count_rows(file: Path) -> int:
    """Rows of one file, from its metadata where it has it."""
    with _readable(file):
        if file.suffix in PARQUET:
            return int(pq.read_metadata(file).num_rows)
        reader = _open_ipc(file)
        return sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))


def read_batches(file: Path, columns: list[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
    """Record batches of at most `rows` rows."""
    with _readable(file):
        if file.suffix in PARQUET:
            with pq.ParquetFile(file, pre_buffer=False, buffer_size=_READ_BYTES) as parquet:
                yield from parquet.iter_batches(batch_size=rows, columns=columns)
            return
        reader = _open_ipc(file)
        for i in range(reader.num_record_batches):
            batch = reader.get_batch(i)
            batch = batch if columns is None else batch.select(columns)
            for start in range(0, batch.num_rows, rows):
                yield batch.slice(start, rows)


def id_type(kind: pa.DataType, file: Path, column: str) -> IdType:
    """Id type that an Arrow column type carries."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return IdType.STRING
    if pa.types.is_integer(kind):
        return IdType.INT64
    raise InvalidData(f"column {column!r} of {file} has type {kind}; ids are string or int64")


def check_embedding(kind: pa.DataType, file: Path, column: str) -> None:
    """InvalidData unless `kind` is a list of float32 or float16."""
    is_list = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not is_list or kind.value_type not in (pa.float32(), pa.float16()):
        raise InvalidData(
            f"column {column!r} of {file} has type {kind}; embeddings are a fixed-size list of float32 or float16"
        )


def plain_ids(column: pa.Array, kind: IdType, where: object) -> pa.Array:
    """Ids as pa.string() or pa.int64(); nulls stay nulls."""
    try:
        return plain(column).cast(ARROW_ID_TYPES[kind])
    except pa.ArrowInvalid as error:
        raise InvalidData(f"the ids of {where} do not fit {kind}: {error}") from error


def plain(column: pa.Array) -> pa.Array:
    """The column without dictionary encoding, whose dictionaries an Arrow file could not change between batches."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def list_lengths(column: pa.Array) -> AnyArray:
    """Length int64 [n] of each list of a list column, -1 for a null."""
    if pa.types.is_fixed_size_list(column.type):
        lengths = np.full(len(column), column.type.list_size, dtype=np.int64)
        lengths[column.is_null().to_numpy(zero_copy_only=False)] = -1
        return lengths
    return np.asarray(pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False), dtype=np.int64)


def _open_ipc(file: Path) -> Any:
    return pa.ipc.open_file(pa.memory_map(str(file)))


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidData(f"cannot read {file}: {first_line}") from error
