"""The one interface that every shard index has, whatever its kind.

A batch in, a padded batch out, exact scores, the tie order of `retrieval.topk`. Search parameters come with the call;
an index has no state that a search changes, so one index serves any number of threads.
"""

from __future__ import annotations

from typing import Protocol

from retrieval.params import SearchParams
from retrieval.types import F32, I32, U8, IndexKind, Metric, Neighbors


class ShardIndex(Protocol):
    """One opened shard: n rows of d dimensions."""

    kind: IndexKind
    metric: Metric
    n: int
    d: int

    def search(self, xq: F32, k: int, params: SearchParams, *, allow: U8 | None = None, threads: int = 1) -> Neighbors:
        """Nearest rows of each query.

        xq: float32 [q, d], checked by the caller to be finite (and unit length for cosine); k in 1..MAX_K.
        allow: uint8 [ceil(n / 8)], bit r (least significant first) set where row r may be returned; None allows all.
        Scores are exact over the stored vectors. Fewer than k rows leave a padded tail.
        """
        ...

    def score(self, xq: F32, rows: I32) -> F32:
        """Exact scores float32 [q, r] of the rows int32 [q, r]; -inf where a row is NO_ROW."""
        ...
