"""The graph handle: memory-mapped arrays, checked once, searched by any number of threads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retrieval.errors import DamagedData, InvalidArgument
from retrieval.kernel import _native
from retrieval.kernel.codes import Codes, sentence
from retrieval.params import MAX_K
from retrieval.types import F16, F32, I32, I64, U8, U32, Metric


class Graph:
    """A proximity graph over memory-mapped arrays; copies none of them, and keeps them alive.

    vectors: float16 or float32 [n, d]; neighbors: uint32 [n, width], 0xffffffff after a row's last neighbour.
    The upper layers are lists of slots, layer 1 first: layer l has slots layer_first[l - 1] .. layer_first[l] - 1.
    upper_rows: uint32 [slots], each slot's row; upper_down: uint32 [slots], the same row's slot one layer down (for
    layer 1 the row); upper_neighbors: uint32 [slots, upper_width], slots of the same layer. entry: a slot of the top
    layer, or a row where there is none. codes: as `encode` made them, or None to walk on the vectors.

    The constructor checks everything that a search trusts, so that no content of the arrays can make it read out of
    bounds, and raises DamagedData with one sentence otherwise. One graph serves any number of threads.
    """

    def __init__(
        self,
        vectors: F16 | F32,
        neighbors: U32,
        upper_rows: U32,
        upper_down: U32,
        upper_neighbors: U32,
        layer_first: Sequence[int],
        entry: int,
        metric: Metric,
        *,
        codes: Codes | None = None,
    ) -> None:
        c = codes
        try:
            self._native = _native.Graph(
                vectors,
                neighbors,
                upper_rows,
                upper_down,
                upper_neighbors,
                list(layer_first),
                entry,
                metric is Metric.L2,
                c.data if c else None,
                c.scale if c else None,
                c.bias if c else None,
                c.seed if c else 0,
                c.error if c else 0.0,
                c.walk_bits if c else 8,
            )
        except (ValueError, TypeError) as error:
            raise DamagedData(sentence(error)) from None

    def search(
        self,
        xq: F32,
        k: int,
        ef: int,
        *,
        max_distances: int = 0,
        allow: U8 | None = None,
        deleted: U8 | None = None,
        threads: int = 1,
        level: str | None = None,
    ) -> tuple[I32, F32, I64, I64]:
        """Walk the graph: (rows int32 [q, k], exact scores float32 [q, k], distances int64 [q], hops int64 [q]).

        The pool holds max(k, ef) rows (with codes a little more than k), and more under a filter, as fewer rows are
        eligible: the walk goes through all rows and collects the eligible ones, in a wider pool while they are too few.
        When the walk cannot find min(k, eligible) rows (a graph in parts, a filter that fits nothing near the query),
        the eligible rows are scanned, which `distances` then includes. max_distances (0: none) ends the walk early; the
        answer may then be short. Raises InvalidArgument for arrays that do not fit.
        """
        return self._run(xq, k, ef, max_distances, allow, deleted, threads, level, False)

    def scan(
        self,
        xq: F32,
        k: int,
        *,
        allow: U8 | None = None,
        deleted: U8 | None = None,
        threads: int = 1,
        level: str | None = None,
    ) -> tuple[I32, F32, I64, I64]:
        """Exact search over the eligible rows, codes first; the same answer as `kernel.scan`, in `search`'s form."""
        return self._run(xq, k, 1, 0, allow, deleted, threads, level, True)

    def _run(
        self,
        xq: F32,
        k: int,
        ef: int,
        max_distances: int,
        allow: U8 | None,
        deleted: U8 | None,
        threads: int,
        level: str | None,
        scan_only: bool,
    ) -> tuple[I32, F32, I64, I64]:
        q = len(xq)
        rows, scores = answer(q, k)
        distances, hops = np.empty(q, dtype=np.int64), np.empty(q, dtype=np.int64)
        try:
            self._native.search(
                xq, rows, scores, distances, hops, ef, max_distances, allow, deleted, threads, level or "", scan_only
            )
        except (ValueError, TypeError) as error:
            raise InvalidArgument(sentence(error)) from None
        return rows, scores, distances, hops


def answer(q: int, k: int) -> tuple[I32, F32]:
    """Room for q answers of k rows and scores."""
    if not 1 <= k <= MAX_K:
        raise InvalidArgument(f"k = {k} is outside 1..{MAX_K}")
    return np.empty((q, k), dtype=np.int32), np.empty((q, k), dtype=np.float32)
