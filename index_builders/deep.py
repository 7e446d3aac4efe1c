"""Part of stage 4, verify: recall of the 1,000 best, for every effort of the ladder.

A search for ten times as many neighbours takes a pool ten times as large (`retrieval.params.widened`, the rule by which
a server spends an effort on a larger k), so that is what each effort is measured with here. Few queries and a bounded
time: efforts that it does not reach, the dearest first, keep no figure. Knows nothing about stores.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from index_builders.verify import K, Part, Run, best, rescored
from retrieval import topk
from retrieval.indexes import open_index
from retrieval.params import SearchParams, widened
from retrieval.store.manifest import FrontierPoint
from retrieval.types import F32, Metric

DEEP_K, QUERIES = 1_000, 50


def with_recall_at_1000(
    points: Sequence[FrontierPoint],
    parts: Sequence[Part],
    xq: F32,
    metric: Metric,
    ladder: Sequence[SearchParams],
    *,
    budget_s: float,
) -> list[FrontierPoint]:
    """The points, one for each effort of the ladder, with recall_at_1000 for queries xq [q, d] where time allowed it.

    Every shard is searched, one after another. Where a build has fewer than 1,000 rows it is the recall of all of them.
    """
    ends = time.perf_counter() + budget_s
    xq = xq[:QUERIES]
    k = min(DEEP_K, sum(part.rows for part in parts))
    efforts = [widened(params, DEEP_K / K) for params in ladder]
    runs = [Run(len(xq), k) for _ in ladder]
    reached = len(ladder)  # efforts that were measured in every shard so far
    truth: F32 = np.empty((len(xq), 0), dtype=np.float32)
    for part in parts:
        index, exact, order = open_index(part.kind, part.path), part.exact(), part.order()
        truth = best(np.concatenate([truth, topk.exact_search(xq, exact, k, metric)[1]], axis=1), k)
        for number in range(reached):
            for i in range(len(xq)):
                if time.perf_counter() > ends:
                    break
                found = index.search(xq[i : i + 1], k, efforts[number])
                runs[number].take(i, found.scores[0], rescored(xq[i], found.rows[0], exact, order, metric))
            else:
                runs[number].merge(k)
                continue
            reached = number
            break
    recalls = [run.recall(truth) for run in runs[:reached]]
    known = [point.model_copy(update={"recall_at_1000": r}) for point, r in zip(points[:reached], recalls, strict=True)]
    return [*known, *points[reached:]]
