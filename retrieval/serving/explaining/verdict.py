"""Why an entity is not among the candidates of a query: one verdict, one sentence with figures, and the way out.

The causes are asked in the order in which a search loses an entity: not in the generation, not in a shard that
answered, filtered out, crowded out, ranked too low, and only then lost by the approximate search. Exact ranks are
counted by every shard that answers. Knows nothing about texts, towers or the wire.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from retrieval.serving import fanout
from retrieval.serving.calls import EntityId, Source, Wanted
from retrieval.serving.effort import efforts
from retrieval.serving.filtering.filters import AllOf, Crowding, Equal, Filter, Restriction
from retrieval.serving.rankings import Served
from retrieval.serving.shards import Hits, ShardExplanation
from retrieval.types import F32, AnyArray, IndexKind, StrEnum


class Verdict(StrEnum):
    """What became of the entity."""

    RETURNED = "RETURNED"
    ABSENT = "ABSENT"
    DELETED = "DELETED"
    QUARANTINED = "QUARANTINED"
    FILTERED_OUT = "FILTERED_OUT"
    LIST_NOT_PROBED = "LIST_NOT_PROBED"
    LOST_IN_PQ = "LOST_IN_PQ"
    NOT_REACHED = "NOT_REACHED"
    BELOW_SHARD_K = "BELOW_SHARD_K"
    BELOW_K = "BELOW_K"
    DUPLICATE = "DUPLICATE"
    CROWDED_OUT = "CROWDED_OUT"
    NOT_COVERED = "NOT_COVERED"


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """score: exact, None where no shard that answered holds the entity; exact_rank: among the allowed rows of the
    shards that answered, from 1, crowding left aside; rank: in the answer, from 1; shard: of the one that holds it.
    """

    verdict: Verdict
    reason: str
    source: Source
    query_space_id: str
    score: float | None = None
    exact_rank: int | None = None
    rank: int | None = None
    shard: ShardExplanation | None = None


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A search for one query [1, d] as it was done: what it asked, what the shards found, and what that is worth."""

    served: Served
    xq: F32
    wanted: Wanted
    chosen: efforts.Chosen
    hits: Sequence[Hits | None]
    source: Source
    query_space_id: str


def explain(answered: Answered, ids: AnyArray, pool: Executor | None) -> Explanation:
    """The verdict on the entity ids [1]."""
    served, wanted = answered.served, answered.wanted
    name = f"{answered.source.entity_type} {ids.tolist()[0]!r}"
    parts, reached = _ask(answered, ids, wanted.restriction, None, pool)
    holders = [(number, part) for number, part in enumerate(parts) if part is not None and part.held]
    if not holders:
        verdict, reason = _missing(answered, ids[0], name, reached.failures)
        return Explanation(
            verdict=verdict, reason=reason, source=answered.source, query_space_id=answered.query_space_id
        )
    number, held = max(holders, key=lambda each: each[1].score)

    merged = fanout.merge_hits(answered.hits, 0, wanted.k, wanted.restriction.crowding)
    place = np.flatnonzero(merged.ids == ids[0])
    rank = int(place[0]) + 1 if place.size else None
    exact_rank = _exact_rank(answered, ids, held, wanted.restriction.filter, pool) if held.allowed else None

    def told(verdict: Verdict, reason: str) -> Explanation:
        return Explanation(
            verdict=verdict,
            reason=reason,
            source=answered.source,
            query_space_id=answered.query_space_id,
            score=held.score,
            exact_rank=exact_rank,
            rank=rank,
            shard=held,
        )

    if rank is not None and len(holders) > 1:
        copies = ", ".join(part.shard for _, part in holders)
        return told(
            Verdict.DUPLICATE, f"{name} is in {copies}; the answer has one copy, at rank {rank:,}: build it once only"
        )
    if rank is not None:
        return told(Verdict.RETURNED, f"{name} is in the answer at rank {rank:,}; its exact rank is {exact_rank:,}")
    if answered.hits[number] is None:
        return told(
            Verdict.NOT_COVERED,
            f"{name} is in {held.shard}, which did not answer the search: try again, and see its log",
        )
    if exact_rank is None:
        return told(
            Verdict.FILTERED_OUT, f"{name} does not fulfil the filter, which allows {_rows(answered)}: widen it"
        )
    crowding = wanted.restriction.crowding
    ahead = 0 if crowding is None else _same_value_ahead(answered, ids, number, held, crowding, pool)
    if crowding is not None and ahead >= crowding.at_most:
        return told(
            Verdict.CROWDED_OUT,
            f"{name} has {ahead:,} better ones of its {crowding.column!r}, {crowding.at_most:,} are let through: "
            "raise the crowding limit",
        )
    full = len(merged.ids) >= wanted.k and (-merged.scores[-1], merged.ids[-1]) < (-held.score, ids[0])
    if full or (crowding is None and exact_rank > wanted.k):
        return told(Verdict.BELOW_K, f"{name} has exact rank {exact_rank:,}, k is {wanted.k:,}: raise k to see it")
    verdict, reason = _lost(held, served.shards[number].kind, answered.source)
    return told(verdict, f"{name} has exact rank {exact_rank:,} but {reason}")


