"""What became of one entity inside one shard: held, allowed, its exact rank, and where an approximate search lost it.

The exact rank comes from scoring every allowed row, which takes as long as an exact search. Knows nothing about the
merge, crowding or the verdict that follows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retrieval.indexes import ShardIndex
from retrieval.params import IvfpqSearch, SearchParams
from retrieval.serving.filtering.bitmaps import Allowed
from retrieval.serving.ranked_rows import Hits
from retrieval.serving.rows import RowIds
from retrieval.types import F32, I32, NO_ROW, AnyArray

_SCORED_AT_ONCE = 65_536


@dataclass(frozen=True, kw_only=True)
class ShardExplanation:
    """One shard's part of an explanation; ranks count from 1.

    rank: exact, among the allowed rows of the shard, also of a score that another shard's entity has; list_rank,
    nprobe: of the entity's inverted list, and how many lists were visited; approximate_rank: by the compressed codes,
    None where it was not seen; pool: candidates rescored exactly. The last four are None where nothing was probed.
    """

    shard: str
    held: bool
    shard_k: int
    allowed: bool = False
    score: float = 0.0
    rank: int = 0
    row: int | None = None
    returned: bool = False
    list_rank: int | None = None
    nprobe: int | None = None
    approximate_rank: int | None = None
    pool: int | None = None


def explain_shard(
    name: str,
    index: ShardIndex,
    rows: RowIds,
    allowed: Allowed | None,
    hits: Hits,
    xq: F32,
    ids: AnyArray,
    row: int,
    k: int,
    params: SearchParams,
    score: float | None,
) -> ShardExplanation:
    """Follow the entity ids [1], in row `row` or NO_ROW, through the search for one query [1, d] that gave `hits`."""
    every = _allowed_rows(index.n, allowed)
    if row == NO_ROW:
        rank = 0 if score is None else 1 + _before(index, rows, xq, every, np.float32(score), ids)
        return ShardExplanation(shard=name, held=False, shard_k=k, rank=rank)
    own = index.score(xq, np.array([[row]], np.int32))[0, 0]
    if allowed is not None and not allowed.bits[row >> 3] >> (row & 7) & 1:
        return ShardExplanation(shard=name, held=True, shard_k=k, score=float(own), row=row)
    trace = None
    if isinstance(params, IvfpqSearch):
        from retrieval.indexes.ivfpq import IvfpqIndex  # needs faiss, which other kinds do not

        assert isinstance(index, IvfpqIndex)
        trace = index.trace(xq, row, k, params, allow=None if allowed is None else allowed.bits)
    return ShardExplanation(
        shard=name,
        held=True,
        shard_k=k,
        allowed=True,
        score=float(own),
        rank=1 + _before(index, rows, xq, every, own, ids),
        row=row,
        returned=bool((hits.rows == row).any()),
        list_rank=trace.list_rank if trace else None,
        nprobe=trace.nprobe if trace else None,
        approximate_rank=trace.approximate_rank if trace else None,
        pool=trace.pool if trace else None,
    )


def _allowed_rows(n: int, allowed: Allowed | None) -> I32:
    if allowed is None:
        return np.arange(n, dtype=np.int32)
    return np.flatnonzero(np.unpackbits(allowed.bits, count=n, bitorder="little")).astype(np.int32)


def _before(index: ShardIndex, rows: RowIds, xq: F32, every: I32, score: np.float32, ids: AnyArray) -> int:
    """How many of the rows rank before an entity of this score and id."""
    count = 0
    for first in range(0, len(every), _SCORED_AT_ONCE):
        part = every[first : first + _SCORED_AT_ONCE]
        scores = index.score(xq, part[None])[0]
        tied = part[scores == score]
        count += int((scores > score).sum()) + int((rows.ids(tied) < ids[0]).sum())
    return count
