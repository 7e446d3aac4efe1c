"""The engine: search, embed, score and describe over the live generations, in process.

A batch is the only shape inside; one query is a batch of one. The engine keeps no state that a call changes, so any
number of threads may call it; all checks come before any work. Knows no gRPC, no protobuf and no file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from retrieval import __version__
from retrieval.errors import InvalidQuery, Unavailable
from retrieval.serving import effort as efforts
from retrieval.serving import encode as encoding
from retrieval.serving import fanout
from retrieval.serving.calls import (
    DEFAULT_EFFORT,
    Description,
    Embedding,
    EntityId,
    EntityQuery,
    Grouping,
    Limits,
    Query,
    ScoreAnswer,
    SearchAnswer,
    Source,
    Timings,
    VectorQuery,
    Wanted,
)
from retrieval.serving.rankings import Served, check_columns, check_mergeable, rankings, with_shortfall
from retrieval.serving.threads import search_pool
from retrieval.types import F32, AnyArray, IdType, Metric

_INT64 = np.iinfo(np.int64)
_EXACT = efforts.Chosen(params={}, used=DEFAULT_EFFORT, recall_at_10=None, recall_at_100=None)


def _always() -> None:
    """The caller is still there."""


class Engine:
    """Answers calls from the served generations, one per entity type.

    tower: encodes texts; None refuses them. shard_threads: 0 searches a call's shards in sequence.
    """

    def __init__(
        self,
        served: Mapping[str, Served],
        tower: encoding.TextTower | None = None,
        *,
        limits: Limits | None = None,
        shard_threads: int = 0,
    ) -> None:
        self._served = dict(served)
        self._tower = tower
        self._pool = search_pool(shard_threads, "shard") if shard_threads else None
        self.limits = limits or Limits()

    def search(self, query: Query, wanted: Wanted, *, check_alive: Callable[[], None] = _always) -> SearchAnswer:
        """The candidates of one query; see `search_batch`."""
        return self.search_batch([query], wanted, check_alive=check_alive)[0]

    def search_batch(
        self, queries: Sequence[Query], wanted: Wanted, *, check_alive: Callable[[], None] = _always
    ) -> list[SearchAnswer]:
        """The candidates of each query, in order.

        check_alive is called before the encoding and before each search and raises when nobody waits for the answer.
        Raises InvalidQuery, InvalidParams, SpaceMismatch, FailedPrecondition (a text without a tower, types of
        different metrics in one ranking) and Unavailable (less than the minimum coverage).
        """
        started = time.perf_counter_ns()
        types = self._types(wanted.entity_types)
        self._check(queries, wanted, types)
        check_alive()
        encoded = self._encode(queries)
        chosen = [served.efforts.choose(wanted.effort, wanted.k) for served in types]
        vectors = [_for_index(served, encoded) for served in types]
        encoded_at = time.perf_counter_ns()
        found, sources = [], []
        for served, xq, effort in zip(types, vectors, chosen, strict=True):
            check_alive()
            hits, reached = fanout.search_shards(served.shards, xq, wanted.k, effort.params, self._pool)
            source = _source(served, reached, effort)
            _check_coverage(source, wanted.minimum_coverage)
            found.append(hits)
            sources.append(source)
        searched_at = time.perf_counter_ns()
        merged = []
        for number in range(len(encoded)):
            parts = [fanout.merge_hits(hits, number, wanted.k) for hits in found]
            worth = zip(sources, parts, strict=True)
            merged.append(
                (
                    rankings(types, parts, wanted),
                    tuple(with_shortfall(source, len(part.scores), wanted.k) for source, part in worth),
                )
            )
        merged_at = time.perf_counter_ns()
        timings = Timings(
            encode_ns=encoded_at - started,
            search_ns=searched_at - encoded_at,
            merge_ns=merged_at - searched_at,
            total_ns=merged_at - started,
        )
        return [
            SearchAnswer(rankings=found_, sources=worth_, query_space_id=query.space_id, timings=timings)
            for query, (found_, worth_) in zip(encoded, merged, strict=True)
        ]

    def embed(self, texts: Sequence[str], *, check_alive: Callable[[], None] = _always) -> Embedding:
        """Unit vectors of texts; InvalidQuery for a bad text or batch, FailedPrecondition without a tower."""
        self._check_batch(len(texts), "texts")
        check_alive()
        return encoding.embed(texts, self._tower, self.limits)

    def score(
        self,
        query: Query,
        entity_type: str,
        ids: Sequence[EntityId] | AnyArray,
        *,
        check_alive: Callable[[], None] = _always,
    ) -> ScoreAnswer:
        """Exact scores of given entities for one query.

        Raises InvalidQuery (also for ids of the wrong type), SpaceMismatch, FailedPrecondition and Unavailable (no
        shard answered).
        """
        started = time.perf_counter_ns()
        (served,) = self._types((entity_type,))
        if not 1 <= len(ids) <= self.limits.max_k:
            raise InvalidQuery(f"{len(ids):,} ids were sent to be scored, the limits are 1 and {self.limits.max_k:,}")
        wanted_ids = _id_array(ids, served)
        check_alive()
        encoded = self._encode([query])
        xq = _for_index(served, encoded)
        encoded_at = time.perf_counter_ns()
        check_alive()
        scores, found, reached = fanout.score_shards(served.shards, xq, wanted_ids, self._pool)
        source = _source(served, reached, _EXACT)
        _check_coverage(source, 0.0)
        ended = time.perf_counter_ns()
        return ScoreAnswer(
            scores=scores[0],
            found=found,
            source=source,
            query_space_id=encoded[0].space_id,
            timings=Timings(encode_ns=encoded_at - started, search_ns=ended - encoded_at, total_ns=ended - started),
        )

    def describe(self) -> Description:
        """Generations, spaces and limits."""
        return Description(
            version=__version__,
            query_space_id=self._tower.space_id if self._tower else None,
            compatible_space_ids=tuple(self._tower.compatible) if self._tower else (),
            generations=tuple(served.about for served in self._served.values()),
            limits=self.limits,
        )

    def close(self) -> None:
        """End the shard pool."""
        if self._pool is not None:
            self._pool.shutdown()

    def _types(self, names: Sequence[str]) -> list[Served]:
        unknown = [name for name in names if name not in self._served]
        if unknown:
            raise InvalidQuery(f"entity type {unknown[0]!r} is not served; these are: {', '.join(self._served)}")
        return [self._served[name] for name in dict.fromkeys(names or self._served)]

    def _check(self, queries: Sequence[Query], wanted: Wanted, types: Sequence[Served]) -> None:
        limits, k = self.limits, wanted.k
        if not 1 <= k <= limits.max_k:
            raise InvalidQuery(f"k = {k:,} is not acceptable: ask for 1 to {limits.max_k:,} candidates")
        self._check_batch(len(queries), "queries")
        if len(queries) * k * len(types) > limits.max_candidates:
            raise InvalidQuery(
                f"{len(queries):,} queries x k = {k:,} x {len(types)} entity types are over the limit of "
                f"{limits.max_candidates:,} candidates a call: send fewer queries or lower k"
            )
        if not 0 <= wanted.minimum_coverage <= 1:
            raise InvalidQuery(f"minimum coverage {wanted.minimum_coverage} is not acceptable: it is a share, 0 to 1")
        if wanted.effort is not DEFAULT_EFFORT:
            efforts.check_effort(wanted.effort)
        check_columns(types, wanted.attributes)
        if wanted.grouping is Grouping.MERGED:
            check_mergeable(types)

    def _check_batch(self, size: int, what: str) -> None:
        if not 1 <= size <= self.limits.max_batch:
            raise InvalidQuery(f"the batch has {size:,} {what}, the limits are 1 and {self.limits.max_batch:,}")

    def _encode(self, queries: Sequence[Query]) -> list[encoding.Encoded]:
        plain = [self._stored(query) if isinstance(query, EntityQuery) else query for query in queries]
        return encoding.encode(plain, self._tower, self.limits)

    def _stored(self, query: EntityQuery) -> VectorQuery:
        (served,) = self._types((query.entity_type,))
        vectors, found, reached = fanout.find_vectors(served.shards, _id_array([query.id], served), self._pool)
        if not found[0]:
            if reached.failures:
                raise Unavailable(
                    f"{query.entity_type} {query.id!r} cannot be looked up: {'; '.join(reached.failures)}"
                )
            raise InvalidQuery(
                f"there is no {query.entity_type} {query.id!r} in generation {served.about.manifest.id}"
                ": send an id it holds"
            )
        return VectorQuery(values=vectors[0], space_id=served.about.manifest.space_id)


def _for_index(served: Served, encoded: Sequence[encoding.Encoded]) -> F32:
    manifest = served.about.manifest
    return encoding.for_index(encoded, space_id=manifest.space_id, d=manifest.d, metric=Metric(manifest.metric))


def _source(served: Served, reached: fanout.Reached, chosen: efforts.Chosen) -> Source:
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
        degraded=reached.failures,
    )


def _check_coverage(source: Source, minimum: float) -> None:
    if source.coverage < minimum or source.coverage == 0:
        wanted = f"{minimum:.3f} were asked for" if source.coverage < minimum else "nothing was searched"
        raise Unavailable(
            f"coverage of {source.entity_type} is {source.coverage:.3f}, {wanted}: "
            f"{'; '.join(source.degraded)}; try again"
        )


def _id_array(ids: Sequence[EntityId] | AnyArray, served: Served) -> AnyArray:
    manifest = served.about.manifest
    if isinstance(ids, np.ndarray) and ids.dtype == np.int64:
        right = manifest.id_type is IdType.INT64
    elif manifest.id_type is IdType.INT64:
        right = all(isinstance(each, int | np.integer) and _INT64.min <= each <= _INT64.max for each in ids)
    else:
        right = all(isinstance(each, str) for each in ids)
    if not right:
        raise InvalidQuery(f"ids of {manifest.entity_type} are of type {manifest.id_type}: send ids of that type")
    if manifest.id_type is IdType.INT64:
        return np.asarray(ids, np.int64)
    strings = np.empty(len(ids), object)
    strings[:] = list(ids)
    return strings
