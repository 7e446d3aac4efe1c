"""Explanations between the wire and the engine's values. Knows nothing about how a verdict is found."""

from __future__ import annotations

from retrieval.errors import InvalidQuery
from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb
from retrieval.serving import wire
from retrieval.serving.calls import EntityQuery, Query, Wanted
from retrieval.serving.explaining.verdict import Explanation
from retrieval.serving.fleet import wire as shard_wire


def read_explain(message: pb.ExplainRequest) -> tuple[Query, EntityQuery, Wanted]:
    """The query, the entity that is missing, and what was asked for; InvalidQuery where one is not set."""
    form = message.entity.WhichOneof("id")
    if form is None:
        raise InvalidQuery("the request names no entity to explain: set its string_id or int64_id")
    entity = EntityQuery(entity_type=message.entity.entity_type, id=getattr(message.entity, form))
    asked = pb.SearchRequest(k=message.k)
    for name in ("effort", "filter", "crowding"):
        if message.HasField(name):
            getattr(asked, name).CopyFrom(getattr(message, name))
    if message.HasField("min_recall"):
        asked.min_recall = message.min_recall
    return wire.read_query(message.query), entity, wire.read_wanted(asked)


def write_explanation(found: Explanation) -> pb.ExplainResponse:
    """One explanation."""
    return pb.ExplainResponse(
        verdict=str(found.verdict),
        reason=found.reason,
        score=found.score,
        exact_rank=found.exact_rank,
        rank=found.rank,
        shard=None if found.shard is None else shard_wire.write_explanation(found.shard),
        source=wire.write_source(found.source),
        query_space_id=found.query_space_id,
    )
