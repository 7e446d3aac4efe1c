"""What an answer is worth, computed here from the ids alone: no engine reports its own recall.

Exact inner products of the returned rows are held against the true k-th score (tie-aware, as `retrieval.topk.recall`).
An id returned twice counts once, an id that no row has counts not at all, and both are counted, as are missing answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retrieval.types import F32, I64

_TOLERANCE = 1e-6  # a few roundings of float32: the true scores have them, those here are sums in float64


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """recall float32 [q]; missing: places left empty although that many rows exist; duplicates and unknown: ids."""

    recall: F32
    missing: int
    duplicates: int
    unknown: int


def judge(xb: F32, xq: F32, ids: I64, true: F32) -> Judgement:
    """Judge ids int64 [q, k] (-1: no answer) of queries [q, d] over rows [n, d] against true scores [q, min(k, n)]."""
    n, wanted = len(xb), true.shape[1]
    recall = np.empty(len(xq), np.float32)
    missing = duplicates = unknown = 0
    for i, line in enumerate(ids):
        present = line[line != -1]
        known = present[(present >= 0) & (present < n)]
        distinct = np.unique(known)
        unknown += len(present) - len(known)
        duplicates += len(known) - len(distinct)
        missing += max(0, wanted - len(distinct))
        threshold = true[i, -1]
        scores = xb[distinct].astype(np.float64) @ xq[i].astype(np.float64)
        reached = scores >= threshold - _TOLERANCE * max(1.0, abs(float(threshold)))
        recall[i] = min(int(reached.sum()), wanted) / wanted
    return Judgement(recall=recall, missing=missing, duplicates=duplicates, unknown=unknown)