def _ask(
    answered: Answered, ids: AnyArray, restriction: Restriction, score: float | None, pool: Executor | None
) -> tuple[list[ShardExplanation | None], fanout.Reached]:
    return fanout.explain_shards(
        answered.served.shards, answered.xq, ids, answered.wanted.k, answered.chosen.params, pool, restriction, score
    )


def _missing(answered: Answered, entity_id: EntityId, name: str, failures: tuple[str, ...]) -> tuple[Verdict, str]:
    manifest = answered.served.about.manifest
    if failures:
        return Verdict.NOT_COVERED, f"{name} is in no shard that answered ({'; '.join(failures)}): try again"
    # numpy's integers and strings are equal to Python's, and hash alike
    if entity_id in answered.served.hidden:
        return Verdict.DELETED, f"{name} was deleted since generation {manifest.id} was built: upsert it again"
    for reason, examples in manifest.quarantine.examples.items():
        if str(entity_id) in examples:
            return (
                Verdict.QUARANTINED,
                f"{name} was quarantined when generation {manifest.id} was built ({reason}): mend it and build again",
            )
    absent = f"{name} is not in generation {manifest.id}"
    if not manifest.quarantine.total:
        return Verdict.ABSENT, f"{absent}, which quarantined no row: add it to the source and build again"
    named = sum(len(examples) for examples in manifest.quarantine.examples.values())
    return (
        Verdict.ABSENT,
        f"{absent} and not among the {named:,} that its manifest names of {manifest.quarantine.total:,} quarantined "
        "rows: look for it in the source",
    )


def _exact_rank(
    answered: Answered, ids: AnyArray, held: ShardExplanation, wanted: Filter | None, pool: Executor | None
) -> int:
    parts, _ = _ask(answered, ids, Restriction(filter=wanted), held.score, pool)
    return 1 + sum(part.rank - 1 for part in parts if part is not None and part.rank)


def _same_value_ahead(
    answered: Answered, ids: AnyArray, number: int, held: ShardExplanation, crowding: Crowding, pool: Executor | None
) -> int:
    assert held.row is not None
    row = np.array([held.row], np.int32)
    value = answered.served.shards[number].attributes(row, [crowding.column])[crowding.column][0].as_py()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return 0
    same: Filter = Equal(column=crowding.column, value=value)
    if answered.wanted.restriction.filter is not None:
        same = AllOf(filters=(answered.wanted.restriction.filter, same))
    return _exact_rank(answered, ids, held, same, pool) - 1


def _lost(held: ShardExplanation, kind: IndexKind, source: Source) -> tuple[Verdict, str]:
    """Where the shard that holds an entity lost it, which belongs in the answer."""
    if held.rank > held.shard_k:
        return (
            Verdict.BELOW_SHARD_K,
            f"rank {held.rank:,} in {held.shard}, which was asked for {held.shard_k:,}: raise k",
        )
    if held.list_rank is not None and held.nprobe is not None and held.list_rank > held.nprobe:
        return (
            Verdict.LIST_NOT_PROBED,
            f"lies in list {held.list_rank:,} by distance of {held.shard}, {held.nprobe:,} were visited: raise nprobe",
        )
    if held.approximate_rank is not None and held.pool is not None and held.approximate_rank > held.pool:
        return (
            Verdict.LOST_IN_PQ,
            f"its compressed code ranks {held.approximate_rank:,} in {held.shard}, {held.pool:,} were rescored: "
            "raise rescore",
        )
    spent = f"ef {source.effort.ef:,}" if kind is IndexKind.HNSW and source.effort.ef else "this effort"
    return Verdict.NOT_REACHED, f"the search of {held.shard} at {spent} does not meet it: raise the effort"


def _rows(answered: Answered) -> str:
    matches = answered.source.matches
    return "some rows" if matches is None else f"{matches:,} of {answered.source.rows:,} rows"
