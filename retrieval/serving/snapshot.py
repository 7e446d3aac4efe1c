"""What one call sees: the served generations by entity type, taken once at its start.

A server puts another generation in place while calls are at work; a call that looked twice could take its query vector
from one generation and its candidates from another. Knows nothing about how generations come and go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor

from retrieval.errors import InvalidQuery, Unavailable
from retrieval.serving import asked, fanout
from retrieval.serving.calls import EntityQuery, VectorQuery
from retrieval.serving.rankings import Served


def types_of(held: Mapping[str, Served], names: Sequence[str]) -> list[Served]:
    """What is served for the entity types `names`, for all when there are none; InvalidQuery for an unknown one."""
    unknown = [name for name in names if name not in held]
    if unknown:
        raise InvalidQuery(f"entity type {unknown[0]!r} is not served; these are: {', '.join(held)}")
    return [held[name] for name in dict.fromkeys(names or held)]


def stored_vector(held: Mapping[str, Served], query: EntityQuery, pool: Executor | None) -> VectorQuery:
    """The vector of an entity; InvalidQuery when it is not there, Unavailable when that cannot be known."""
    (served,) = types_of(held, (query.entity_type,))
    vectors, found, reached = fanout.find_vectors(served.shards, asked.id_array([query.id], served), pool)
    if not found[0]:
        if reached.failures:
            raise Unavailable(f"{query.entity_type} {query.id!r} cannot be looked up: {'; '.join(reached.failures)}")
        raise InvalidQuery(
            f"there is no {query.entity_type} {query.id!r} in generation {served.about.manifest.id}"
            ": send an id it holds"
        )
    return VectorQuery(values=vectors[0], space_id=served.about.manifest.space_id)
