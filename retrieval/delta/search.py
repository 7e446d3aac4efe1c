"""A snapshot of the delta as an index: exact scores, the same tie rule, the same call as the shards' indexes."""

from __future__ import annotations

import numpy as np

from retrieval import kernel
from retrieval.delta.live import Snapshot
from retrieval.params import SearchParams
from retrieval.types import F32, I32, NO_ROW, U8, IndexKind, Metric, Neighbors


class DeltaIndex:
    """See `retrieval.indexes.interface.ShardIndex`; dead rows are never answered with. kind: nothing depends on it."""

    def __init__(self, snapshot: Snapshot, metric: Metric, kind: IndexKind) -> None:
        self._snapshot = snapshot
        self.n, self.d = snapshot.vectors.shape
        self.metric, self.kind = metric, kind

    def search(
        self,
        xq: F32,
        k: int,
        params: SearchParams,
        *,
        allow: U8 | None = None,
        deleted: U8 | None = None,
        threads: int = 1,
    ) -> Neighbors:
        """The k best live rows, with exact scores; params play no part."""
        assert deleted is None, "the delta knows its dead rows itself"
        found, graph = self._snapshot, self._snapshot.graph
        if graph is None or allow is not None:
            rows, scores, distances = kernel.scan(
                found.vectors, xq, k, self.metric, allow=allow, deleted=found.dead_bits, threads=threads
            )
            return Neighbors(rows=rows, scores=scores, work={"distances": distances})
        newer = kernel.bitmap(np.arange(graph.n, self.n), self.n)
        rows, scores, distances = kernel.scan(
            found.vectors, xq, k, self.metric, allow=newer, deleted=found.dead_bits, threads=threads
        )
        dead = int(np.count_nonzero(found.dead[: graph.n]))
        count = min(graph.n, 2 * k + min(dead, graph.n // 2))
        out_rows, out_scores = np.empty_like(rows), np.empty_like(scores)
        for number, query in enumerate(xq):
            near = graph.candidates(query, count)
            near = near[~found.dead[near]].astype(np.int32)
            both = np.concatenate([near, rows[number][rows[number] != NO_ROW]])[None]
            out_rows[number], out_scores[number] = (
                each[0] for each in kernel.rescore(found.vectors, xq[number : number + 1], both, k, self.metric)
            )
        return Neighbors(rows=out_rows, scores=out_scores, work={"distances": distances})

    def score(self, xq: F32, rows: I32) -> F32:
        """Exact scores float32 [q, r] of the rows int32 [q, r]; -inf where a row is NO_ROW."""
        return kernel.score(self._snapshot.vectors, xq, rows, self.metric)
