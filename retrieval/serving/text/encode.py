"""Queries become vectors here: texts through the tower, given vectors through the door check.

Bad vectors stop at this door (wrong dimension, NaN, Inf, zero norm), and a vector without its space is refused, because
a vector of a foreign space finds nothing and raises nothing. Knows nothing about shards or gRPC.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from retrieval.errors import FailedPrecondition, InvalidQuery
from retrieval.serving.calls import Embedding, Limits, TextQuery, VectorQuery
from retrieval.spaces import check_compatible
from retrieval.topk import check_vectors, normalise
from retrieval.types import F32, AnyArray, Metric


class TextTower(Protocol):
    """What the engine asks of a query tower."""

    @property
    def space_id(self) -> str:
        """Space of the vectors it makes."""
        ...

    @property
    def compatible(self) -> Collection[str]:
        """Foreign spaces whose indexes its vectors may search."""
        ...

    @property
    def d(self) -> int:
        """Dimension of the vectors it makes."""
        ...

    def encode(self, texts: Sequence[str]) -> F32:
        """Unit vectors float32 [n, d] of n texts."""
        ...


class CallerAwareTower(ABC):
    """A tower that also takes the caller's sign of life, and drops texts for which nobody waits any more."""

    @property
    @abstractmethod
    def space_id(self) -> str:
        """Space of the vectors it makes."""

    @property
    @abstractmethod
    def compatible(self) -> Collection[str]:
        """Foreign spaces whose indexes its vectors may search."""

    @property
    @abstractmethod
    def d(self) -> int:
        """Dimension of the vectors it makes."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> F32:
        """Unit vectors float32 [n, d] of n texts."""

    @abstractmethod
    def encode_for(self, texts: Sequence[str], check_alive: Callable[[], None]) -> F32:
        """As `encode`; raises what `check_alive` raises once the caller has gone."""

    @abstractmethod
    def close(self, timeout_s: float | None = None) -> None:
        """Finish what callers wait for and end."""


def _always() -> None:
    """The caller is still there."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One query as a checked vector float32 [d], the space it belongs to, and the foreign spaces it may search."""

    vector: F32
    space_id: str
    compatible: Collection[str] = ()


def check_text(text: str, limits: Limits) -> None:
    """InvalidQuery unless the text has between 1 and the largest number of characters."""
    if not text.strip():
        raise InvalidQuery("the query text is empty: send at least one character that is not white space")
    if len(text) > limits.max_text_characters:
        raise InvalidQuery(
            f"the query text has {len(text):,} characters, the limit is {limits.max_text_characters:,}: shorten it"
        )
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidQuery(f"the query text is not valid Unicode ({error.reason}): send valid UTF-8") from None


def check_vector(query: VectorQuery) -> F32:
    """The vector as float32 [d]; InvalidQuery when it is empty, not numbers, not finite, or of zero norm."""
    if not query.space_id:
        raise InvalidQuery(
            "the query vector has no space id, so it cannot be checked: send the id of the space it was encoded in"
        )
    try:
        if isinstance(query.values, np.ndarray) and query.values.dtype == np.float32:
            vector = np.ascontiguousarray(query.values)
        else:
            with np.errstate(over="ignore"):  # what overflows becomes infinite and is refused below
                vector = np.ascontiguousarray(query.values, dtype=np.float32)
    except (TypeError, ValueError):
        raise InvalidQuery("the query vector does not consist of numbers: send one float per dimension") from None
    if vector.ndim != 1 or vector.size == 0:
        raise InvalidQuery(f"the query vector has shape {list(vector.shape)}: send a list of one float per dimension")
    # what `check_vectors` does, for one vector at a tenth of its time
    squared = _squared(vector)
    if not 0 < squared < math.inf:
        raise InvalidQuery(f"the query vector {_fault(vector)}: send finite numbers, not all zero")
    return vector


def encode(
    queries: Sequence[TextQuery | VectorQuery],
    tower: TextTower | None,
    limits: Limits,
    check_alive: Callable[[], None] = _always,
) -> list[Encoded]:
    """Each query as a vector in its space, in order; all texts go to the tower in one call.

    check_alive raises once nobody waits, for a tower that can drop texts. Raises InvalidQuery for a bad text or
    vector, FailedPrecondition for a text when there is no tower.
    """
    encoded: list[Encoded | None] = []
    texts: list[str] = []
    for number, query in enumerate(queries):
        try:
            if isinstance(query, TextQuery):
                check_text(query.text, limits)
                texts.append(query.text)
                encoded.append(None)
                continue
            vector = check_vector(query)
        except InvalidQuery as error:
            raise _numbered(error, number, len(queries)) from None
        own = tower is not None and query.space_id == tower.space_id
        compatible = tower.compatible if own and tower is not None else ()
        encoded.append(Encoded(vector=vector, space_id=query.space_id, compatible=compatible))
    if not texts:
        return [item for item in encoded if item is not None]
    embedded = iter(embed(texts, tower, limits, check_alive).vectors)
    assert tower is not None  # embed has refused texts without one
    return [
        Encoded(vector=next(embedded), space_id=tower.space_id, compatible=tower.compatible) if item is None else item
        for item in encoded
    ]


def embed(
    texts: Sequence[str], tower: TextTower | None, limits: Limits, check_alive: Callable[[], None] = _always
) -> Embedding:
    """Vectors of texts; InvalidQuery for a bad text, FailedPrecondition when there is no tower."""
    for text in texts:
        check_text(text, limits)
    if tower is None:
        raise FailedPrecondition(
            "this server has no query tower, so it cannot encode text: start it with --checkpoint, or send a vector"
        )
    if isinstance(tower, CallerAwareTower):
        vectors = tower.encode_for(texts, check_alive)
    else:
        vectors = tower.encode(list(texts))
    bad = np.flatnonzero(~check_vectors(vectors))
    if bad.size:
        raise InvalidQuery(f"the tower has no vector for the text {texts[int(bad[0])][:80]!r}: send other words")
    return Embedding(vectors=vectors, space_id=tower.space_id)


def for_index(queries: Sequence[Encoded], *, space_id: str, d: int, metric: Metric) -> F32:
    """The queries as float32 [q, d] for an index of this space, unit length for cosine.

    Raises SpaceMismatch naming both ids for a foreign space, InvalidQuery for a wrong dimension.
    """
    for number, query in enumerate(queries):
        check_compatible(query.space_id, space_id, query.compatible)
        if len(query.vector) != d:
            error = InvalidQuery(
                f"the query vector has {len(query.vector)} dimensions, space {space_id} has {d}: encode it with "
                "the tower of that space"
            )
            raise _numbered(error, number, len(queries))
    xq = queries[0].vector[None, :] if len(queries) == 1 else np.stack([query.vector for query in queries])
    return normalise(xq) if metric is Metric.COSINE else xq


def _squared(vector: F32) -> float:
    # np.vdot sets no floating point flags that numpy would warn of, so it needs no errstate, which costs 2 microseconds
    return float(np.vdot(vector, vector))


def _numbered(error: InvalidQuery, number: int, queries: int) -> InvalidQuery:
    return error if queries == 1 else InvalidQuery(f"query {number} of the batch: {error}")


def _fault(vector: AnyArray) -> str:
    bad = np.flatnonzero(~np.isfinite(vector))
    if bad.size:
        return f"holds {vector[bad[0]]} at position {int(bad[0])}"
    if np.abs(vector).max() < 1:
        return "has zero norm"
    return "has a norm beyond the range of float32"
