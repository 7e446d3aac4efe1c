"""Writes between the wire and the engine's values: whole arrays of vectors, one JSON object of attributes an entity."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from retrieval.errors import InvalidQuery
from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb
from retrieval.serving.calls import EntityId
from retrieval.types import F32


def read_upsert(message: pb.UpsertRequest) -> tuple[list[EntityId], F32, list[dict[str, Any]]]:
    """Ids [n], vectors float32 [n, d] and attributes; InvalidQuery for an entity without an id or unequal vectors."""
    ids: list[EntityId] = []
    for number, entity in enumerate(message.entities):
        chosen = entity.WhichOneof("id")
        if chosen is None:
            raise InvalidQuery(f"entity {number} has no id: set string_id or int64_id")
        ids.append(getattr(entity, chosen))
    sizes = {len(entity.values) for entity in message.entities}
    if len(sizes) > 1:
        raise InvalidQuery(f"the vectors have {' and '.join(map(str, sorted(sizes)))} dimensions: one space has one")
    vectors = np.array([entity.values for entity in message.entities], np.float32)
    return ids, vectors.reshape(len(ids), sizes.pop() if sizes else 0), [_attributes(each) for each in message.entities]


def read_delete(message: pb.DeleteRequest) -> list[EntityId]:
    """The ids; InvalidQuery when both kinds are set."""
    if message.string_ids and message.int64_ids:
        raise InvalidQuery("both int64_ids and string_ids are set: an entity type has ids of one type, send those")
    return [*message.string_ids, *message.int64_ids]


def _attributes(entity: pb.FreshEntity) -> dict[str, Any]:
    if not entity.attributes_json:
        return {}
    try:
        values = json.loads(entity.attributes_json)
    except ValueError as error:
        raise InvalidQuery(f"attributes_json {entity.attributes_json[:80]!r} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise InvalidQuery(f"attributes_json {entity.attributes_json[:80]!r} is not a JSON object: column -> value")
    return values
