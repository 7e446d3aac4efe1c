"""The measured frontier of one generation, as the server reads it: effort -> recall and latency, per filter band.

Between two measured bands the worse of both figures holds, so nothing is stated that was not measured on one side.
Recall was measured for the 10 and the 100 best: for k to 10 the first counts, for k to 100 the second; beyond that a
candidate pool and its time grow with k / 100. With a tenfold pool it may have been measured for the 1,000 best too: up
to there the worse of both holds; further on none is stated. Figures of real queries count before those of perturbed
items. Knows nothing about calls or shards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from retrieval.params import SEARCH_PARAMS, SearchParams, widened
from retrieval.store import Manifest
from retrieval.store.manifest import FILTER_BANDS, FrontierPoint
from retrieval.types import IndexKind

MEASURED_K = 100  # the frontier is measured by searches for the 100 best
DEEP_K = 1_000  # and, with efforts widened to match, for so many
NO_FILTER = "none"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One effort: recall of the 10 and of the 100 best, and milliseconds of one query over all shards in sequence.

    What is cheap is told by p50_ms, which a busy machine disturbs little; what fits a deadline by p95_ms.
    """

    params: SearchParams
    recall_at_10: float
    recall_at_100: float
    p50_ms: float
    p95_ms: float
    recall_at_1000: float | None = None

    def recall(self, k: int) -> float | None:
        """Recall that stands for the best k at the effort `for_k` gives; None beyond what was measured."""
        if k > MEASURED_K:
            deep = self.recall_at_1000
            return None if deep is None or k > DEEP_K else min(deep, self.recall_at_100)
        return self.recall_at_10 if k <= 10 else self.recall_at_100

    def for_k(self, k: int) -> Point:
        """The effort that a search for k spends: beyond the measured k its pool and its time grow with it."""
        if k <= MEASURED_K:
            return self
        by = k / MEASURED_K
        return replace(self, params=widened(self.params, by), p50_ms=self.p50_ms * by, p95_ms=self.p95_ms * by)


class Frontier:
    """What the build measured of a generation whose shards are all of one kind; empty for others."""

    def __init__(self, manifest: Manifest) -> None:
        kinds = {shard.kind for shard in manifest.shards}
        self.kind: IndexKind | None = kinds.pop() if len(kinds) == 1 else None
        self._bands: list[tuple[float, list[Point]]] = []
        if self.kind is None:
            return
        cls = SEARCH_PARAMS[self.kind]

        def band_of(point: FrontierPoint) -> float:
            return 1.0 if point.filter_band is None else point.filter_band

        known = [point for point in preferred(manifest.frontier) if set(point.params) <= set(cls.model_fields)]
        for band, points in groupby(sorted(known, key=band_of, reverse=True), band_of):
            self._bands.append((band, [_point(point, cls, len(manifest.shards)) for point in points]))

    def points(self, share: float | None = None) -> list[Point]:
        """The efforts measured for a filter that allows this share of the rows (None: no filter), cheapest first.

        Below the narrowest band that was measured, that band stands; where none was, the frontier without a filter.
        """
        wanted = 1.0 if share is None else share
        wider = [points for band, points in self._bands if band >= wanted][-1:]
        narrower = [points for band, points in self._bands if band < wanted][:1]
        exact = any(band == wanted for band, _ in self._bands)
        sides = wider if share is None or exact else [*wider, *narrower]
        found = _worse(sides) if wider else []
        return sorted(found, key=lambda point: (point.p50_ms, point.recall_at_100))

    def has_bands(self) -> bool:
        """Whether efforts were measured under filters."""
        return any(band < 1 for band, _ in self._bands)


def preferred(points: Sequence[FrontierPoint]) -> list[FrontierPoint]:
    """The points to pick from: in each filter band those of real queries, where there are any, else all."""
    real = {point.filter_band for point in points if point.query_kind == "real"}
    return [point for point in points if point.filter_band not in real or point.query_kind == "real"]


def band_name(share: float | None) -> str:
    """The nearest filter band in words, by ratio: "none" without a filter, else such as "10 %"."""
    if share is None:
        return NO_FILTER
    nearest = min((1.0, *FILTER_BANDS), key=lambda band: abs(math.log(band) - math.log(max(share, 1e-9))))
    return f"{nearest * 100:g} %"


def _point(point: FrontierPoint, cls: type[SearchParams], shards: int) -> Point:
    scale = shards / min(point.shards or shards, shards)
    return Point(
        params=cls(**point.params),
        recall_at_10=point.recall_at_10,
        recall_at_100=point.recall_at_100,
        p50_ms=point.p50_ms * scale,
        p95_ms=point.p95_ms * scale,
        recall_at_1000=point.recall_at_1000,
    )


def _worse(sides: Sequence[Sequence[Point]]) -> list[Point]:
    """Efforts that were measured on all sides, each with the worst of its figures."""
    found = []
    for point in sides[0]:
        same = [other for side in sides for other in side if other.params == point.params]
        if len(same) < len(sides):
            continue
        found.append(
            Point(
                params=point.params,
                recall_at_10=min(other.recall_at_10 for other in same),
                recall_at_100=min(other.recall_at_100 for other in same),
                p50_ms=max(other.p50_ms for other in same),
                p95_ms=max(other.p95_ms for other in same),
                # bands are not measured that deep: a filtered call for more than 100 is told no recall
                recall_at_1000=_least([other.recall_at_1000 for other in same]),
            )
        )
    return found


def _least(recalls: Sequence[float | None]) -> float | None:
    known = [recall for recall in recalls if recall is not None]
    return min(known) if known and len(known) == len(recalls) else None
