"""Effort as a promise: the cheapest measured effort that keeps a wanted recall inside the time that is left.

What cannot be kept is said, with both figures. Under pressure efforts are lowered to ones whose recall was measured;
where nothing was measured nothing is lowered. Pure functions over a frontier; knows nothing about clocks or queues.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from retrieval.params import IvfpqSearch, SearchParams
from retrieval.serving.effort.frontier import Point

RECALL, DEADLINE = "recall", "deadline"


@dataclass(frozen=True, kw_only=True)
class Picked:
    """An effort, the recall it stands for (None: not measured), the bound that gave way ("" for none), and why."""

    params: SearchParams
    recall: float | None
    gave_way: str = ""
    reasons: tuple[str, ...] = ()


def pick(points: Sequence[Point], min_recall: float, k: int, *, time_ms: float | None = None) -> Picked | None:
    """The cheapest effort that reaches `min_recall` for the best k and whose 95th percentile fits `time_ms`.

    points: measured in the call's filter band. Beyond the k that was measured the recall at 100 chooses, and none is
    stated. Where both bounds cannot be kept: the best effort that fits the time, with "recall"; where none fits, the
    cheapest, with "deadline". None when nothing was measured.
    """
    if not points:
        return None
    time_ms = math.inf if time_ms is None else time_ms
    spent = sorted((point.for_k(k) for point in points), key=lambda point: point.p50_ms)
    reaching = [point for point in spent if _recall(point, k) >= min_recall]
    fitting = [point for point in spent if point.p95_ms <= time_ms]
    both = [point for point in reaching if point.p95_ms <= time_ms]
    reasons: tuple[str, ...] = ()
    deep = [point for point in points if point.recall(k) is not None]
    if len(deep) < len(points):
        which = "some efforts" if deep else "the best 100"
        reasons = (f"recall was measured for {which} only: for k = {k:,} the effort grew in proportion",)
    if both:
        return Picked(params=both[0].params, recall=both[0].recall(k), reasons=reasons)
    asked = f"recall {min_recall:.4g} was asked for"
    if not fitting:
        chosen = min(spent, key=lambda point: point.p95_ms)
        reason = (
            f"{asked} and {max(time_ms, 0):.3g} ms were left: no measured effort fits, the cheapest takes "
            f"{chosen.p95_ms:.3g} ms (95th percentile) and stands for recall {_recall(chosen, k):.4f}"
        )
        return Picked(params=chosen.params, recall=chosen.recall(k), gave_way=DEADLINE, reasons=(*reasons, reason))
    chosen = max(fitting, key=lambda point: _recall(point, k))
    if reaching:
        reason = (
            f"{asked}, which takes {reaching[0].p95_ms:.3g} ms (95th percentile), and {time_ms:.3g} ms were left: "
            f"recall {_recall(chosen, k):.4f} is expected"
        )
    else:
        reason = f"{asked}: recall {_recall(chosen, k):.4f} is the most that an effort in time was measured to reach"
    return Picked(params=chosen.params, recall=chosen.recall(k), gave_way=RECALL, reasons=(*reasons, reason))


def lowered(points: Sequence[Point], params: SearchParams, k: int, *, floor: float, rescore_only: bool) -> Point | None:
    """The cheapest measured effort below `params` whose recall for the best k is at least `floor`; None without one.

    rescore_only: only the number of rescored candidates may fall, which only IVF-PQ has.
    """
    now = next((point for point in points if point.for_k(k).params == params), None)
    if now is None:
        return None
    cheaper = [point for point in points if point.p50_ms < now.p50_ms and _recall(point, k) >= floor]
    if rescore_only:
        cheaper = [point for point in cheaper if _rescores_less(point.params, now.params)]
    return min(cheaper, key=lambda point: point.p50_ms, default=None)


def _recall(point: Point, k: int) -> float:
    measured = point.recall(k)
    if measured is not None:
        return measured
    return point.recall_at_10 if k <= 10 else point.recall_at_100


def _rescores_less(less: SearchParams, more: SearchParams) -> bool:
    if not isinstance(less, IvfpqSearch) or not isinstance(more, IvfpqSearch):
        return False
    return less.nprobe == more.nprobe and less.rescore < more.rescore
