"""From two sizes of a sample to the size of a shard: latency and recall.

Latency is fitted as c0 + c1 * n ** b with the kind's own exponent: a scan reads every row (b = 1), inverted lists grow
as the root of the rows in number and in length (b = 1/2), and a graph's walk grows slower than any root (b = 0.22, as
measured for its insertions). The share of missed neighbours is taken to grow by the same factor for each doubling of
rows as between the two sizes, up to a bound per kind, since small samples overstate it: the 100 best are a large part
of them. Both are guesses, which the real build is held against afterwards.
"""

from __future__ import annotations

import math

from index_builders.estimate import GROWTH
from retrieval.types import IndexKind

EXPONENT = {IndexKind.FLAT: 1.0, IndexKind.IVFPQ: 0.5, IndexKind.HNSW: GROWTH}
# Of missed neighbours for each doubling of rows, measured from 16,384 to 100,000 rows of 128 d: a graph's 0.025 became
# 0.082 (1.58 for each doubling) at ef 100, those of inverted lists 0.0227 became 0.033 (1.15) at nprobe 64.
MOST_GROWTH = {IndexKind.FLAT: 1.0, IndexKind.IVFPQ: 1.15, IndexKind.HNSW: 1.6}


def latency(kind: IndexKind, small: tuple[int, float], large: tuple[int, float], rows: int) -> float:
    """Latency at `rows` rows from two measured (rows, latency); never less than that of the larger measured size."""
    (n1, t1), (n2, t2) = small, large
    if rows <= n2 or n1 == n2:
        return t2
    b = EXPONENT[kind]
    slope = max(0.0, t2 - t1) / (math.pow(n2, b) - math.pow(n1, b))
    fixed = t2 - slope * math.pow(n2, b)
    if fixed < 0:  # it grew faster than its exponent, so nothing of it is fixed
        return t2 * math.pow(rows / n2, b)
    return fixed + slope * math.pow(rows, b)


def recall(kind: IndexKind, small: tuple[int, float], large: tuple[int, float], rows: int, *, answers: int) -> float:
    """Recall at `rows` rows from two measured (rows, recall); answers: neighbours that each recall was counted over."""
    (n1, r1), (n2, r2) = small, large
    if rows <= n2 or n1 == n2 or r1 == r2 == 1.0:
        return r2
    least = 0.5 / answers  # a miss too rare to be seen
    missed1, missed2 = max(1 - r1, least), max(1 - r2, least)
    doublings = math.log2(n2 / n1)
    growth = min(max(math.pow(missed2 / missed1, 1 / doublings), 1.0), MOST_GROWTH[kind])
    return min(r2, max(0.0, 1 - missed2 * math.pow(growth, math.log2(rows / n2))))
