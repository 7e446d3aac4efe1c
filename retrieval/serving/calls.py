"""What goes into the engine and what comes out, as plain frozen values.

Queries are one of three types; an answer is rankings (what was found), sources (what that is worth, one per entity
type) and timings. Knows nothing about protobuf, towers or indexes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import pyarrow as pa

from retrieval.serving.filtering.filters import UNRESTRICTED, Restriction
from retrieval.store import Manifest
from retrieval.types import F32, I32, AnyArray, Bool, StrEnum

EntityId: TypeAlias = int | str


class Priority(StrEnum):
    """Who waits for an answer: decides what is shed first under load."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class Grouping(StrEnum):
    """How the answers of several entity types are put together."""

    MERGED = "merged"  # one ranking over all types
    BY_ENTITY_TYPE = "by_entity_type"  # one ranking per type, k each


@dataclass(frozen=True, kw_only=True)
class TextQuery:
    """Words that a person typed."""

    text: str


@dataclass(frozen=True, kw_only=True)
class VectorQuery:
    """A vector [d] that the caller encoded, and the space it belongs to."""

    values: AnyArray
    space_id: str


@dataclass(frozen=True, kw_only=True)
class EntityQuery:
    """The stored vector of an entity: "more like this"."""

    entity_type: str
    id: EntityId


Query: TypeAlias = TextQuery | VectorQuery | EntityQuery


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Search parameters; None takes the generation's default, and each applies to its index kind only."""

    ef: int | None = None
    nprobe: int | None = None
    rescore: int | None = None


DEFAULT_EFFORT = Effort()


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one call may ask for; beyond it the caller gets InvalidQuery."""

    max_k: int = 10_000
    max_text_characters: int = 9_999
    max_batch: int = 1_000
    max_candidates: int = 1_000_000  # queries x k x entity types, which bounds the memory of one call
    max_message_bytes: int = 16 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a search asks for beside its queries."""

    entity_types: tuple[str, ...] = ()  # empty: all that are served
    k: int = 10
    effort: Effort = DEFAULT_EFFORT
    grouping: Grouping = Grouping.MERGED
    attributes: tuple[str, ...] = ()
    minimum_coverage: float = 0.0
    restriction: Restriction = UNRESTRICTED
    min_recall: float | None = None  # the server picks the effort; excludes an explicit one
    priority: Priority = Priority.INTERACTIVE


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Candidates of one query in the tie order (score descending, id ascending).

    entity_type: None in a ranking merged over several types; ids: int64 [n], or object [n] of str; scores: float32
    [n]; source_index: int32 [n], each candidate's type as its place in the answer's sources; attributes: one Arrow
    array [n] per column asked for, null where the entity's type has no such column.
    """

    entity_type: str | None
    ids: AnyArray
    scores: F32
    source_index: I32
    attributes: dict[str, pa.Array] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the part of an answer that came from one entity type is worth."""

    entity_type: str
    generation: str
    space_id: str
    rows: int
    coverage: float  # share of the rows that were searched
    effort: Effort  # as used
    recall_at_10: float | None  # that the build measured for exactly this effort, None if it did not
    recall_at_100: float | None
    degraded: tuple[str, ...]  # why the answer is worth less than asked; empty when it is not
    matches: int | None = None  # rows that the filter allows, None without one or where a shard did not say
    gave_way: str = ""  # "recall" or "deadline": which of the two bounds could not be kept
    expected_recall: float | None = None  # of the best k in this filter band at this effort, as measured


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Nanoseconds per stage; those of a batch are shared by its answers."""

    encode_ns: int = 0
    search_ns: int = 0
    merge_ns: int = 0
    total_ns: int = 0


@dataclass(frozen=True, kw_only=True)
class SearchAnswer:
    """Answer to one query."""

    rankings: tuple[Ranking, ...]
    sources: tuple[Source, ...]
    query_space_id: str
    timings: Timings


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Unit vectors float32 [n, d] and their space."""

    vectors: F32
    space_id: str


@dataclass(frozen=True, kw_only=True)
class ScoreAnswer:
    """Exact scores float32 [n] of the ids asked for, in their order; 0 where found [n] is False."""

    scores: F32
    found: Bool
    source: Source
    query_space_id: str
    timings: Timings


@dataclass(frozen=True, kw_only=True)
class GenerationDescription:
    """A generation that is served: its manifest, its attribute columns, and why newer ones were refused."""

    manifest: Manifest
    columns: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LiveRecall:
    """Mean recall@k of answers served, searched again exactly, with its 95 % interval [low, high]."""

    entity_type: str
    effort_json: str
    filter_band: str
    k: int
    answers: int
    recall: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class LeafState:
    """A server of shards as its broker sees it: serving or ejected, its shards, and what went wrong last."""

    target: str
    state: str
    shards: tuple[str, ...]
    last_error: str


@dataclass(frozen=True, kw_only=True)
class FollowState:
    """How a server follows the store, of one entity type; empty strings where there is nothing to tell.

    published: what CURRENT named last; previous: kept loaded for a rollback; quarantined: generations not taken up,
    each with the reason; alarm: what the last replay of the canaries found wrong; canary_recall: of the last replay.
    """

    entity_type: str
    generation: str
    published: str = ""
    previous: str = ""
    quarantined: tuple[str, ...] = ()
    canary_recall: float | None = None
    alarm: str = ""
    trouble: str = ""  # why the store could not be read when it was looked at last
    swaps: int = 0
    rollbacks: int = 0


@dataclass(frozen=True, kw_only=True)
class DeltaState:
    """Fresh entities of one type: those that can be found, rows of the generation that they hide, the last write seen.

    folded: writes up to this one are in the generation itself; trouble: why the log is not read on; oldest_age_s:
    seconds since the oldest of the writes behind `folded`, 0 where there is none.
    """

    entity_type: str
    rows: int
    hidden: int
    position: int
    folded: int
    trouble: str = ""
    oldest_age_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Description:
    """What is served."""

    version: str
    query_space_id: str | None  # None: there is no query tower
    compatible_space_ids: tuple[str, ...]
    generations: tuple[GenerationDescription, ...]
    limits: Limits
    live_recall: tuple[LiveRecall, ...] = ()
    leaves: tuple[LeafState, ...] = ()
    pressure: str = "none"  # step of the brown-out ladder
    following: tuple[FollowState, ...] = ()
    delta: tuple[DeltaState, ...] = ()
