"""Exact search, normalisation and merge: the oracle of every test and the tie rule of every answer.

The tie rule: score descending, then id ascending. Plain numpy on purpose, independent of the native kernel, so that the
two can be held against each other. Knows nothing about shards, stores or towers.
"""

from __future__ import annotations

import numpy as np

from retrieval.types import F32, I32, NO_ROW, AnyArray, Bool, Metric

_BLOCK_ELEMENTS = 1 << 24  # scores held at once by exact_search: 64 MiB of float32


def check_vectors(x: AnyArray) -> Bool:
    """True for each row of x [n, d] that can be searched: finite throughout and of non-zero norm."""
    with np.errstate(over="ignore", invalid="ignore"):
        squared = np.einsum("nd,nd->n", x, x, dtype=np.float32)
    return np.asarray(np.isfinite(squared) & (squared > 0))


def normalise(x: F32) -> F32:
    """Unit rows of x float32 [n, d]; a zero or non-finite row is the caller's mistake (see `check_vectors`)."""
    norms = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))[:, None]
    return np.asarray(x / norms, dtype=np.float32)


def scores(xq: F32, xb: AnyArray, metric: Metric) -> F32:
    """Scores float32 [q, n], higher is better, of queries [q, d] against base rows [n, d] of any float type."""
    base = np.asarray(xb, dtype=np.float32)
    dots = xq @ base.T
    if metric is not Metric.L2:
        return np.asarray(dots, dtype=np.float32)
    query_norms = np.einsum("qd,qd->q", xq, xq)[:, None]
    base_norms = np.einsum("nd,nd->n", base, base)[None, :]
    return np.asarray(2 * dots - query_norms - base_norms, dtype=np.float32)


def top_k(values: F32, k: int, ids: AnyArray | None = None) -> tuple[AnyArray, F32]:
    """The k' = min(k, n) best of each row of values float32 [q, n] in the tie order: (ids [q, k'], scores [q, k']).

    ids [n] or [q, n] are what ties are broken by and what is returned; None means the column number (int64).
    """
    q, n = values.shape
    k = min(k, n)
    labels = np.broadcast_to(np.arange(n) if ids is None else ids, (q, n))
    out_ids = np.empty((q, k), dtype=labels.dtype)
    out_scores = np.empty((q, k), dtype=np.float32)
    for i in range(q):
        row = values[i]
        if k < n:
            # every entry that ties with the k-th best has to be seen, or the cut would not follow the tie rule
            threshold = np.partition(row, n - k)[n - k]
            keep = np.flatnonzero(row >= threshold)
        else:
            keep = np.arange(n)
        order = keep[np.lexsort((labels[i, keep], -row[keep]))][:k]
        out_ids[i], out_scores[i] = labels[i, order], row[order]
    return out_ids, out_scores


def exact_search(xq: F32, xb: AnyArray, k: int, metric: Metric, *, allow: Bool | None = None) -> tuple[I32, F32]:
    """Exact nearest rows of xb [n, d] for each query [q, d]: (rows int32 [q, k], scores float32 [q, k]), padded.

    allow: bool [n]; rows that are not allowed are never returned. Works in blocks, so that memory stays bounded.
    """
    q, n = len(xq), len(xb)
    rows = np.full((q, k), NO_ROW, dtype=np.int32)
    best = np.full((q, k), -np.inf, dtype=np.float32)
    block = max(1, _BLOCK_ELEMENTS // max(q, 1))
    for start in range(0, n, block):
        part = scores(xq, xb[start : start + block], metric)
        part_rows = np.arange(start, start + part.shape[1], dtype=np.int32)
        if allow is not None:
            kept = np.asarray(allow[start : start + block], dtype=bool)
            part, part_rows = part[:, kept], part_rows[kept]
        found, found_scores = top_k(part, k, part_rows)
        rows, best = _merge_padded(rows, best, np.asarray(found, dtype=np.int32), found_scores, k)
    return rows, best


def _merge_padded(rows: I32, best: F32, new_rows: I32, new_best: F32, k: int) -> tuple[I32, F32]:
    all_rows = np.concatenate([rows, new_rows], axis=1)
    all_best = np.concatenate([best, new_best], axis=1)
    order = np.lexsort((all_rows, -all_best))[:, :k]
    return np.take_along_axis(all_rows, order, axis=1), np.take_along_axis(all_best, order, axis=1)


def merge(ids: AnyArray, values: F32, k: int) -> tuple[AnyArray, F32]:
    """Merge the answers of several shards for one query: at most k distinct (id, score) in the tie order.

    ids: int64, str or object [m], already without padding; values: float32 [m]. An id that appears more than once keeps
    its best score, and duplicates go before the cut, so that they never cost a place.
    """
    if len(ids) == 0:
        return ids, values
    order = np.lexsort((ids, -values))
    ids, values = ids[order], values[order]
    _, first = np.unique(ids, return_index=True)
    if len(first) < len(ids):
        first.sort()
        ids, values = ids[first], values[first]
    return ids[:k], values[:k]


def recall(found_scores: F32, true_scores: F32, *, tolerance: float = 1e-5) -> float:
    """Tie-aware recall: the share of the true answers whose score the found answers reach.

    found_scores float32 [q, k], *recomputed exactly by the caller*, -inf where nothing was found; true_scores float32
    [q, k] of exact search, -inf where fewer than k exist. A found entry counts when its score is at least the k-th true
    score, less `tolerance` times its size, which absorbs float rounding.
    """
    exists = np.isfinite(true_scores)
    wanted = exists.sum(axis=1)
    if wanted.sum() == 0:
        return 1.0
    threshold = np.where(exists, true_scores, np.inf).min(axis=1)
    slack = tolerance * np.maximum(1.0, np.abs(threshold))
    hits = (found_scores >= (threshold - slack)[:, None]).sum(axis=1)
    return float(np.minimum(hits, wanted).sum() / wanted.sum())
