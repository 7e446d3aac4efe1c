"""The delta as one more shard of its generation: the same five questions, over the entities written since.

Exact scores from vectors of the generation's own type, so that an entity scores here what it will score in a shard.
Knows nothing about logs or about which rows of the shards it replaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from retrieval import kernel
from retrieval.delta import Snapshot
from retrieval.delta.search import DeltaIndex
from retrieval.params import FlatSearch, SearchParams
from retrieval.serving.delta.rows import DeltaRows
from retrieval.serving.explaining.shard import ShardExplanation, explain_shard
from retrieval.serving.filtering.bitmaps import Allowed, RowFilters
from retrieval.serving.filtering.filters import UNRESTRICTED, Filter, Restriction
from retrieval.serving.ranked_rows import Hits, RankedRows
from retrieval.types import F32, I32, NO_ROW, AnyArray, Bool, IndexKind, Metric

NAME = "delta"
_ANY = FlatSearch()


class DeltaShard:
    """See `retrieval.serving.shards.Shard`. kind: that of the generation's shards, for which a call has parameters."""

    def __init__(self, snapshot: Snapshot, metric: Metric, kind: IndexKind) -> None:
        self.name, self.kind, self.metric = NAME, kind, metric
        self.rows = snapshot.live
        self.snapshot = snapshot
        self._index = DeltaIndex(snapshot, metric, kind)
        self._rows = DeltaRows(snapshot)
        self._filters = RowFilters(self._rows.columns, self._index.n)

    @property
    def schema(self) -> pa.Schema:
        """See `Shard.schema`."""
        return self._filters.schema

    def search(self, xq: F32, k: int, params: SearchParams, *, restriction: Restriction = UNRESTRICTED) -> Hits:
        """See `Shard.search`."""
        allowed = None
        if restriction != UNRESTRICTED:  # crowding looks at every row that is allowed, the dead ones must not be
            allowed = self._allowed(restriction.filter)
        ranked = RankedRows(self.name, self._index, self._rows, self._filters, allowed)
        hits = ranked.search(xq, k, _ANY, restriction.crowding)
        return hits if restriction.filter is not None else replace(hits, matches=None)

    def explain(
        self,
        xq: F32,
        ids: AnyArray,
        k: int,
        params: SearchParams,
        *,
        restriction: Restriction = UNRESTRICTED,
        score: float | None = None,
    ) -> ShardExplanation:
        """See `Shard.explain`."""
        hits = self.search(xq, k, params, restriction=Restriction(filter=restriction.filter))
        allowed = self._allowed(restriction.filter)
        row = int(self._rows.find(ids)[0])
        return explain_shard(self.name, self._index, self._rows, allowed, hits, xq, ids, row, k, _ANY, score)

    def exact(self, xq: F32, k: int, restriction: Restriction = UNRESTRICTED) -> F32:
        """See `LocalShard.exact`."""
        bits = self._allowed(restriction.filter).bits
        return kernel.scan(self.snapshot.vectors, xq, k, self.metric, allow=bits)[1]

    def matches(self, condition: Filter) -> int:
        """How many rows a filter allows."""
        return self._allowed(condition).count

    def score(self, xq: F32, ids: AnyArray) -> tuple[F32, Bool]:
        """See `Shard.score`."""
        rows = self._rows.find(ids)
        found = rows != NO_ROW
        scores = np.zeros((len(xq), len(ids)), np.float32)
        if found.any():
            held = np.ascontiguousarray(np.broadcast_to(rows[found], (len(xq), int(found.sum()))))
            scores[:, found] = self._index.score(xq, held)
        return scores, found

    def vectors(self, ids: AnyArray) -> tuple[F32, Bool]:
        """See `Shard.vectors`."""
        rows = self._rows.find(ids)
        found = rows != NO_ROW
        vectors = np.zeros((len(ids), self._index.d), np.float32)
        vectors[found] = self.snapshot.vectors[rows[found]]
        return vectors, found

    def attributes(self, rows: I32, columns: Sequence[str]) -> dict[str, pa.Array]:
        """See `Shard.attributes`."""
        return self._rows.take(rows, columns)

    def _allowed(self, condition: Filter | None) -> Allowed:
        alive = np.packbits(~self.snapshot.dead, bitorder="little")
        bits = alive if condition is None else alive & self._filters.allowed(condition).bits
        return Allowed(bits=bits, count=kernel.count_rows(self._index.n, allow=bits))
