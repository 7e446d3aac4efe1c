"""The engine: search, embed, score and describe over the live generations, in process.

A batch is the only shape inside; one query is a batch of one. The engine keeps no state that a call changes, so any
number of threads may call it; all checks come before any work. Knows no gRPC, no protobuf and no file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from retrieval import __version__
from retrieval.errors import InvalidQuery
from retrieval.serving import asked, fanout, live_recall, worth
from retrieval.serving.calls import (
    DEFAULT_EFFORT,
    DeltaState,
    Description,
    Embedding,
    EntityId,
    EntityQuery,
    FollowState,
    Limits,
    Query,
    ScoreAnswer,
    SearchAnswer,
    Source,
    Timings,
    Wanted,
)
from retrieval.serving.effort import choice, efforts
from retrieval.serving.explaining import verdict as explaining
from retrieval.serving.fleet.following import Fleet
from retrieval.serving.live_recall import LiveRecallMeter
from retrieval.serving.pressure import Ladder, Step
from retrieval.serving.rankings import (
    Served,
    rankings,
    with_shortfall,
)
from retrieval.serving.shards import Hits
from retrieval.serving.shown import Shown
from retrieval.serving.snapshot import stored_vector, types_of
from retrieval.serving.text import encode as encoding
from retrieval.serving.threads import search_pool
from retrieval.types import F32, AnyArray, Metric

_TOWER_SECONDS = 10.0  # that the tower's last batches get at the end
_EXACT = efforts.Chosen(params={}, used=DEFAULT_EFFORT, recall_at_10=None, recall_at_100=None)


def _always() -> None:
    """The caller is still there."""


def _unbounded() -> None:
    """The caller waits as long as it takes."""


class Engine:
    """Answers calls from the served generations, one per entity type.

    tower: encodes texts; None refuses them. shard_threads: 0 searches a call's shards in sequence. ladder: says what is
    given up under pressure. live: searches a share of the answers again.
    """

    def __init__(
        self,
        served: Mapping[str, Served],
        tower: encoding.TextTower | None = None,
        *,
        limits: Limits | None = None,
        shard_threads: int = 0,
        ladder: Ladder | None = None,
        live: LiveRecallMeter | None = None,
    ) -> None:
        self.shown = Shown(served)
        self._tower = tower
        self._fleet: Fleet | None = None
        self._pool = search_pool(shard_threads, "shard") if shard_threads else None
        self.limits = limits or Limits()
        self.ladder, self.live = ladder, live
        self.following: Callable[[], tuple[FollowState, ...]] = tuple  # told by what swaps generations
        self.delta: Callable[[], tuple[DeltaState, ...]] = tuple  # told by what keeps fresh entities

    def search(
        self,
        query: Query,
        wanted: Wanted,
        *,
        check_alive: Callable[[], None] = _always,
        remaining_s: Callable[[], float | None] = _unbounded,
    ) -> SearchAnswer:
        """The candidates of one query; see `search_batch`."""
        return self.search_batch([query], wanted, check_alive=check_alive, remaining_s=remaining_s)[0]

    def search_batch(
        self,
        queries: Sequence[Query],
        wanted: Wanted,
        *,
        check_alive: Callable[[], None] = _always,
        remaining_s: Callable[[], float | None] = _unbounded,
    ) -> list[SearchAnswer]:
        """The candidates of each query, in order.

        check_alive is called before the encoding and before each search and raises when nobody waits for the answer.
        remaining_s: time the caller still has, None for any, which bounds the effort that a wanted recall gets.
        Raises InvalidQuery, InvalidParams, SpaceMismatch, FailedPrecondition (a text without a tower, types of
        different metrics in one ranking) and Unavailable (less than the minimum coverage).
        """
        started = time.perf_counter_ns()
        held = self.shown.all  # once in each call, since another generation may take its place meanwhile
        types = types_of(held, wanted.entity_types)
        asked.check_search(len(queries), wanted, types, self.limits)
        check_alive()
        encoded = self._encode(held, queries, check_alive)
        chosen = choice.choose(types, wanted, len(queries), remaining_s(), self.ladder)
        vectors = [_for_index(served, encoded) for served in types]
        encoded_at = time.perf_counter_ns()
        found, sources = [], []
        for served, xq, effort in zip(types, vectors, chosen, strict=True):
            check_alive()
            hits, source = self._search(served, xq, wanted, effort)
            found.append(hits)
            sources.append(source)
        searched_at = time.perf_counter_ns()
        merged = []
        for number in range(len(encoded)):
            parts = [fanout.merge_hits(hits, number, wanted.k, wanted.restriction.crowding) for hits in found]
            if self.live is not None and self.live.draw():
                scores = [part.scores for part in parts]
                live_recall.offer(
                    self.live, types, sources, [xq[number : number + 1] for xq in vectors], scores, wanted
                )
            counts = [len(part.scores) for part in parts]
            told = [with_shortfall(source, count, wanted) for source, count in zip(sources, counts, strict=True)]
            merged.append((rankings(types, parts, wanted), tuple(told)))
        merged_at = time.perf_counter_ns()
        timings = Timings(
            encode_ns=encoded_at - started,
            search_ns=searched_at - encoded_at,
            merge_ns=merged_at - searched_at,
            total_ns=merged_at - started,
        )
        return [
            SearchAnswer(rankings=found_, sources=sources_, query_space_id=query.space_id, timings=timings)
            for query, (found_, sources_) in zip(encoded, merged, strict=True)
        ]

    def explain(
        self, query: Query, entity: EntityQuery, wanted: Wanted, *, check_alive: Callable[[], None] = _always
    ) -> explaining.Explanation:
        """Why an entity is not among the candidates of a query of its type, or where it ranks.

        wanted.entity_types is not read. Costs about two exact searches beside the search itself; raises what
        `search_batch` raises.
        """
        held = self.shown.all
        types = types_of(held, (entity.entity_type,))
        asked.check_search(1, wanted, types, self.limits)
        (served,) = types
        ids = asked.id_array([entity.id], served)
        check_alive()
        encoded = self._encode(held, [query], check_alive)
        (chosen,) = choice.choose(types, wanted, 1, None, self.ladder)
        xq = _for_index(served, encoded)
        check_alive()
        hits, reached = fanout.search_shards(served.shards, xq, wanted.k, chosen.params, self._pool, wanted.restriction)
        source = worth.source_of(served, reached, chosen, worth.matches_of(hits))
        worth.check_coverage(source, wanted.minimum_coverage)
        check_alive()
        answered = explaining.Answered(
            served=served,
            xq=xq,
            wanted=wanted,
            chosen=chosen,
            hits=hits,
            source=source,
            query_space_id=encoded[0].space_id,
        )
        return explaining.explain(answered, ids, self._pool)

    def embed(self, texts: Sequence[str], *, check_alive: Callable[[], None] = _always) -> Embedding:
        """Unit vectors of texts; InvalidQuery for a bad text or batch, FailedPrecondition without a tower."""
        asked.check_batch(len(texts), "texts", self.limits)
        check_alive()
        choice.check_cached(texts, self._tower, self.ladder)
        return encoding.embed(texts, self._tower, self.limits, check_alive)

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
        held = self.shown.all
        (served,) = types_of(held, (entity_type,))
        if not 1 <= len(ids) <= self.limits.max_k:
            raise InvalidQuery(f"{len(ids):,} ids were sent to be scored, the limits are 1 and {self.limits.max_k:,}")
        wanted_ids = asked.id_array(ids, served)
        check_alive()
        encoded = self._encode(held, [query], check_alive)
        xq = _for_index(served, encoded)
        encoded_at = time.perf_counter_ns()
        check_alive()
        scores, found, reached = fanout.score_shards(served.shards, xq, wanted_ids, self._pool)
        source = worth.source_of(served, reached, _EXACT)
        worth.check_coverage(source, 0.0)
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
            generations=tuple(served.about for served in self.shown.all.values()),
            limits=self.limits,
            leaves=() if self._fleet is None else self._fleet.states(),
            live_recall=() if self.live is None else self.live.measured(),
            pressure=Step.NONE.label if self.ladder is None else self.ladder.step.label,
            following=self.following(),
            delta=self.delta(),
        )

    @property
    def served(self) -> dict[str, Served]:
        """What calls are answered from, by entity type."""
        return self.shown.all

    def put(self, served: Served) -> None:
        """Answer for its entity type from this; calls in flight finish with what they began with."""
        self.shown.put(served)

    def follow(self, fleet: Fleet) -> None:
        """Answer from what a fleet serves, as it changes; calls in flight finish with what they began with."""
        self._fleet = fleet
        fleet.watch(self.shown.replace)

    @property
    def tower(self) -> encoding.TextTower | None:
        """What encodes texts; of a server with a checkpoint a `text_path.TextPath`, which has `stats`."""
        return self._tower

    def close(self) -> None:
        """End the tower's threads, if it has any, and the shard pool."""
        if isinstance(self._tower, encoding.CallerAwareTower):
            self._tower.close(timeout_s=_TOWER_SECONDS)
        if self.live is not None:
            self.live.close()
        if self._fleet is not None:
            self._fleet.close()
        if self._pool is not None:
            self._pool.shutdown()

    def _search(
        self, served: Served, xq: F32, wanted: Wanted, chosen: efforts.Chosen
    ) -> tuple[list[Hits | None], Source]:
        """What the shards of one type found for xq [q, d], and its worth; Unavailable when that is too little."""
        hits, reached = fanout.search_shards(served.shards, xq, wanted.k, chosen.params, self._pool, wanted.restriction)
        source = worth.source_of(served, reached, chosen, worth.matches_of(hits))
        worth.check_coverage(source, wanted.minimum_coverage)
        return hits, source

    def _encode(
        self, held: Mapping[str, Served], queries: Sequence[Query], check_alive: Callable[[], None]
    ) -> list[encoding.Encoded]:
        choice.check_cached(choice.texts_of(queries), self._tower, self.ladder)
        plain = [stored_vector(held, each, self._pool) if isinstance(each, EntityQuery) else each for each in queries]
        return encoding.encode(plain, self._tower, self.limits, check_alive)


def _for_index(served: Served, encoded: Sequence[encoding.Encoded]) -> F32:
    manifest = served.about.manifest
    return encoding.for_index(encoded, space_id=manifest.space_id, d=manifest.d, metric=Metric(manifest.metric))
