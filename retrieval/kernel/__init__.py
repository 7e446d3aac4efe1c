"""The search kernel: exact scores, exact scans and graph search over memory-mapped arrays, in C++, the GIL released.

Every float score has one summation order (see `reference.py`), so a row's score has the same bits at every instruction
level and on every path; answers follow the tie rule (score descending, then row ascending) and are padded with row -1
and score -inf. Bitmaps are uint8 [ceil(n / 8)], least significant bit first (`numpy.packbits(..., bitorder="little")`).
Nothing here keeps state between calls, but for a graph's idle buffers. Knows nothing about files, ids or shards.

level: an instruction level of `levels()`, or None for the best of this machine; it changes speed, never results.
"""

from __future__ import annotations

import numpy as np

from retrieval.errors import InvalidArgument
from retrieval.kernel import _native
from retrieval.kernel.codes import Codes, code_width, encode, sentence
from retrieval.kernel.graph import Graph, answer
from retrieval.types import F16, F32, I32, I64, NO_ROW, U8, U32, Metric

__all__ = [
    "Codes",
    "Graph",
    "bitmap",
    "code_width",
    "count_rows",
    "encode",
    "levels",
    "rescore",
    "scan",
    "scan_is_cheaper",
    "score",
    "spread",
]

# A walk of the graph computes about this many distances for each entry of its pool (measured: bench/LOG.md, "kernel").
DISTANCES_PER_POOL_ENTRY = 12.0


def levels() -> list[str]:
    """Names of the instruction levels that this machine offers, best first; "plain" is always the last."""
    return _native.levels()


def bitmap(rows: I32 | I64, n: int) -> U8:
    """The bitmap uint8 [ceil(n / 8)] in which exactly these rows of 0..n-1 are set."""
    flags = np.zeros(n, dtype=np.bool_)
    flags[rows] = True
    return np.packbits(flags, bitorder="little")


def count_rows(n: int, *, allow: U8 | None = None, deleted: U8 | None = None) -> int:
    """How many of n rows are allowed and not deleted."""
    return _native.count(allow, deleted, n)


def scan_is_cheaper(n: int, eligible: int, pool: int) -> bool:
    """Whether scanning the `eligible` rows of n takes less time than walking the graph for them.

    A walk that is to meet `pool` eligible rows needs a pool of pool * n / eligible, hence about
    DISTANCES_PER_POOL_ENTRY * pool * n / eligible distances; the scan needs `eligible`. They meet where
    eligible = sqrt(DISTANCES_PER_POOL_ENTRY * pool * n).
    """
    return eligible * eligible <= DISTANCES_PER_POOL_ENTRY * pool * n


def score(vectors: F16 | F32, xq: F32, rows: I32, metric: Metric, *, threads: int = 1, level: str | None = None) -> F32:
    """Exact scores float32 [q, r] of the rows int32 [q, r] of vectors [n, d] for queries float32 [q, d]; -inf where -1.

    Raises InvalidArgument for a row outside -1..n-1 or arrays that do not fit each other.
    """
    out = np.empty(rows.shape, dtype=np.float32)
    try:
        _native.score(vectors, xq, rows, out, metric is Metric.L2, threads, level or "")
    except (ValueError, TypeError) as error:
        raise InvalidArgument(sentence(error)) from None
    return out


def rescore(
    vectors: F16 | F32,
    xq: F32,
    candidates: I32,
    k: int,
    metric: Metric,
    *,
    threads: int = 1,
    level: str | None = None,
) -> tuple[I32, F32]:
    """The k best of each query's candidates by exact score: (rows int32 [q, k], scores float32 [q, k]).

    candidates: int32 [q, c], -1 for none; one that appears twice counts once. Raises InvalidArgument for a candidate
    outside -1..n-1 or arrays that do not fit each other.
    """
    rows, scores = answer(len(xq), k)
    try:
        _native.rescore(vectors, xq, candidates, rows, scores, metric is Metric.L2, threads, level or "")
    except (ValueError, TypeError) as error:
        raise InvalidArgument(sentence(error)) from None
    return rows, scores


def spread(neighbors: U32, sources: U32) -> tuple[U32, U32]:
    """Walk an adjacency uint32 [n, width] breadth first from all sources at once: (owner uint32 [n], order uint32 [n]).

    owner: index of the source whose walk met the row first; order: the rows as they were met. Rows that no source
    reaches come last and belong to the first source.
    """
    owner, order = np.empty(len(neighbors), dtype=np.uint32), np.empty(len(neighbors), dtype=np.uint32)
    _native.spread(neighbors, sources, owner, order)
    return owner, order


def scan(
    vectors: F16 | F32,
    xq: F32,
    k: int,
    metric: Metric,
    *,
    allow: U8 | None = None,
    deleted: U8 | None = None,
    codes: Codes | None = None,
    threads: int = 1,
    level: str | None = None,
) -> tuple[I32, F32, int]:
    """The exact k best of the eligible rows: (rows int32 [q, k], scores float32 [q, k], distances computed).

    With codes, only the rows that the codes' error bound cannot rule out are scored on the vectors; the answer is the
    same. Raises InvalidArgument for arrays that do not fit each other.
    """
    rows, scores = answer(len(xq), k)
    c = codes
    try:
        distances = _native.scan(
            vectors,
            xq,
            rows,
            scores,
            metric is Metric.L2,
            allow,
            deleted,
            c.data if c else None,
            c.scale if c else None,
            c.bias if c else None,
            c.seed if c else 0,
            c.error if c else 0.0,
            threads,
            level or "",
        )
    except (ValueError, TypeError) as error:
        raise InvalidArgument(sentence(error)) from None
    return rows, scores, distances


assert NO_ROW == -1  # what the native code pads with
