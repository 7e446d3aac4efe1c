"""How fast this machine is at what builds spend their time on, measured in a moment on seeded data.

Four speeds: bytes hashed and normalised, multiplications in a matrix product, scores in an exact search, rows put into
a graph. Each run is cut off by the clock, so that a slow machine waits no longer. Knows nothing about sources.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrieval import topk
from retrieval.types import F32, Metric

GRAPH_ROWS = 2_000  # the graph's speed is that of the rows up to this one
_BUDGET_S = 0.5  # of the graph; the others take a tenth of it
_SCORED_ROWS = 8_192


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """Seconds of one byte read, one multiplication, one scored row and query, one row into a graph (None: untimed)."""

    byte_s: float
    multiply_s: float
    score_s: float
    graph_row_s: float | None = None


def calibrate(d: int, *, graph: dict[str, Any] | None = None, seed: int = 0) -> Speeds:
    """The speeds for d dimensions; graph: parameters of an HNSW build, to time that as well. At most about 2 s."""
    rng = np.random.default_rng(seed)
    x = _points(_SCORED_ROWS, d, rng)
    queries = x[:200] + np.float32(0.01)
    began = time.perf_counter()
    hashlib.sha256(topk.normalise(x).tobytes()).digest()
    byte_s = (time.perf_counter() - began) / x.nbytes
    topk.exact_search(queries, x[:1_024], 100, Metric.COSINE)  # warm-up: the threads of the matrix product
    began = time.perf_counter()
    topk.exact_search(queries, x, 100, Metric.COSINE)
    score_s = (time.perf_counter() - began) / (len(queries) * len(x))
    product = np.empty((len(x), 256), np.float32)
    np.matmul(x, x[:256].T, out=product)  # warm-up: its pages
    began = time.perf_counter()
    np.matmul(x, x[:256].T, out=product)
    multiply_s = (time.perf_counter() - began) / (product.size * d)
    return Speeds(
        byte_s=byte_s,
        multiply_s=multiply_s,
        score_s=score_s,
        graph_row_s=None if graph is None else _graph_row_s(x, graph, seed),
    )


def _points(n: int, d: int, rng: np.random.Generator) -> F32:
    """Unit rows around centers, with few degrees of freedom, as embeddings are: uniform noise is slower to search."""
    inner = min(16, d)
    points = rng.standard_normal((n, inner), dtype=np.float32)
    points += 1.5 * rng.standard_normal((64, inner), dtype=np.float32)[rng.integers(0, 64, n)]
    return topk.normalise(points @ rng.standard_normal((inner, d), dtype=np.float32))


def _graph_row_s(x: F32, params: dict[str, Any], seed: int) -> float:
    import hnswlib

    index = hnswlib.Index(space="ip", dim=x.shape[1])
    index.init_index(
        max_elements=GRAPH_ROWS, M=params["m"], ef_construction=params["ef_construction"], random_seed=seed
    )
    began, block, last = time.perf_counter(), 250, 0.0
    for first in range(0, GRAPH_ROWS, block):
        start = time.perf_counter()
        index.add_items(x[first : first + block], np.arange(first, first + block), num_threads=1)
        last = (time.perf_counter() - start) / block
        if time.perf_counter() - began > _BUDGET_S:
            break
    return last
