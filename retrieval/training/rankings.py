"""Exact rankings by vectors: every candidate searched, for each prefix of the embedding, in bounded memory.

A prefix is the first dimensions of both sides, at unit length again. The tie rule is that of `retrieval.topk`: score
descending, then candidate number ascending. Knows nothing about where vectors come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import pyarrow as pa

from retrieval.errors import InvalidData, InvalidParams
from retrieval.topk import exact_search
from retrieval.training.questions import Corpus, Questions, index_rows
from retrieval.types import F32, I64, Bool, Metric

Rankings: TypeAlias = list[list[int]]  # candidate numbers of each query, best first
EncodeQueries: TypeAlias = Callable[[Sequence[str]], F32]
EncodeEntities: TypeAlias = Callable[[pa.Table], tuple[F32, Bool]]  # vectors [n, d]; which rows have one
Progress: TypeAlias = Callable[[str, int, int], None]

_ENTITIES = 16_384  # encoded at a time
_QUERIES = 512  # searched at a time


class System(Protocol):
    """Anything that ranks the candidates of a task."""

    name: str

    def rank(self, questions: Questions, depth: int) -> Mapping[int | None, Rankings]:
        """Rankings by prefix (None: the system has no dimensions); up to `depth` candidates of each query."""


class VectorSystem:
    """Ranks by inner products of unit vectors. Entities are encoded once, when it is made."""

    def __init__(
        self,
        name: str,
        corpus: Corpus,
        questions: Sequence[Questions],
        *,
        encode_queries: EncodeQueries,
        encode_entities: EncodeEntities,
        d: int,
        prefixes: Sequence[int] = (),
        progress: Progress | None = None,
    ) -> None:
        """prefixes: beside the whole embedding of d dimensions, which is always measured; InvalidParams for one
        outside 1 to d, InvalidData when no entity that is searched has anything to be encoded.
        """
        for prefix in prefixes:
            if not 1 <= prefix <= d:
                raise InvalidParams(f"prefix {prefix} is not acceptable: the embeddings of {name} have {d} dimensions")
        self.name, self._encode_queries = name, encode_queries
        self._d, self._prefixes = d, sorted({*prefixes, d})
        rows = index_rows(questions)
        self._place = np.zeros(len(corpus.entities), dtype=np.int64)
        self._place[rows] = np.arange(len(rows))
        self._vectors = np.zeros((len(rows), d), dtype=np.float32)
        self._there = np.zeros(len(rows), dtype=bool)
        for start in range(0, len(rows), _ENTITIES):
            chunk = slice(start, start + _ENTITIES)
            table = corpus.entities.table.take(pa.array(rows[chunk]))
            self._vectors[chunk], self._there[chunk] = encode_entities(table)
            if progress is not None:
                progress(f"{name}: encode entities", min(start + _ENTITIES, len(rows)), len(rows))
        if len(rows) and not self._there.any():
            raise InvalidData(f"none of the {len(rows)} entities has anything that {name} reads: name other tables")

    @property
    def without_vector(self) -> int:
        """Entities that cannot be found, because nothing of them could be encoded."""
        return int((~self._there).sum())

    def rank(self, questions: Questions, depth: int) -> dict[int | None, Rankings]:
        """Rankings by prefix."""
        xq = self._encode_queries(questions.texts)
        if questions.rows is None:
            xb, allow = self._encode_queries(questions.answers), None
        else:
            places = self._place[questions.rows]
            xb, allow = self._vectors[places], self._there[places]
        return {
            prefix: rank_vectors(shorten(xq, prefix), shorten(xb, prefix), depth, allow=allow, own=questions.own)
            for prefix in self._prefixes
        }


def shorten(vectors: F32, prefix: int) -> F32:
    """The first `prefix` dimensions of unit vectors [n, d] at unit length, float32 [n, prefix]; zero rows stay zero."""
    if prefix == vectors.shape[1]:
        return vectors
    cut = vectors[:, :prefix]
    norms = np.sqrt(np.einsum("nd,nd->n", cut, cut))[:, None]
    return np.asarray(cut / np.maximum(norms, 1e-12), dtype=np.float32)


def rank_vectors(xq: F32, xb: F32, depth: int, *, allow: Bool | None = None, own: I64 | None = None) -> Rankings:
    """The `depth` best rows of xb [n, d] for each query [q, d], fewer where there are not so many.

    allow: bool [n]; own: int64 [q], a row that is left out of the ranking of that query, -1 for none.
    """
    out: Rankings = []
    more = 0 if own is None or (own < 0).all() else 1
    for start in range(0, len(xq), _QUERIES):
        found, _ = exact_search(xq[start : start + _QUERIES], xb, depth + more, Metric.COSINE, allow=allow)
        for number, rows in enumerate(found.tolist(), start):
            out.append([row for row in rows if row >= 0 and (own is None or row != own[number])][:depth])
    return out
