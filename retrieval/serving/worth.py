"""What the part of an answer from one entity type is worth: coverage, effort, measured recall, rows that match.

Knows nothing about queries or candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

from retrieval.errors import Unavailable
from retrieval.serving.calls import Source
from retrieval.serving.effort.efforts import Chosen
from retrieval.serving.fanout import Reached
from retrieval.serving.rankings import Served
from retrieval.serving.shards import Hits


def source_of(served: Served, reached: Reached, chosen: Chosen, matches: int | None = None) -> Source:
    """What an entity type's part of an answer is worth, before it is known how many candidates it has."""
    manifest = served.about.manifest
    whole = not reached.failures  # what was measured, was measured over all shards
    return Source(
        entity_type=manifest.entity_type,
        generation=manifest.id,
        space_id=manifest.space_id,
        rows=manifest.rows,
        coverage=reached.coverage,
        effort=chosen.used,
        recall_at_10=chosen.recall_at_10 if whole else None,
        recall_at_100=chosen.recall_at_100 if whole else None,
        degraded=(*reached.failures, *chosen.reasons),
        expected_recall=chosen.expected_recall if whole else None,
        gave_way=chosen.gave_way,
        matches=matches,
    )


def matches_of(hits: Sequence[Hits | None]) -> int | None:
    """Rows that the filter allows in all shards; None without one, and where a shard did not say."""
    counts = [None if part is None else part.matches for part in hits]
    return None if None in counts else sum(count for count in counts if count is not None)


def check_coverage(source: Source, minimum: float) -> None:
    """Unavailable when less than the minimum was searched, or nothing."""
    if source.coverage < minimum or source.coverage == 0:
        wanted = f"{minimum:.3f} were asked for" if source.coverage < minimum else "nothing was searched"
        raise Unavailable(
            f"coverage of {source.entity_type} is {source.coverage:.3f}, {wanted}: "
            f"{'; '.join(source.degraded)}; try again"
        )
