"""The best rows of one shard for a query: filtered, crowded, in the tie order (score descending, id ascending).

The index chooses between an exact scan of the allowed rows and its own search by their count. Crowding looks further
down the ranking, leaving out the rows of values that have had their share, until k rows are left or there are no more;
a search that would take many rounds scores all rows once instead. Knows nothing about columns, other shards or texts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from retrieval.errors import DamagedData
from retrieval.indexes import ShardIndex
from retrieval.params import MAX_K, SearchParams
from retrieval.serving.filtering.bitmaps import Allowed, RowFilters, crowd_ranks
from retrieval.serving.filtering.filters import Crowding
from retrieval.serving.rows import RowIds
from retrieval.types import F32, I32, I64, NO_ROW, AnyArray, Bool, Neighbors

_ROUNDS = 4  # searches before all rows are scored: each looks four times as far
_SCORED_AT_ONCE = 65_536


@dataclass(frozen=True, kw_only=True)
class Hits:
    """A shard's answer to q queries, the padding taken off and the queries laid end to end.

    ids: int64 [m] or object [m] of str; rows: int32 [m]; scores: float32 [m]; bounds: int64 [q + 1], query i has the
    hits bounds[i] to bounds[i + 1], best first. There may be more than k, so that the merge can cut a tie by id.
    matches: rows of the shard that the filter allows, None without one; crowd: the crowding column's value per hit [m].
    """

    ids: AnyArray
    rows: I32
    scores: F32
    bounds: I64
    matches: int | None = None
    crowd: pa.Array | None = None


class RankedRows:
    """Searches of one shard's index among the rows that a filter allows; None allows all."""

    def __init__(
        self, name: str, index: ShardIndex, rows: RowIds, filters: RowFilters, allowed: Allowed | None
    ) -> None:
        self._name, self._index, self._rows, self._filters = name, index, rows, filters
        self._allowed = allowed
        self._count = index.n if allowed is None else allowed.count

    def search(self, xq: F32, k: int, params: SearchParams, crowding: Crowding | None) -> Hits:
        """The k best allowed rows for each of xq [q, d], at most `crowding.at_most` for each of its column's values."""
        matches = None if self._allowed is None else self._count
        if crowding is not None:
            rows, scores, bounds = self._crowded(xq, k, params, crowding)
        elif self._count == 0:
            rows, scores, bounds = np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(len(xq) + 1, np.int64)
        else:
            rows, scores, bounds = _flat(self._best(xq, min(k, self._count), params))
        if not np.isfinite(scores).all():
            raise DamagedData(f"{self._name} gave a score that is not a finite number")
        crowd = None if crowding is None else self._rows.take(rows, [crowding.column])[crowding.column]
        return Hits(ids=self._rows.ids(rows), rows=rows, scores=scores, bounds=bounds, matches=matches, crowd=crowd)

    def _best(self, xq: F32, k: int, params: SearchParams) -> Neighbors:
        # an index breaks ties by row; where that is not the order of ids, an answer must not be cut inside a tie
        bits = None if self._allowed is None else self._allowed.bits
        most = min(self._count, MAX_K)
        if self._rows.ascending or k == most:
            return self._index.search(xq, k, params, allow=bits)
        found = self._index.search(xq, k + 1, params, allow=bits)
        if not _tied(found, k):
            return Neighbors(rows=found.rows[:, :k], scores=found.scores[:, :k], work=found.work)
        width = k + 1
        while _tied(found, k) and width < most:
            width = min(2 * width, most)
            found = self._index.search(xq, width, params, allow=bits)
        beyond = found.scores < found.scores[:, k - 1 : k]
        return Neighbors(rows=np.where(beyond, NO_ROW, found.rows), scores=found.scores, work=found.work)

    def _crowded(self, xq: F32, k: int, params: SearchParams, crowding: Crowding) -> tuple[I32, F32, I64]:
        codes = self._filters.crowd_codes(crowding.column)
        parts = [self._crowded_one(xq[i : i + 1], k, params, codes, crowding.at_most) for i in range(len(xq))]
        sizes = [len(rows) for rows, _ in parts]
        rows, scores = (np.concatenate(each) for each in zip(*parts, strict=True))
        return rows, scores, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def _crowded_one(self, xq: F32, k: int, params: SearchParams, codes: I32, at_most: int) -> tuple[I32, F32]:
        left = self._flags()  # allowed, neither found yet nor of a value that has had its share
        rows, scores = np.zeros(0, np.int32), np.zeros(0, np.float32)
        width = k
        for _ in range(_ROUNDS):
            remaining = int(np.count_nonzero(left))
            if remaining == 0:
                return rows[:k], scores[:k]
            width = min(width, remaining, MAX_K)
            bits = None if remaining == self._index.n else np.packbits(left, bitorder="little")
            found = self._index.search(xq, width, params, allow=bits)
            new, new_scores, _ = _flat(found)
            if len(new) == remaining or self._rows.ascending:
                whole = np.ones(len(new), bool)
            else:  # the last score may go on beyond the cut, with smaller ids
                whole = new_scores > new_scores[-1]
            rows, scores = np.concatenate([rows, new[whole]]), np.concatenate([scores, new_scores[whole]])
            rows, scores = self._kept(rows, scores, codes, at_most)
            if len(rows) >= k:
                return rows[:k], scores[:k]
            left[new[whole]] = False
            full = np.bincount(codes[rows][codes[rows] >= 0], minlength=int(codes.max(initial=-1)) + 1) >= at_most
            if full.any():
                left &= ~((codes >= 0) & full[codes])
            width *= 4
        every = np.flatnonzero(self._flags()).astype(np.int32)
        parts = [every[first : first + _SCORED_AT_ONCE] for first in range(0, len(every), _SCORED_AT_ONCE)]
        every_score = np.concatenate([self._index.score(xq, part[None])[0] for part in parts])
        rows, scores = self._kept(every, every_score, codes, at_most)
        return rows[:k], scores[:k]

    def _kept(self, rows: I32, scores: F32, codes: I32, at_most: int) -> tuple[I32, F32]:
        """Rows in the tie order, less those whose value has `at_most` better ones."""
        place = rows if self._rows.ascending else self._rows.places(rows)
        order = np.lexsort((place, -scores))
        order = order[crowd_ranks(codes[rows[order]]) < at_most]
        return rows[order], scores[order]

    def _flags(self) -> Bool:
        if self._allowed is None:
            return np.ones(self._index.n, bool)
        return np.unpackbits(self._allowed.bits, count=self._index.n, bitorder="little").astype(bool)


def _flat(found: Neighbors) -> tuple[I32, F32, I64]:
    """Rows, scores and bounds without the padding."""
    q, width = found.rows.shape
    if NO_ROW not in found.rows[:, -1].tolist():  # padding is a tail, so its last column tells
        return found.rows.reshape(-1), found.scores.reshape(-1), np.arange(0, q * width + 1, width)
    kept = found.rows != NO_ROW
    return found.rows[kept], found.scores[kept], np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int64)


def _tied(found: Neighbors, k: int) -> bool:
    """Whether for some query the last candidate, beyond the k-th, still has the k-th's score."""
    last, cut = found.scores[:, -1].tolist(), found.scores[:, k - 1].tolist()
    return any(a == b and a != -math.inf for a, b in zip(last, cut, strict=True))
