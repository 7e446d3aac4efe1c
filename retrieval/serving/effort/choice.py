"""Which effort a call gets: what it asks for, what its time allows, what the pressure on the server leaves.

An explicit effort is kept as it is. Knows nothing about queues, gRPC or how shards are searched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from retrieval.errors import InvalidArgument, InvalidQuery, Overloaded
from retrieval.serving.calls import DEFAULT_EFFORT, TextQuery, Wanted
from retrieval.serving.effort.efforts import Chosen
from retrieval.serving.pressure import Ladder, Step
from retrieval.serving.rankings import Served
from retrieval.types import F32

_UNKNOWN = "how many rows the filter allows is not known, so the effort is that measured without a filter"
_RETRY_MS = 1_000  # the ladder takes about so long to go down a step


def check_min_recall(wanted: Wanted) -> None:
    """InvalidQuery for a wanted recall outside 0 to 1, or beside an explicit effort."""
    if wanted.min_recall is None:
        return
    if math.isnan(wanted.min_recall) or not 0 <= wanted.min_recall <= 1:
        raise InvalidQuery(f"min_recall {wanted.min_recall} is not acceptable: it is a share, 0 to 1")
    if wanted.effort != DEFAULT_EFFORT:
        raise InvalidQuery(
            f"min_recall {wanted.min_recall:.4g} and an explicit effort exclude each other: send one of them"
        )


@runtime_checkable
class _Cached(Protocol):
    def cached(self, texts: Sequence[str]) -> F32 | None: ...


def check_cached(texts: Sequence[str], tower: object, ladder: Ladder | None) -> None:
    """Overloaded for texts that are not all in the query cache, on the steps that encode nothing."""
    if ladder is None or not texts or ladder.step < Step.CACHED_ONLY:
        return
    if not isinstance(tower, _Cached) or tower.cached(texts) is None:
        raise Overloaded(
            f"brown-out step {ladder.step.label!r}: only texts in the query cache are answered now; come again in "
            f"{_RETRY_MS:,} ms, or send a vector",
            retry_after_ms=_RETRY_MS,
        )


def texts_of(queries: Sequence[object]) -> list[str]:
    """The texts among queries."""
    return [query.text for query in queries if isinstance(query, TextQuery)]


def choose(
    types: Sequence[Served], wanted: Wanted, queries: int, remaining_s: float | None, ladder: Ladder | None = None
) -> list[Chosen]:
    """The effort of each entity type. remaining_s: time left for all queries of all types, which share it equally."""
    step = Step.NONE if ladder is None else ladder.step
    chosen = []
    for served in types:
        efforts, k = served.efforts, wanted.k
        share = share_allowed(served, wanted)
        if wanted.min_recall is None:
            effort = efforts.choose(wanted.effort, k)
            if wanted.restriction.filter is not None:
                effort = efforts.in_band(effort, k, share) if share is not None else _unstated(effort)
        else:
            time_ms = None if remaining_s is None else 1e3 * remaining_s / (queries * len(types))
            effort = efforts.keep(wanted.min_recall, k, share=share, time_ms=time_ms)
            if wanted.restriction.filter is not None and share is None:
                effort = replace(_unstated(effort), reasons=(*effort.reasons, _UNKNOWN))
        if step >= Step.LESS_RESCORE and ladder is not None and wanted.effort == DEFAULT_EFFORT:
            effort = efforts.lower(
                effort,
                k,
                step=step.label,
                floor=ladder.floor,
                rescore_only=step is Step.LESS_RESCORE,
                share=share,
                min_recall=wanted.min_recall,
            )
        chosen.append(effort)
    return chosen


def share_allowed(served: Served, wanted: Wanted) -> float | None:
    """Share of a type's rows that the call's filter allows; None without a filter or where a shard cannot count."""
    condition = wanted.restriction.filter
    if condition is None:
        return None
    counts = [_count(shard, condition) for shard in served.shards]
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        return None
    return min(1.0, sum(known) / max(1, served.about.manifest.rows))


def _count(shard: object, condition: object) -> int | None:
    count = getattr(shard, "matches", None)  # a shard that cannot count costs the band, not the call
    if count is None:
        return None
    try:
        return int(count(condition))
    except InvalidArgument:
        raise
    except Exception:  # the search will meet the same fault and name the shard
        return None


def _unstated(chosen: Chosen) -> Chosen:
    return replace(chosen, expected_recall=None)
