"""Approximate search of a large delta: a graph over its first rows, frozen once built, and a scan of the newer ones.

hnswlib's add and search must not run at the same time, so a graph is built apart, in the background, over rows that no
longer change, and is never added to. Rows that arrive later are scanned until the next graph takes them in. Knows
nothing about ids and which rows are dead.
"""

from __future__ import annotations

import threading

import hnswlib
import numpy as np

from retrieval.types import F16, F32, I64, Metric

_M, _EF_CONSTRUCTION, _EF = 16, 100, 400
_SPACES = {Metric.COSINE: "ip", Metric.INNER_PRODUCT: "ip", Metric.L2: "l2"}


class FrozenGraph:
    """A graph over rows 0 .. n - 1; any number of threads may search it."""

    def __init__(self, vectors: F16 | F32, metric: Metric) -> None:
        self.n = len(vectors)
        self._index = hnswlib.Index(space=_SPACES[metric], dim=vectors.shape[1])
        self._index.init_index(max_elements=self.n, M=_M, ef_construction=_EF_CONSTRUCTION, random_seed=1)
        self._index.add_items(np.asarray(vectors, np.float32), np.arange(self.n), num_threads=1)
        self._index.set_ef(_EF)  # once, before anybody searches

    def candidates(self, query: F32, count: int) -> I64:
        """At most `count` rows near one query [d], best first."""
        rows, _ = self._index.knn_query(query[None], k=min(count, self.n), num_threads=1)
        return np.asarray(rows[0], np.int64)


class GraphKeeper:
    """Builds graphs as a delta grows; graph_rows: so many rows may be scanned."""

    def __init__(self, metric: Metric, graph_rows: int) -> None:
        self._metric, self._graph_rows = metric, graph_rows
        self._lock = threading.Lock()
        self._ready: FrozenGraph | None = None
        self._building = False

    def graph(self, vectors: F16 | F32) -> FrozenGraph | None:
        """The latest graph there is; begins the next one when too many rows are in none."""
        with self._lock:
            covered = 0 if self._ready is None else self._ready.n
            if not self._building and len(vectors) - covered > max(self._graph_rows, covered // 2):
                self._building = True
                threading.Thread(target=self._build, args=(vectors,), name="delta-graph", daemon=True).start()
            return self._ready

    def _build(self, vectors: F16 | F32) -> None:
        try:
            built = FrozenGraph(vectors, self._metric)
        except Exception:
            with self._lock:
                self._building = False
            raise
        with self._lock:
            self._ready, self._building = built, False
