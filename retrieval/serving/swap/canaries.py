"""Replaying canaries: stored queries with the answers that the build got, searched here before and while one serves.

Checksums prove that the bytes are the builder's; canaries prove that this machine's libraries and checkpoint still read
them as the builder's did. What a canary is and when it has drifted is `retrieval.canaries`. Knows nothing about
processes or stores.
"""

from __future__ import annotations

from collections.abc import Sequence

from retrieval.canaries import Canaries, CanaryReport, Encode, judge, read_canaries
from retrieval.errors import DamagedData
from retrieval.serving import fanout
from retrieval.serving.calls import DEFAULT_EFFORT
from retrieval.serving.effort.efforts import Efforts
from retrieval.serving.shards import Shard
from retrieval.store import Generation
from retrieval.types import F32, AnyArray

__all__ = ["Canaries", "CanaryReport", "measure", "read_canaries", "replay"]

_AT_ONCE = 16  # searched together: callers' queries go between


def measure(
    generation: Generation, shards: Sequence[Shard], canaries: Canaries, *, encode: Encode | None = None
) -> CanaryReport:
    """Search the canaries at the default effort in all shards of the generation, and say what came back.

    encode: texts to vectors float32 [n, d], of a tower of the space that encoded the texts (`Canaries.space_id`): a
    compatible one may search the shards but makes other vectors. With it the canaries that have a text must get the
    stored vector again. A shard that fails is a failure in the report; what `encode` raises goes through.
    """
    k = canaries.scores.shape[1]
    params = Efforts(generation.manifest).choose(DEFAULT_EFFORT, k).params
    found_ids: list[AnyArray] = []
    found_scores: list[F32] = []
    for start in range(0, len(canaries.queries), _AT_ONCE):
        xq = canaries.queries[start : start + _AT_ONCE]
        hits, reached = fanout.search_shards(shards, xq, k, params, None)
        if reached.failures:
            failure = "; ".join(reached.failures)
            return CanaryReport(
                canaries=len(canaries.queries), recall=0, texts_checked=0, lowest_cosine=None, worst="", failure=failure
            )
        merged = [fanout.merge_hits(hits, number, k) for number in range(len(xq))]
        found_ids += [each.ids for each in merged]
        found_scores += [each.scores for each in merged]
    return judge(canaries, found_ids, found_scores, encode=encode)


def replay(
    generation: Generation, shards: Sequence[Shard], canaries: Canaries, *, encode: Encode | None = None
) -> CanaryReport:
    """As `measure`; DamagedData when a shard fails, a text gets another vector or too few answers come back."""
    report = measure(generation, shards, canaries, encode=encode)
    if not report.good:
        raise DamagedData(
            f"generation {generation.manifest.id} fails its canaries: {report.failure}; roll back or rebuild"
        )
    return report
