"""The delta in memory: the latest version of every entity written since a generation was built.

Rows are only ever appended: a new version of an entity is a new row, and the old one is marked dead, until most rows
are dead and the others move to new arrays. A snapshot is the count of rows at a moment with the dead marks of that
moment; it shares the arrays and never changes. One thread applies; any number of threads search snapshots. Knows no
files, filters or gRPC.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from retrieval.delta.graph import FrozenGraph, GraphKeeper
from retrieval.delta.records import Entry, Header, Upserts
from retrieval.topk import normalise
from retrieval.types import F16, F32, I32, U8, AnyArray, Bool, IdType, Metric, VectorDtype

_FIRST_ROWS = 1_024


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The delta at one moment. vectors: float16 or float32 [n, d]; ids: int64 or object [n]; dead: bool [n].

    touched: ids that the shards of the generation must not answer with any more. position: last write it has.
    """

    vectors: F16 | F32
    ids: AnyArray
    dead: Bool
    columns: tuple[pa.Table, ...]
    touched: frozenset[str | int]
    position: int
    graph: FrozenGraph | None

    @property
    def live(self) -> int:
        """Rows that can be answered with."""
        return len(self.dead) - int(np.count_nonzero(self.dead))

    @cached_property
    def dead_bits(self) -> U8:
        """`dead` as a bitmap uint8 [ceil(n / 8)], least significant bit first."""
        return np.packbits(self.dead, bitorder="little")

    @cached_property
    def order(self) -> I32:
        """Rows int32 in ascending order of id, the dead ones among them."""
        return np.argsort(self.ids, kind="stable").astype(np.int32)

    @cached_property
    def table(self) -> pa.Table:
        """Attribute columns of all rows, each one chunk."""
        return pa.concat_tables(self.columns).combine_chunks() if self.columns else pa.table({})


class LiveDelta:
    """Writes applied on top of one generation.

    to_table: attributes of some entities as a table of the generation's columns. graph_rows: above so many rows a graph
    is built over them; below, they are scanned exactly.
    """

    def __init__(
        self,
        header: Header,
        metric: Metric,
        dtype: VectorDtype,
        to_table: Callable[[list[dict[str, Any]]], pa.Table],
        *,
        position: int = 0,
        graph_rows: int = 20_000,
    ) -> None:
        self.header, self.position = header, position
        self._metric, self._to_table = metric, to_table
        self._kind = np.float16 if dtype is VectorDtype.FLOAT16 else np.float32
        self._n = 0
        self._vectors = np.empty((_FIRST_ROWS, header.d), self._kind)
        self._ids: AnyArray = np.empty(_FIRST_ROWS, np.int64 if header.id_type is IdType.INT64 else object)
        self._dead = np.zeros(_FIRST_ROWS, bool)
        self._columns: list[pa.Table] = []
        self._rows: dict[str | int, int] = {}
        self._touched: set[str | int] = set()
        self._graph_rows = graph_rows
        self._graphs = GraphKeeper(metric, graph_rows)

    @property
    def size(self) -> int:
        """Entities written since, the deleted ones included: what the next rebuild has to fold in."""
        return len(self._touched)

    def apply(self, entry: Entry) -> None:
        """Apply one write; one of another space or id type only hides its entities, since it cannot be searched."""
        self.position = entry.last
        write = entry.write
        if entry.header.id_type is not self.header.id_type:
            return
        self._touched.update(write.ids)
        for id_ in write.ids:
            if (row := self._rows.pop(id_, None)) is not None:
                self._dead[row] = True
        if isinstance(write, Upserts) and entry.header == self.header:
            self._append(write)
        if self._n - len(self._rows) > max(_FIRST_ROWS, len(self._rows)):
            self._compact()

    def _append(self, write: Upserts) -> None:
        latest = {id_: number for number, id_ in enumerate(write.ids)}  # an id twice in one write: the last one counts
        numbers = np.fromiter(latest.values(), np.int64, len(latest))
        x = normalise(write.vectors[numbers]) if self._metric is Metric.COSINE else write.vectors[numbers]
        first, last = self._n, self._n + len(numbers)
        table = self._to_table([write.attributes[number] for number in numbers.tolist()])
        self._grow(last)
        self._vectors[first:last] = x
        self._ids[first:last] = list(latest)
        self._columns.append(table)
        self._rows.update(zip(latest, range(first, last), strict=True))
        self._n = last
        if len(self._columns) > 256:
            self._columns = [pa.concat_tables(self._columns).combine_chunks()]

    def _compact(self) -> None:
        """Leave the dead rows behind, in arrays of its own: snapshots keep the old ones."""
        alive = np.flatnonzero(~self._dead[: self._n])
        self._vectors, self._ids = self._vectors[alive], self._ids[alive]
        self._dead = np.zeros(len(alive), bool)
        self._columns = [pa.concat_tables(self._columns).combine_chunks().take(pa.array(alive))] if len(alive) else []
        self._rows = dict(zip(self._ids.tolist(), range(len(alive)), strict=True))
        self._n = len(alive)
        self._graphs = GraphKeeper(self._metric, self._graph_rows)

    def _grow(self, rows: int) -> None:
        if rows <= len(self._dead):
            return
        size = max(rows, 2 * len(self._dead))
        for name in ("_vectors", "_ids", "_dead"):
            old = getattr(self, name)
            new = np.zeros((size, *old.shape[1:]), old.dtype)
            new[: self._n] = old[: self._n]
            setattr(self, name, new)  # snapshots keep the old one

    def snapshot(self) -> Snapshot:
        """The delta as it is now."""
        n = self._n
        return Snapshot(
            vectors=self._vectors[:n],
            ids=self._ids[:n],
            dead=self._dead[:n].copy(),
            columns=tuple(self._columns),
            touched=frozenset(self._touched),
            position=self.position,
            graph=self._graphs.graph(self._vectors[:n]),
        )
