"""Part of stage 4, verify: from how many eligible rows on a walk of a shard's graph is quicker than a scan of them.

Both are timed on the staged shard, under random filters of the kind that the search itself meets, in turns, so that
other work on the machine falls on both. The search decides by `kernel.scan_is_cheaper`; what is measured here is kept
in the manifest, so that a rule which does not fit a machine or its data is seen. Knows nothing about stores.
"""

from __future__ import annotations

import math
import time

import numpy as np

from retrieval import kernel
from retrieval.indexes.hnsw import HnswIndex
from retrieval.params import HnswSearch
from retrieval.store.manifest import ScanCrossover
from retrieval.types import F32, U8

MIN_ROWS = 4_096  # below, a scan of every row takes as long as any walk
BUDGET_S = 2.0  # checked between queries
_ROUNDS, _QUERIES, _REPEATS = 6, 24, 2
_CLOSE = 0.1  # natural logarithm of the ratio of times at which the search for the crossover ends


def measure_crossover(index: HnswIndex, xq: F32, k: int, params: HnswSearch, *, seed: int) -> ScanCrossover | None:
    """The crossover for queries xq [q, d] at this effort; None for a shard of fewer than MIN_ROWS rows."""
    n = index.n
    if n < MIN_ROWS:
        return None
    rng = np.random.default_rng([seed, 2])
    pool = max(k, params.ef)
    rule = min(n, math.isqrt(int(kernel.DISTANCES_PER_POOL_ENTRY * pool * n)))
    low, high = 0, n + 1  # the scan was quicker at low, the walk at high
    eligible, ends = rule, time.perf_counter() + BUDGET_S
    best: tuple[float, int, float] | None = None
    for _ in range(_ROUNDS):
        allow = kernel.bitmap(rng.choice(n, eligible, replace=False, shuffle=False), n)
        walk_s, scan_s = _times(index, xq[:_QUERIES], k, params, allow, ends)
        ratio = math.log(scan_s / walk_s)
        if best is None or abs(ratio) < abs(best[0]):
            best = (ratio, eligible, (walk_s + scan_s) / 2)
        if ratio > 0:
            high = eligible
        else:
            low = eligible
        # a scan's time grows with the rows, a walk's falls with them
        guess = min(max(round(eligible * math.exp(-ratio / 1.8)), 1), n)
        following = guess if low < guess < high else math.isqrt(low * high)
        if abs(ratio) < _CLOSE or high - low <= 2 or time.perf_counter() > ends:
            break
        eligible = following
    assert best is not None
    return ScanCrossover(
        params=params.model_dump(mode="json"),
        k=k,
        shard_rows=n,
        eligible_rows=best[1],
        scan_over_walk=round(math.exp(best[0]), 3),
        ms=round(best[2] * 1e3, 4),
        rule_rows=rule,
    )


def _times(index: HnswIndex, xq: F32, k: int, params: HnswSearch, allow: U8, ends: float) -> tuple[float, float]:
    """Mean seconds of a walk and of a scan over the queries, each query's fastest repeat; one query at least."""
    walks, scans = [], []
    for i in range(len(xq)):
        one = xq[i : i + 1]
        pairs = []
        for _ in range(_REPEATS + (i == 0)):  # the first warms up
            began = time.perf_counter()
            index.graph.search(one, k, params.ef, max_distances=params.max_distances, allow=allow)
            between = time.perf_counter()
            index.graph.scan(one, k, allow=allow)
            pairs.append((between - began, time.perf_counter() - between))
        walks.append(min(walk for walk, _ in pairs))
        scans.append(min(scan for _, scan in pairs))
        if time.perf_counter() > ends:
            break
    return sum(walks) / len(walks), sum(scans) / len(scans)
