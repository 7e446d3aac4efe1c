"""Ids and attributes of one shard's rows: row -> id, id -> row, rows -> attribute columns.

Columns are memory-mapped Arrow, so they cost page cache and no Python objects. Finding an id is a binary search: when
the rows lie in ascending order of id, as the builders write them, it needs no memory at all; else 4 bytes a row for
the sorting permutation. Knows nothing about vectors or queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from retrieval.errors import DamagedData
from retrieval.store.generation import ARROW_ID_TYPES, ID_COLUMN
from retrieval.types import I32, I64, NO_ROW, AnyArray, IdType


class RowIds(Protocol):
    """Ids and attributes of rows: those of a shard, or of the entities written since."""

    @property
    def ascending(self) -> bool:
        """Whether the rows lie in ascending order of id, so that ties by row are ties by id."""
        ...

    def __len__(self) -> int: ...

    def ids(self, rows: I32) -> AnyArray:
        """Ids of rows int32 [n]: int64 [n], or object [n] of str."""
        ...

    def places(self, rows: I32) -> I32:
        """Place int32 [n] of each row in the order of ids, to break ties by."""
        ...

    def find(self, ids: AnyArray) -> I32:
        """Row int32 [n] of each id, NO_ROW where there is none."""
        ...

    def take(self, rows: I32, columns: Sequence[str]) -> dict[str, pa.Array]:
        """Attribute columns of rows int32 [n], each an Arrow array [n]; nulls where there is no such column."""
        ...


class Rows:
    """The rows of one shard; immutable, so any number of threads may read it."""

    def __init__(self, table: pa.Table, id_type: IdType, *, where: str) -> None:
        self.id_type = id_type
        self._where = where
        self._ids = _one_chunk(table.column(ID_COLUMN))
        if self._ids.type != ARROW_ID_TYPES[id_type] or self._ids.null_count:
            raise DamagedData(f"{where} has an id column that is not {id_type} throughout")
        self._columns = {name: _one_chunk(table.column(name)) for name in table.column_names if name != ID_COLUMN}
        self._numbers: I64 | None = self._ids.to_numpy() if id_type is IdType.INT64 else None
        self._order = self._sorting_permutation()
        self._inverse: I32 | None = None

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def columns(self) -> dict[str, pa.Array]:
        """The attribute columns by name, each an Arrow array [rows]."""
        return self._columns

    @property
    def ascending(self) -> bool:
        """Whether the rows lie in ascending order of id, so that ties by row are ties by id."""
        return self._order is None

    def ids(self, rows: I32) -> AnyArray:
        """Ids of rows int32 [n]: int64 [n], or object [n] of str. IndexError for a row that does not exist."""
        if self._numbers is not None:
            return self._numbers.take(rows)
        return np.asarray(self._ids.take(pa.array(rows)).to_numpy(zero_copy_only=False))

    def places(self, rows: I32) -> I32:
        """Place int32 [n] of each row in the order of ids, to break ties by."""
        if self._order is None:
            return rows
        if self._inverse is None:
            inverse = np.empty(len(self), np.int32)
            inverse[self._order] = np.arange(len(self), dtype=np.int32)
            self._inverse = inverse  # the same, whichever thread made it
        return np.asarray(self._inverse[rows])

    def find(self, ids: AnyArray) -> I32:
        """Row int32 [n] of each id (int64 or object of str [n]), NO_ROW where the shard does not hold it."""
        if self._numbers is not None:
            place = np.minimum(np.searchsorted(self._numbers, ids, sorter=self._order), len(self) - 1)
            found = np.asarray(self._numbers[place if self._order is None else self._order[place]] == ids)
        else:
            place, found = self._find_strings(pa.array(ids, pa.string()))
        rows = place if self._order is None else self._order[place]
        return np.where(found, rows, NO_ROW).astype(np.int32)

    def take(self, rows: I32, columns: Sequence[str]) -> dict[str, pa.Array]:
        """Attribute columns of rows int32 [n], each an Arrow array [n]; nulls where the shard has no such column."""
        picked = pa.array(rows)
        return {
            name: self._columns[name].take(picked) if name in self._columns else pa.nulls(len(rows)) for name in columns
        }

    def _find_strings(self, wanted: pa.Array) -> tuple[I64, AnyArray]:
        # a binary search for all ids at once: about log2(rows) takes and compares, whatever the number of ids
        low = np.zeros(len(wanted), np.int64)
        high = np.full(len(wanted), len(self), np.int64)
        while (low < high).any():
            middle = np.minimum((low + high) // 2, len(self) - 1)
            less = pc.less(self._at(middle), wanted).to_numpy(zero_copy_only=False) & (low < high)
            low = np.where(less, middle + 1, low)
            high = np.where(less, high, np.minimum(middle, high))
        place = np.minimum(low, len(self) - 1)
        return place, pc.equal(self._at(place), wanted).to_numpy(zero_copy_only=False)

    def _at(self, place: I64) -> pa.Array:
        return self._ids.take(pa.array(place if self._order is None else self._order[place]))

    def _sorting_permutation(self) -> I32 | None:
        order: I32 | None = None
        ids = self._ids
        if len(ids) > 1 and not pc.all(pc.less(ids[:-1], ids[1:])).as_py():
            order = pc.sort_indices(ids).to_numpy().astype(np.int32)
            ids = ids.take(pa.array(order))
            if not pc.all(pc.less(ids[:-1], ids[1:])).as_py():
                raise DamagedData(f"{self._where} holds an id twice; rebuild this generation")
        return order


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    if isinstance(combined, pa.ChunkedArray):  # more characters than 32-bit offsets reach, or no chunk at all
        if combined.num_chunks > 1:
            raise DamagedData("a column of rows.arrow holds over 2 GiB of text in one shard; build more shards")
        combined = combined.chunk(0) if combined.num_chunks else pa.array([], column.type)
    return combined
