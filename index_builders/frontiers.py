"""Part of stage 4, verify: the frontier without filters, for every set of queries, to the 10, 100 and 1,000 best.

Real queries and perturbed items find different recalls at the same effort: where both are there both are kept, and the
first set decides on the default effort. Knows nothing about stores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from index_builders import verify
from index_builders.deep import with_recall_at_1000
from index_builders.queries import QuerySet
from retrieval.params import SearchParams
from retrieval.store.manifest import FrontierPoint
from retrieval.types import Metric

DEEP_SHARE, DEEP_LEAST_S = 0.1, 1.0  # of the time since the build began, for recall@1000


def measure_frontiers(
    parts: Sequence[verify.Part],
    sets: Sequence[QuerySet],
    metric: Metric,
    ladder: Sequence[SearchParams],
    *,
    target_recall: float,
    began: float,
    deep: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[verify.Measured, list[FrontierPoint]]:
    """What `verify.measure` found for the first set, with recall@1000, and the points of all sets, the first's first.

    began: `time.perf_counter()` at the start of the work whose time bounds that of recall@1000; deep: find it at all.
    """
    found: list[verify.Measured] = []
    points: list[FrontierPoint] = []
    for each in sets:
        measured = verify.measure(
            parts,
            each.xq,
            metric,
            ladder,
            target_recall=target_recall,
            query_kind=each.kind,
            progress=progress,
        )
        if deep:
            budget_s = max(DEEP_LEAST_S, DEEP_SHARE * (time.perf_counter() - began))
            points += with_recall_at_1000(measured.frontier, parts, each.xq, metric, ladder, budget_s=budget_s)
        else:
            points += measured.frontier
        found.append(measured)
    return found[0], points
