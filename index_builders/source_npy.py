"""A source of float32 vectors in one .npy file, with their ids in another. No attributes.

Knows nothing about Parquet beyond reading an id column from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from index_builders import tables
from index_builders.source import Batch, check_dimension
from retrieval.errors import InvalidData
from retrieval.types import AnyArray, IdType

_BATCH_BYTES = 1 << 25


class NpySource:
    """Vectors float32 or float16 [n, d] in a .npy, mapped; ids in an int64 .npy, a text with one a line, or a table."""

    def __init__(self, path: Path, ids: Path, *, id_column: str) -> None:
        self.files = [path, ids]
        self._vectors = load_npy(path)
        if self._vectors.ndim != 2 or self._vectors.dtype not in (np.float32, np.float16):
            raise InvalidData(
                f"{path} holds {self._vectors.dtype} of shape {list(self._vectors.shape)}; wanted float32 [rows, dims]"
            )
        self.rows = len(self._vectors)
        if self.rows == 0:
            raise InvalidData(f"{path} has no rows: there is nothing to build")
        self.d = check_dimension(int(self._vectors.shape[1]), path)
        self.space_id: str | None = None
        self._ids, self.id_type = _read_ids(ids, id_column)
        if len(self._ids) != self.rows:
            raise InvalidData(f"{ids} has {len(self._ids)} ids for the {self.rows} vectors of {path}")

    def batches(self) -> Iterator[Batch]:
        """The rows, in source order."""
        size = max(256, _BATCH_BYTES // (4 * self.d))
        for start in range(0, self.rows, size):
            x = np.array(self._vectors[start : start + size], dtype=np.float32)
            # an Arrow table without columns has no length, which is why attributes are an empty table here
            yield Batch(
                ids=self._ids[start : start + size],
                vectors=x,
                reasons=np.zeros(len(x), dtype=np.uint8),
                attributes=pa.table({}),
            )


def load_npy(path: Path) -> AnyArray:
    """The array of a .npy file, memory-mapped; InvalidData when it is none."""
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidData(f"cannot read {path} as .npy: {error}") from error
    return np.asarray(loaded)


def _read_ids(path: Path, column: str) -> tuple[pa.Array, IdType]:
    if path.suffix == ".npy":
        ids = load_npy(path)
        if ids.ndim != 1 or ids.dtype != np.int64:
            raise InvalidData(f"{path} holds {ids.dtype} of shape {list(ids.shape)}; wanted int64 [rows]")
        return pa.array(ids), IdType.INT64
    if path.suffix in tables.PARQUET | tables.ARROW:
        kind = tables.read_schema(path)
        if column not in kind.names:
            raise InvalidData(f"{path} has no column {column!r}; it has: {', '.join(kind.names) or 'none'}")
        found = tables.id_type(kind.field(column).type, path, column)
        parts = [tables.plain_ids(b.column(0), found, path) for b in tables.read_batches(path, [column], 1 << 20)]
        return pa.concat_arrays(parts) if parts else pa.array([], pa.string()), found
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: an id may hold other separators
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidData(f"cannot read {path} as a text file with one id a line: {error}") from error
    return pa.array(lines if lines[-1] else lines[:-1], pa.string()), IdType.STRING
