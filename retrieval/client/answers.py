"""What a caller gives and gets, as plain frozen values. Knows nothing about gRPC or protobuf."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from retrieval.types import F32, I64, AnyArray, Bool


@dataclass(frozen=True, kw_only=True)
class Vector:
    """A vector [d] to search with, and the space it was encoded in."""

    values: Sequence[float] | AnyArray
    space_id: str


@dataclass(frozen=True, kw_only=True)
class Entity:
    """A stored entity to search with: "more like this"."""

    entity_type: str
    id: int | str


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Search parameters; None means the default when asked for, and "not of this kind" in an answer."""

    ef: int | None = None
    nprobe: int | None = None
    rescore: int | None = None


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One entity found."""

    rank: int  # from 1
    entity_type: str
    id: int | str
    score: float
    attributes: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Candidates as columns, best first; iterating gives `Candidate`s.

    entity_types: each candidate's type; ids: int64 [n] or list of str; scores: float32 [n]; attributes: per column a
    list [n] of plain values, None where the entity has none.
    """

    entity_type: str | None  # None in a ranking merged over several types
    entity_types: list[str]
    ids: I64 | list[str]
    scores: F32
    attributes: dict[str, list[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Candidate]:
        ids = self.ids if isinstance(self.ids, list) else self.ids.tolist()
        for place, (entity_type, entity_id, score) in enumerate(
            zip(self.entity_types, ids, self.scores.tolist(), strict=True)
        ):
            yield Candidate(
                rank=place + 1,
                entity_type=entity_type,
                id=entity_id,
                score=score,
                attributes={name: values[place] for name, values in self.attributes.items()},
            )


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the part of an answer from one entity type is worth."""

    entity_type: str
    generation: str
    space_id: str
    rows: int
    coverage: float
    effort: Effort
    recall_at_10: float | None
    recall_at_100: float | None
    degraded: tuple[str, ...]
    matches: int | None = None  # rows that the filter allows; None without one
    gave_way: str = ""  # "recall" or "deadline": which of the two bounds asked for could not be kept
    expected_recall: float | None = None  # of the best k, as measured for this effort and share of allowed rows


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Nanoseconds that the server spent per stage."""

    encode_ns: int
    search_ns: int
    merge_ns: int
    total_ns: int


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """Answer to one query: one ranking, or one per entity type when grouped."""

    candidates: tuple[Ranking, ...]
    sources: tuple[Source, ...]
    query_space_id: str
    timings: Timings


@dataclass(frozen=True, kw_only=True)
class ScoreResult:
    """Exact scores float32 [n] in the order of the ids; 0 where found [n] is False."""

    scores: F32
    found: Bool
    source: Source
    query_space_id: str
    timings: Timings


@dataclass(frozen=True, kw_only=True)
class ShardExplanation:
    """What became of an entity inside the shard that holds it; ranks count from 1.

    rank: exact, among the rows that the filter allows; list_rank, nprobe: of its inverted list, and how many lists were
    visited; approximate_rank: by the compressed codes, None where it was not seen; pool: candidates rescored exactly.
    """

    shard: str
    held: bool
    allowed: bool
    score: float
    rank: int
    returned: bool
    shard_k: int
    list_rank: int | None = None
    nprobe: int | None = None
    approximate_rank: int | None = None
    pool: int | None = None


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why an entity is or is not among the candidates: a verdict, one sentence with the figures, and the figures.

    score, exact_rank: exact, exact_rank among all allowed rows from 1; rank: in the answer from 1. None where unknown.
    """

    verdict: str
    reason: str
    score: float | None
    exact_rank: int | None
    rank: int | None
    shard: ShardExplanation | None
    source: Source
    query_space_id: str
