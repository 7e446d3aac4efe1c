"""The kernel in numpy: same signatures, same bits. Slow and short, to say what the native code must do.

float sums: 16 lanes, lane j adds products 16 i + j in order of i, then the lanes are folded 16 -> 8 -> 4 -> 2 -> 1 by
adding the upper half to the lower; everything in float32, a missing element counts as zero. Graph search is in
`reference_walk`. Knows nothing about speed.
"""

from __future__ import annotations

import numpy as np

from retrieval.kernel import Codes
from retrieval.types import F16, F32, I32, NO_ROW, U8, AnyArray, Metric

_LANES = 16
_SPREAD, _ROUNDS = 4.5, 3


def score(vectors: F16 | F32, xq: F32, rows: I32, metric: Metric) -> F32:
    """Exact scores float32 [q, r] of the rows int32 [q, r]; -inf where -1."""
    out = np.full(rows.shape, -np.inf, dtype=np.float32)
    for i, wanted in enumerate(rows):
        present = wanted >= 0
        out[i, present] = _scores(vectors[wanted[present]], xq[i], metric)
    return out


def rescore(vectors: F16 | F32, xq: F32, candidates: I32, k: int, metric: Metric) -> tuple[I32, F32]:
    """The k best distinct candidates of each query, in the tie order, padded."""
    return _best_of([_distinct(line) for line in candidates], vectors, xq, k, metric)


def scan(
    vectors: F16 | F32,
    xq: F32,
    k: int,
    metric: Metric,
    *,
    allow: U8 | None = None,
    deleted: U8 | None = None,
    codes: Codes | None = None,
) -> tuple[I32, F32, int]:
    """The exact k best eligible rows; codes change nothing."""
    rows = np.flatnonzero(eligible(len(vectors), allow, deleted)).astype(np.int32)
    return *_best_of([rows] * len(xq), vectors, xq, k, metric), len(rows) * len(xq)


def eligible(n: int, allow: U8 | None, deleted: U8 | None) -> AnyArray:
    """bool [n]: allowed and not deleted."""
    yes = np.ones(n, dtype=np.bool_)
    if allow is not None:
        yes &= np.unpackbits(allow, count=n, bitorder="little").astype(np.bool_)
    if deleted is not None:
        yes &= ~np.unpackbits(deleted, count=n, bitorder="little").astype(np.bool_)
    return yes


def _distinct(candidates: I32) -> I32:
    return np.unique(candidates[candidates >= 0])


def _best_of(rows: list[I32], vectors: F16 | F32, xq: F32, k: int, metric: Metric) -> tuple[I32, F32]:
    out_rows = np.full((len(xq), k), NO_ROW, dtype=np.int32)
    out_scores = np.full((len(xq), k), -np.inf, dtype=np.float32)
    for i, mine in enumerate(rows):
        values = _scores(vectors[mine], xq[i], metric)
        order = np.lexsort((mine, -values))[:k]
        out_rows[i, : len(order)], out_scores[i, : len(order)] = mine[order], values[order]
    return out_rows, out_scores


def _scores(x: AnyArray, query: F32, metric: Metric) -> F32:
    with np.errstate(all="ignore"):
        x = _lanes(x.astype(np.float32))
        query = _lanes(query[None, :])
        sums = np.zeros((len(x), _LANES), dtype=np.float32)
        for i in range(x.shape[1]):
            if metric is Metric.L2:
                difference = query[:, i] - x[:, i]
                sums += difference * difference
            else:
                sums += x[:, i] * query[:, i]
        while sums.shape[1] > 1:
            half = sums.shape[1] // 2
            sums = sums[:, :half] + sums[:, half:]
        total = sums[:, 0]
        total = np.float32(0) - total if metric is Metric.L2 else total + np.float32(0)
    return np.asarray(np.where(np.isnan(total), -np.inf, total), dtype=np.float32)


def _lanes(x: F32) -> F32:
    steps = -(-x.shape[1] // _LANES)
    return np.pad(x, ((0, 0), (0, steps * _LANES - x.shape[1]))).reshape(len(x), steps, _LANES)


# ---- codes ----------------------------------------------------------------------------------------------


def rotate(x: F32, seed: int) -> F32:
    """x float32 [m, d] rotated into [m, w]: three times (random signs, Hadamard blocks, transposition)."""
    m, d = x.shape
    w = -(-d // 64) * 64
    block = 64
    while w % (2 * block) == 0:
        block *= 2
    norm = np.float32(1) / np.sqrt(np.float32(block))
    out = np.pad(x, ((0, 0), (0, w - d)))
    signs = _signs(seed, _ROUNDS * w).reshape(_ROUNDS, w)
    for sign in signs:
        out = (out * (sign * norm)).reshape(m, w // block, block)
        half = 1
        while half < block:
            pairs = out.reshape(m, w // block, block // (2 * half), 2, half)
            a, b = pairs[..., 0, :], pairs[..., 1, :]
            out = np.stack([a + b, a - b], axis=-2).reshape(m, w // block, block)
            half *= 2
        out = out.transpose(0, 2, 1).reshape(m, w)
    return out


def _signs(seed: int, count: int) -> F32:
    with np.errstate(over="ignore"):
        x = np.uint64(seed) * np.uint64(0x2545F4914F6CDD1D) + np.arange(count, dtype=np.uint64)
        x = x + np.uint64(0x9E3779B97F4A7C15)  # splitmix64
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return np.asarray(np.where(x & np.uint64(1), -1, 1), dtype=np.float32)


def unit_scale(w: int) -> np.float32:
    """Half the step of a unit vector's code of width w."""
    step: np.float32 = np.float32(_SPREAD) / (np.float32(256) * np.sqrt(np.float32(w)))
    return step


def encode(vectors: F16 | F32, metric: Metric, *, unit: bool, seed: int) -> tuple[Codes, float]:
    """Codes of vectors, and the root of the mean squared error relative to the mean squared norm."""
    x = vectors.astype(np.float32)
    w = -(-x.shape[1] // 64) * 64
    one = unit_scale(w)
    squared = np.einsum("nd,nd->n", x, x, dtype=np.float64)
    scale = np.full(len(x), one) if unit else one * np.sqrt(squared).astype(np.float32)
    with np.errstate(divide="ignore"):
        inverse = np.where(scale > 0, np.float32(0.5) / scale, np.float32(0))[:, None]
    at = rotate(x, seed) * inverse + np.float32(127.5)
    data = np.rint(np.clip(at, 0, 255)).astype(np.uint8)
    off = np.where(inverse > 0, at.astype(np.float64) - data, 0.0)
    errors = (off * off).sum(axis=1)
    relative = float(np.sqrt((errors * 4 * scale.astype(np.float64) ** 2).sum() / max(squared.sum(), 1e-300)))
    bias = (-squared).astype(np.float32) if metric is Metric.L2 else None
    largest = float(np.sqrt(errors.max())) if len(x) else 0.0
    return Codes(_split(data), None if unit else scale, bias, seed, largest), relative


def _split(codes: U8) -> U8:
    """Upper bits, then lower bits, of codes [n, w]; a byte holds those of coordinates 64 i + j and 64 i + 32 + j."""
    n, w = codes.shape
    pairs = codes.reshape(n, w // 64, 2, 32)
    halves = np.stack([pairs >> 4, pairs & 15], axis=1)
    return np.asarray(halves[..., 0, :] | halves[..., 1, :] << 4, dtype=np.uint8).reshape(n, w)
