"""Ids of the delta's rows: row -> id, id -> row, as `retrieval.serving.rows.Rows` has them for a shard.

A row whose entity was written again or deleted is dead: no id leads to it. Knows nothing about vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from retrieval.delta import Snapshot
from retrieval.types import I32, NO_ROW, AnyArray


class DeltaRows:
    """The rows of a snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def __len__(self) -> int:
        return len(self._snapshot.ids)

    @property
    def ascending(self) -> bool:
        """False: rows are in the order of writing."""
        return False

    @property
    def columns(self) -> dict[str, pa.Array]:
        """The attribute columns by name, each an Arrow array [rows]."""
        table = self._snapshot.table
        return {name: _one_chunk(table.column(name)) for name in table.column_names}

    def ids(self, rows: I32) -> AnyArray:
        """Ids of rows int32 [n]: int64 [n], or object [n] of str."""
        return self._snapshot.ids[rows]

    def places(self, rows: I32) -> I32:
        """Place int32 [n] of each row in the order of ids, to break ties by."""
        inverse = np.empty(len(self), np.int32)
        inverse[self._snapshot.order] = np.arange(len(self), dtype=np.int32)
        return np.asarray(inverse[rows])

    def find(self, ids: AnyArray) -> I32:
        """Row int32 [n] of each id, NO_ROW where there is none that is alive."""
        found = self._snapshot
        alive = found.order[~found.dead[found.order]]
        if not len(alive):
            return np.full(len(ids), NO_ROW, np.int32)
        ordered = found.ids[alive]
        place = np.minimum(np.searchsorted(ordered, ids), len(alive) - 1)
        return np.where(ordered[place] == ids, alive[place], NO_ROW).astype(np.int32)

    def take(self, rows: I32, columns: Sequence[str]) -> dict[str, pa.Array]:
        """Attribute columns of rows int32 [n], each an Arrow array [n]; nulls where there is no such column."""
        picked, table = pa.array(rows), self._snapshot.table
        return {
            name: _one_chunk(table.column(name).take(picked)) if name in table.column_names else pa.nulls(len(rows))
            for name in columns
        }


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    if isinstance(combined, pa.ChunkedArray):
        combined = combined.chunk(0) if combined.num_chunks else pa.array([], column.type)
    return combined
