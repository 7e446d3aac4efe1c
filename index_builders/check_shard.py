"""The check of one shard beyond its checksums: are the vectors finite, and does the index answer as exact search does?

A generation can be whole byte for byte and still be wrong, when what built it was. So every vector is read, and a
sample of the stored rows is searched for: each score must be the exact one of the row it is said to belong to, no row
may come twice, and the answers must reach the recall that a working index has. Memory stays bounded by blocks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retrieval.indexes import ShardIndex
from retrieval.params import SearchParams
from retrieval.store.generation import VECTORS_FILE
from retrieval.topk import check_vectors, exact_search, normalise, recall, scores
from retrieval.types import F32, NO_ROW, AnyArray, IndexKind, Metric

SAMPLE, K = 32, 10
RECALL_FLOOR = 0.8  # of neighbours of stored rows; an index that mixes up its rows is near 0
_BLOCK_ROWS = 65_536
_TOLERANCE = 1e-3  # of a score, relative above 1: another machine's rounding
_UNIT = 1e-2  # how far from 1 the norm of a stored float16 unit vector may be


def read_vectors(path: Path) -> AnyArray:
    """The stored vectors [n, d] of the shard in folder `path`, mapped."""
    return np.asanyarray(np.load(path / VECTORS_FILE, mmap_mode="r", allow_pickle=False))


def bad_vectors(vectors: AnyArray, rows: int, d: int, metric: Metric) -> str:
    """What is wrong with stored vectors, "" when they are finite, of that shape and, for cosine, of unit length."""
    if vectors.shape != (rows, d):
        return f"has shape {vectors.shape}, the manifest says {(rows, d)}"
    for start in range(0, rows, _BLOCK_ROWS):
        block = np.asarray(vectors[start : start + _BLOCK_ROWS], dtype=np.float32)
        good = check_vectors(block)
        if not good.all():
            return f"row {start + int(np.argmin(good))} is not finite or is zero ({int((~good).sum())} in its block)"
        if metric is Metric.COSINE:
            off = np.abs(np.sqrt(np.einsum("nd,nd->n", block, block)) - 1)
            if off.max() > _UNIT:
                return f"row {start + int(off.argmax())} has not unit length but differs from it by {off.max():.3g}"
    return ""


def wrong_answers(index: ShardIndex, vectors: AnyArray, params: SearchParams, seed: int) -> str:
    """What is wrong with the answers for a sample of the shard's own rows, "" when they are as they should be."""
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(vectors), size=min(SAMPLE, len(vectors)), replace=False))
    xq = np.asarray(vectors[rows], dtype=np.float32)
    if index.metric is Metric.COSINE:
        xq = normalise(xq)
    k = min(K, len(vectors))
    found = index.search(xq, k, params)
    exact = np.full(found.rows.shape, -np.inf, dtype=np.float32)
    for i, answered in enumerate(found.rows):
        real = answered[answered != NO_ROW]
        if len(real) and (real.min() < 0 or real.max() >= len(vectors)):
            return f"row {int(rows[i])} as a query is answered with a row that does not exist"
        if len(np.unique(real)) != len(real):
            return f"row {int(rows[i])} as a query is answered with one row twice"
        exact[i, : len(real)] = scores(xq[i : i + 1], vectors[real], index.metric)[0]
        off = np.abs(found.scores[i, : len(real)] - exact[i, : len(real)]) / np.maximum(
            1, np.abs(exact[i, : len(real)])
        )
        if len(real) and off.max() > _TOLERANCE:
            return f"row {int(rows[i])} as a query is answered with a score that is {off.max():.3g} off the exact one"
    share = recall(exact, _truth(xq, vectors, k, index.metric), tolerance=_TOLERANCE)
    floor = 1.0 if index.kind is IndexKind.FLAT else RECALL_FLOOR
    if share < floor:
        return f"recall@{k} over {len(rows)} of its own rows is {share:.3f} at {params}, {floor} is the least"
    return ""


def _truth(xq: F32, vectors: AnyArray, k: int, metric: Metric) -> F32:
    """Best exact scores [q, k], block by block, since one block in float32 is all that has to be in memory."""
    best = np.full((len(xq), k), -np.inf, dtype=np.float32)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        part = exact_search(xq, vectors[start : start + _BLOCK_ROWS], k, metric)[1]
        best = np.asarray(-np.sort(-np.concatenate([best, part], axis=1), axis=1)[:, :k], dtype=np.float32)
    return best
