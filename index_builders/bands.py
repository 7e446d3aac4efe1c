"""How good each effort is under a filter: recall and latency where only a share of the rows is allowed.

The allowed rows are drawn at random, one bitmap per shard and band, and the truth is exact search over them. At most
two shards are searched, with few queries and for a bounded time: a merged answer of two shards takes more from each
than one of many shards does, so the recall found is, if anything, too low. Knows nothing about attributes or stores.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import numpy as np

from index_builders.verify import K, Part, Run, best, rescored
from retrieval import kernel, topk
from retrieval.indexes import ShardIndex, open_index
from retrieval.params import SearchParams
from retrieval.store.manifest import FILTER_BANDS, FrontierPoint
from retrieval.types import F32, I64, U8, AnyArray, Metric

SHARDS, QUERIES = 2, 50
SHARE_OF_BUILD = 0.1  # of the time that the build has taken so far
_CHUNK = 65_536  # rows held in memory at once while the truth is found
LEAST_S = 1.0  # also for a build of a moment


def measure_bands(
    parts: Sequence[Part],
    xq: F32,
    metric: Metric,
    ladder: Sequence[SearchParams],
    *,
    budget_s: float,
    seed: int,
    query_kind: Literal["", "real", "items"] = "",
) -> list[FrontierPoint]:
    """The frontier for queries xq [q, d] in each of `FILTER_BANDS`, widest band first, cheapest effort first.

    query_kind: what the queries are, kept with every figure.
    budget_s: what is not measured when this many seconds are over is left out, whole points only. A band that allows
    no row of the shards searched is left out too.
    """
    ends = time.perf_counter() + budget_s
    xq = xq[:QUERIES]
    chosen = sorted(parts, key=lambda part: -part.rows)[:SHARDS]
    opened = [(open_index(part.kind, part.path), part.exact(), part.order()) for part in chosen]
    points: list[FrontierPoint] = []
    for number, band in enumerate(FILTER_BANDS):
        rng = np.random.default_rng([seed, 3, number])
        allowed = [rng.choice(part.rows, round(band * part.rows), replace=False, shuffle=False) for part in chosen]
        searched = [(*each, rows) for each, rows in zip(opened, allowed, strict=True) if len(rows)]
        k = min(K, sum(len(rows) for rows in allowed))
        if not k or time.perf_counter() > ends:
            continue
        truth = _truth(searched, xq, k, metric, ends)
        if truth is None:
            break
        bitmaps = [kernel.bitmap(rows, index.n) for index, _, _, rows in searched]
        for params in ladder:
            run = _measured(searched, bitmaps, xq, k, params, metric, ends)
            if run is None:
                break
            point = run.point(params, truth)
            known = {"filter_band": band, "shards": len(chosen), "query_kind": query_kind}
            points.append(point.model_copy(update=known))
    return points


_Searched = tuple[ShardIndex, AnyArray, I64 | None, AnyArray]


def _truth(searched: Sequence[_Searched], xq: F32, k: int, metric: Metric, ends: float) -> F32 | None:
    """The best exact scores [q, k] among the allowed rows, or None when the time was over before the last."""
    found = np.empty((len(xq), 0), np.float32)
    for _, exact, order, rows in searched:
        source = np.sort(rows if order is None else order[rows])  # sorted, because the vectors are read from a file
        for start in range(0, len(source), _CHUNK):
            part = source[start : start + _CHUNK]
            here = topk.exact_search(xq, exact[part], min(k, len(part)), metric)[1]
            found = best(np.concatenate([found, here], axis=1), k)
            if time.perf_counter() > ends:
                return None
    return found


def _measured(
    searched: Sequence[_Searched],
    bitmaps: Sequence[U8],
    xq: F32,
    k: int,
    params: SearchParams,
    metric: Metric,
    ends: float,
) -> Run | None:
    """One effort over all shards and queries, or None when the time was over before the last."""
    run = Run(len(xq), k)
    for (index, exact, order, _), allow in zip(searched, bitmaps, strict=True):
        index.search(xq[:1], k, params, allow=allow)  # warm-up: pages and lazily made buffers
        for i in range(len(xq)):
            began = time.perf_counter_ns()
            found = index.search(xq[i : i + 1], k, params, allow=allow)
            run.latency_ns[i] += time.perf_counter_ns() - began
            run.take(i, found.scores[0], rescored(xq[i], found.rows[0], exact, order, metric))
            if time.perf_counter() > ends:
                return None
        run.merge(k)
    return run
