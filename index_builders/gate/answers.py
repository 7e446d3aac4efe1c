"""What a generation answers at its default effort, and what exact search over its own stored vectors says.

Shards are opened one at a time, so that no more than one is in memory. Scores are computed again from the stored
vectors: the harness does not trust what it measures. Knows nothing about limits or about a second generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from index_builders.verify import best, rescored
from retrieval import topk
from retrieval.errors import InvalidParams
from retrieval.indexes import open_index
from retrieval.params import SEARCH_PARAMS, make_params
from retrieval.store import Generation, ShardFiles
from retrieval.store.generation import ID_COLUMN, VECTORS_FILE
from retrieval.types import F32, NO_ROW, AnyArray

_AT_ONCE = 64  # queries searched together


@dataclass(frozen=True, kw_only=True)
class Answers:
    """One array per query, in the tie order: ids, the index's own scores, and the same entries' exact scores."""

    ids: list[AnyArray]
    scores: list[F32]
    exact: list[F32]


@dataclass(frozen=True, kw_only=True)
class Truth:
    """scores: float32 [q, k] of exact search, -inf padded; segment: of each query's best answer, "" where not asked."""

    scores: F32
    segment: list[str]


def vectors(shard: ShardFiles) -> AnyArray:
    """The stored vectors [n, d], memory-mapped."""
    return np.asanyarray(np.load(shard.path / VECTORS_FILE, mmap_mode="r", allow_pickle=False))


def search(generation: Generation, xq: F32, k: int, *, rescore: bool = True) -> Answers:
    """The merged answers of all shards for xq float32 [q, d] at the default effort; without `rescore` exact is empty.

    DamagedData, StoreError or BuildFailed when a shard does not open or answers one row twice.
    """
    manifest = generation.manifest
    parts: list[list[tuple[AnyArray, F32, F32]]] = [[] for _ in xq]
    for shard in generation.shards:
        kind = shard.manifest.kind
        params = make_params(SEARCH_PARAMS[kind], manifest.default_search.get(kind, {}))
        index, names, stored = open_index(kind, shard.path), shard.rows().column(ID_COLUMN), vectors(shard)
        for start in range(0, len(xq), _AT_ONCE):
            block = xq[start : start + _AT_ONCE]
            found = index.search(block, min(k, index.n), params)
            for i, rows in enumerate(found.rows):
                real = rows[rows != NO_ROW]
                ids = names.take(pa.array(real)).to_numpy()
                exact = rescored(block[i], real, stored, None, manifest.metric) if rescore else np.empty(0, np.float32)
                parts[start + i].append((ids, found.scores[i][: len(real)], exact))
    merged = [_merge(each, k) for each in parts]
    return Answers(ids=[a for a, _, _ in merged], scores=[b for _, b, _ in merged], exact=[c for *_, c in merged])


def _merge(parts: Sequence[tuple[AnyArray, F32, F32]], k: int) -> tuple[AnyArray, F32, F32]:
    ids, scores, exact = (np.concatenate(each) for each in zip(*parts, strict=True))
    merged, merged_scores = topk.merge(ids, scores, k)
    if len(exact) == 0:
        return merged, merged_scores, exact
    known = dict(zip(ids.tolist(), exact.tolist(), strict=True))
    return merged, merged_scores, np.array([known[name] for name in merged.tolist()], dtype=np.float32)


def exact_search(generation: Generation, xq: F32, k: int, column: str | None = None) -> Truth:
    """The best of all stored vectors for xq float32 [q, d]; column: attribute that tells the segment of the best."""
    scores: F32 = np.empty((len(xq), 0), dtype=np.float32)
    top = np.full(len(xq), -np.inf, dtype=np.float32)
    segment = [""] * len(xq)
    for shard in generation.shards:
        stored, rows = vectors(shard), shard.rows()
        found, here = topk.exact_search(xq, stored, min(k, len(stored)), generation.manifest.metric)
        scores = best(np.concatenate([scores, here], axis=1), k)
        better = np.flatnonzero(here[:, 0] > top)
        top[better] = here[better, 0]
        if column is not None and column in rows.column_names:
            values = segments(rows.column(column).take(pa.array(found[better, 0]))).to_pylist()
            for query, value in zip(better, values, strict=True):
                segment[query] = value
    return Truth(scores=scores, segment=segment)


def segments(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values of an attribute as text; a null is the segment "none". InvalidParams for lists and structures."""
    kind = column.type
    plain = column.cast(kind.value_type) if pa.types.is_dictionary(kind) else column
    if pa.types.is_nested(kind):
        raise InvalidParams(
            f"the gate's segment column has type {kind}: choose an attribute with one value for each entity"
        )
    return pc.fill_null(plain.cast(pa.string()), "none")


def recall(answers: Answers, truth: Truth, chosen: AnyArray, k: int) -> float:
    """Tie-aware recall@k of the chosen queries (numbers [n])."""
    found = np.full((len(chosen), k), -np.inf, dtype=np.float32)
    for place, query in enumerate(chosen):
        exact = np.sort(answers.exact[query][:k])[::-1]
        found[place, : len(exact)] = exact
    wanted = truth.scores[chosen][:, :k]
    return topk.recall(found[:, : wanted.shape[1]], wanted)
