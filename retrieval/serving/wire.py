"""Wire messages to the engine's values and back.

Vectors come in and ids and scores go out as whole arrays; only attribute values, which are JSON, are made one by one.
Knows nothing about gRPC calls, towers or indexes.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from google.protobuf.message import Message

from retrieval.errors import InvalidQuery
from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb
from retrieval.serving.calls import (
    DEFAULT_EFFORT,
    Description,
    Effort,
    Embedding,
    EntityId,
    EntityQuery,
    GenerationDescription,
    Grouping,
    Priority,
    Query,
    Ranking,
    ScoreAnswer,
    SearchAnswer,
    Source,
    TextQuery,
    Timings,
    VectorQuery,
    Wanted,
)
from retrieval.serving.effort.frontier import preferred
from retrieval.serving.filtering.filters import Crowding, Restriction
from retrieval.serving.filtering.wire import read_filter
from retrieval.types import I64

_PRIORITY = {pb.INTERACTIVE: Priority.INTERACTIVE, pb.BATCH: Priority.BATCH}
_GROUPING = {pb.MERGED: Grouping.MERGED, pb.BY_ENTITY_TYPE: Grouping.BY_ENTITY_TYPE}


def read_query(message: pb.Query) -> Query:
    """One query; InvalidQuery when none of its forms is set."""
    form = message.WhichOneof("query")
    if form == "vector":
        vector = message.vector
        return VectorQuery(values=np.array(vector.values, np.float32), space_id=vector.space_id)
    if form == "text":
        return TextQuery(text=message.text)
    if form == "entity":
        entity = message.entity
        chosen = entity.WhichOneof("id")
        if chosen is None:
            raise InvalidQuery("the query names an entity without an id: set string_id or int64_id")
        return EntityQuery(entity_type=entity.entity_type, id=getattr(entity, chosen))
    raise InvalidQuery("the query is empty: set its text, its vector or its entity")


def read_priority(message: Message) -> Priority:
    """How urgent a request is; those without the field, and unknown values, count as interactive."""
    return _PRIORITY.get(getattr(message, "priority", pb.INTERACTIVE), Priority.INTERACTIVE)


def read_wanted(message: pb.SearchRequest | pb.SearchBatchRequest) -> Wanted:
    """What is asked for beside the queries; InvalidQuery for an unknown grouping or priority, or a bad filter."""
    if message.grouping not in _GROUPING:
        raise InvalidQuery(f"grouping {message.grouping} does not exist: use MERGED (0) or BY_ENTITY_TYPE (1)")
    if message.priority not in _PRIORITY:
        raise InvalidQuery(f"priority {message.priority} does not exist: use INTERACTIVE (0) or BATCH (1)")
    return Wanted(
        entity_types=tuple(message.entity_types),
        k=message.k,
        effort=_read_effort(message.effort) if message.HasField("effort") else DEFAULT_EFFORT,
        grouping=_GROUPING[message.grouping],
        attributes=tuple(message.attributes),
        minimum_coverage=message.minimum_coverage,
        restriction=_read_restriction(message),
        min_recall=message.min_recall if message.HasField("min_recall") else None,
        priority=_PRIORITY[message.priority],
    )


def _read_restriction(message: pb.SearchRequest | pb.SearchBatchRequest | pb.ExplainRequest) -> Restriction:
    crowding = None
    if message.HasField("crowding"):
        crowding = Crowding(column=message.crowding.column, at_most=message.crowding.at_most)
    wanted = read_filter(message.filter) if message.HasField("filter") else None
    return Restriction(filter=wanted, crowding=crowding)


def read_ids(message: pb.ScoreRequest) -> I64 | list[EntityId]:
    """The ids of a score request; InvalidQuery when both kinds are set."""
    if message.int64_ids and message.string_ids:
        raise InvalidQuery("both int64_ids and string_ids are set: an entity type has ids of one type, send those")
    if message.int64_ids:
        return np.array(message.int64_ids, np.int64)
    return list(message.string_ids)


def write_search(answer: SearchAnswer) -> pb.SearchResponse:
    """One answer."""
    return pb.SearchResponse(
        candidates=[_write_ranking(ranking) for ranking in answer.rankings],
        sources=[write_source(source) for source in answer.sources],
        query_space_id=answer.query_space_id,
        timings=_write_timings(answer.timings),
    )


def write_embedding(embedding: Embedding) -> pb.EmbedResponse:
    """Vectors of texts."""
    rows = embedding.vectors.tolist()
    return pb.EmbedResponse(vectors=[pb.Vector(values=row, space_id=embedding.space_id) for row in rows])


def write_score(answer: ScoreAnswer) -> pb.ScoreResponse:
    """Exact scores."""
    return pb.ScoreResponse(
        scores=answer.scores.tolist(),
        found=answer.found.tolist(),
        source=write_source(answer.source),
        query_space_id=answer.query_space_id,
        timings=_write_timings(answer.timings),
    )


def write_description(description: Description) -> pb.DescribeResponse:
    """What is served."""
    limits = description.limits
    return pb.DescribeResponse(
        version=description.version,
        query_space_id=description.query_space_id or "",
        compatible_space_ids=description.compatible_space_ids,
        generations=[_write_generation(generation) for generation in description.generations],
        limits=pb.Limits(
            max_k=limits.max_k,
            max_text_characters=limits.max_text_characters,
            max_batch=limits.max_batch,
            max_message_bytes=limits.max_message_bytes,
            max_candidates=limits.max_candidates,
        ),
        live_recall=[pb.LiveRecall(**asdict(measured)) for measured in description.live_recall],
        leaves=[pb.LeafState(**asdict(leaf)) for leaf in description.leaves],
        pressure=description.pressure,
        following=[pb.FollowState(**asdict(each)) for each in description.following],
        delta=[pb.DeltaState(**asdict(each)) for each in description.delta],
    )


def _read_effort(message: pb.Effort) -> Effort:
    names = ("ef", "nprobe", "rescore")
    return Effort(**{name: getattr(message, name) for name in names if message.HasField(name)})


def _write_effort(effort: Effort) -> pb.Effort:
    return pb.Effort(ef=effort.ef, nprobe=effort.nprobe, rescore=effort.rescore)


def _write_ranking(ranking: Ranking) -> pb.Candidates:
    message = pb.Candidates(entity_type=ranking.entity_type or "", scores=ranking.scores.tolist())
    if ranking.ids.dtype == object:
        message.string_ids.extend(ranking.ids.tolist())
    else:
        message.int64_ids.extend(ranking.ids.tolist())
    if ranking.entity_type is None:
        message.source_index.extend(ranking.source_index.tolist())
    for name, values in ranking.attributes.items():
        message.attributes.add(name=name, json_values=_json_values(values))
    return message


def _json_values(values: pa.Array) -> list[str]:
    return [
        json.dumps(_finite(value), ensure_ascii=False, default=str, allow_nan=False) for value in values.to_pylist()
    ]


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity, at any depth: null stands for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return value


def write_source(source: Source) -> pb.Source:
    """What a part of an answer is worth."""
    return pb.Source(
        entity_type=source.entity_type,
        generation=source.generation,
        space_id=source.space_id,
        coverage=source.coverage,
        effort=_write_effort(source.effort),
        recall_at_10=source.recall_at_10,
        recall_at_100=source.recall_at_100,
        degraded=source.degraded,
        rows=source.rows,
        matches=source.matches,
        gave_way=source.gave_way,
        expected_recall=source.expected_recall,
    )


def _write_timings(timings: Timings) -> pb.Timings:
    return pb.Timings(
        encode_ns=timings.encode_ns,
        search_ns=timings.search_ns,
        merge_ns=timings.merge_ns,
        total_ns=timings.total_ns,
    )


def _write_generation(described: GenerationDescription) -> pb.GenerationDescription:
    manifest = described.manifest
    return pb.GenerationDescription(
        entity_type=manifest.entity_type,
        generation=manifest.id,
        space_id=manifest.space_id,
        metric=str(manifest.metric),
        d=manifest.d,
        id_type=str(manifest.id_type),
        rows=manifest.rows,
        shards=[
            pb.ShardDescription(
                name=shard.name,
                kind=str(shard.kind),
                rows=shard.rows,
                build_params_json=_compact(shard.build_params),
            )
            for shard in manifest.shards
        ],
        frontier=[
            pb.FrontierPoint(
                params_json=_compact(point.params),
                recall_at_10=point.recall_at_10,
                recall_at_100=point.recall_at_100,
                p50_ms=point.p50_ms,
                p95_ms=point.p95_ms,
                filter_band=point.filter_band,
            )
            for point in preferred(manifest.frontier)
        ],
        attributes=described.columns,
        refused=described.refused,
    )


def _compact(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, default=str)
