"""The client's values to wire messages and back. Knows nothing about channels or deadlines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np

from retrieval import errors
from retrieval.client.answers import (
    Effort,
    Entity,
    Explanation,
    Ranking,
    ScoreResult,
    SearchResult,
    ShardExplanation,
    Source,
    Timings,
    Vector,
)
from retrieval.client.filters import Crowding, Filter
from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb
from retrieval.types import F32, AnyArray

_R = TypeVar("_R")


def build(kind: type[_R], **values: Any) -> _R:
    """The message of these fields; InvalidQuery when a value does not fit its field."""
    try:
        return kind(**values)
    except (TypeError, ValueError, OverflowError) as error:
        raise errors.InvalidQuery(f"the request cannot be written as a message: {error}") from None


def write_query(query: str | Vector | Entity) -> pb.Query:
    """A query; InvalidQuery for a vector that is not a list of numbers."""
    if isinstance(query, str):
        return build(pb.Query, text=query)
    if isinstance(query, Vector):
        try:
            values = np.asarray(query.values, np.float32)
        except (TypeError, ValueError):
            raise errors.InvalidQuery(
                "the query vector does not consist of numbers: give one float per dimension"
            ) from None
        if values.ndim != 1:
            raise errors.InvalidQuery(f"the query vector has shape {list(values.shape)}: give one float per dimension")
        return pb.Query(vector=build(pb.Vector, values=values.tolist(), space_id=query.space_id))
    if not isinstance(query, Entity):
        raise errors.InvalidQuery(f"the query is a {type(query).__name__}: give a text, a Vector or an Entity")
    form = "string_id" if isinstance(query.id, str) else "int64_id"
    return pb.Query(entity=build(pb.EntityRef, entity_type=query.entity_type, **{form: query.id}))


def write_ids(ids: Sequence[int] | Sequence[str] | AnyArray) -> dict[str, list[Any]]:
    """Ids as the field of their kind."""
    plain = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    return {"string_ids" if plain and isinstance(plain[0], str) else "int64_ids": plain}


def write_upsert(
    entity_type: str,
    ids: Sequence[int] | Sequence[str] | AnyArray,
    vectors: F32,
    space_id: str,
    attributes: Sequence[dict[str, Any]] | None,
) -> pb.UpsertRequest:
    """Entities to put in place; InvalidQuery when ids, vectors and attributes are not of one length."""
    ((form, plain),) = write_ids(ids).items()
    rows = np.asarray(vectors, np.float32)
    given = [{}] * len(plain) if attributes is None else attributes
    if rows.ndim != 2 or not len(plain) == len(rows) == len(given):
        raise errors.InvalidQuery(
            f"{len(plain)} ids, vectors {list(rows.shape)} and {len(given)} attributes do not belong together: one each"
        )
    entities = [
        build(
            pb.FreshEntity,
            values=row,
            attributes_json=json.dumps(each, ensure_ascii=False, default=str) if each else "",
            **{form.removesuffix("s"): id_},
        )
        for id_, row, each in zip(plain, rows.tolist(), given, strict=True)
    ]
    return build(pb.UpsertRequest, entity_type=entity_type, space_id=space_id, entities=entities)


def write_wanted(
    entity_types: Sequence[str],
    k: int,
    effort: Effort | None,
    grouped: bool,
    attributes: Sequence[str],
    minimum_coverage: float,
    narrowed: dict[str, Any],
    batch: bool,
) -> dict[str, Any]:
    """The fields that a search and a batch share; InvalidQuery for a value of the wrong type or sign."""
    for name, names in (("entity_types", entity_types), ("attributes", attributes)):
        if isinstance(names, str):
            raise errors.InvalidQuery(f"{name} = {names!r} is one string: give a list, [{names!r}]")
    numbers = {"k": k, **({} if effort is None else asdict(effort))}
    for name, number in numbers.items():
        if number is not None and not 0 <= number < 2**32:
            raise errors.InvalidQuery(f"{name} = {number} is not acceptable: it is a number from 1 up")
    values: dict[str, Any] = {
        "entity_types": list(entity_types),
        "k": k,
        "grouping": pb.BY_ENTITY_TYPE if grouped else pb.MERGED,
        "attributes": list(attributes),
        "minimum_coverage": minimum_coverage,
        "priority": pb.BATCH if batch else pb.INTERACTIVE,
        **narrowed,
    }
    if effort is not None:
        values["effort"] = write_effort(effort)
    return values


def write_effort(effort: Effort) -> pb.Effort:
    """Search parameters."""
    return build(pb.Effort, ef=effort.ef, nprobe=effort.nprobe, rescore=effort.rescore)


def write_narrowed(wanted: Filter | None, crowding: Crowding | None, min_recall: float | None) -> dict[str, Any]:
    """The fields that narrow a search or promise its worth; InvalidQuery for a value of the wrong type or sign."""
    values: dict[str, Any] = {}
    if wanted is not None:
        if not isinstance(wanted, Filter):
            raise errors.InvalidQuery(
                f"the filter is a {type(wanted).__name__}: make it with equal, is_in, between, all_of, any_of, negated"
            )
        values["filter"] = wanted.message()
    if crowding is not None:
        if not 0 <= crowding.at_most < 2**32:
            raise errors.InvalidQuery(f"at_most = {crowding.at_most} is not acceptable: it is a number from 1 up")
        values["crowding"] = build(pb.Crowding, column=crowding.column, at_most=crowding.at_most)
    if min_recall is not None:
        values["min_recall"] = min_recall
    return values


def read_search(message: pb.SearchResponse) -> SearchResult:
    """The answer to one query."""
    sources = tuple(read_source(source) for source in message.sources)
    return SearchResult(
        candidates=tuple(_read_ranking(candidates, sources) for candidates in message.candidates),
        sources=sources,
        query_space_id=message.query_space_id,
        timings=read_timings(message.timings),
    )


def _read_ranking(message: pb.Candidates, sources: tuple[Source, ...]) -> Ranking:
    if message.entity_type:
        entity_types = [message.entity_type] * len(message.scores)
    else:
        entity_types = [sources[place].entity_type for place in message.source_index]
    return Ranking(
        entity_type=message.entity_type or None,
        entity_types=entity_types,
        ids=list(message.string_ids) if message.string_ids else np.array(message.int64_ids, np.int64),
        scores=np.array(message.scores, np.float32),
        attributes={each.name: [json.loads(value) for value in each.json_values] for each in message.attributes},
    )


def read_score(message: pb.ScoreResponse) -> ScoreResult:
    """Exact scores."""
    return ScoreResult(
        scores=np.array(message.scores, np.float32),
        found=np.array(message.found, bool),
        source=read_source(message.source),
        query_space_id=message.query_space_id,
        timings=read_timings(message.timings),
    )


def read_source(message: pb.Source) -> Source:
    """What a part of an answer is worth."""
    return Source(
        entity_type=message.entity_type,
        generation=message.generation,
        space_id=message.space_id,
        rows=message.rows,
        coverage=message.coverage,
        effort=Effort(**{each.name: value for each, value in message.effort.ListFields()}),
        recall_at_10=_optional(message, "recall_at_10"),
        recall_at_100=_optional(message, "recall_at_100"),
        degraded=tuple(message.degraded),
        matches=_optional(message, "matches"),
        gave_way=message.gave_way,
        expected_recall=_optional(message, "expected_recall"),
    )


def read_explanation(message: pb.ExplainResponse) -> Explanation:
    """What became of an entity."""
    return Explanation(
        verdict=message.verdict,
        reason=message.reason,
        score=_optional(message, "score"),
        exact_rank=_optional(message, "exact_rank"),
        rank=_optional(message, "rank"),
        shard=_read_shard(message.shard) if message.HasField("shard") else None,
        source=read_source(message.source),
        query_space_id=message.query_space_id,
    )


def _read_shard(message: pb.ShardExplanation) -> ShardExplanation:
    return ShardExplanation(
        shard=message.shard,
        held=message.held,
        allowed=message.allowed,
        score=message.score,
        rank=message.rank,
        returned=message.returned,
        shard_k=message.shard_k,
        list_rank=_optional(message, "list_rank"),
        nprobe=_optional(message, "nprobe"),
        approximate_rank=_optional(message, "approximate_rank"),
        pool=_optional(message, "pool"),
    )


def _optional(message: Any, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None


def read_timings(message: pb.Timings) -> Timings:
    """Stage timings."""
    return Timings(
        encode_ns=message.encode_ns,
        search_ns=message.search_ns,
        merge_ns=message.merge_ns,
        total_ns=message.total_ns,
    )
