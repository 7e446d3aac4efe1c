"""What a generation answers at its default effort, and what exact search over its own stored vectors says.

Shards are opened one at a time, so that no more than one is in memory. Scores are computed again from the stored
vectors: the harness does not trust what it measures. Knows nothing about limits or about a second generation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from index_builders.verify import Best, check_distinct, pair_scores
from retrieval import topk
from retrieval.errors import InvalidParams
from retrieval.indexes import open_index
from retrieval.params import SEARCH_PARAMS, SearchParams, make_params
from retrieval.store import Generation, ShardFiles
from retrieval.store.generation import ARROW_ID_TYPES, ID_COLUMN, VECTORS_FILE
from retrieval.store.manifest import FileEntry
from retrieval.types import F32, I32, NO_ROW, AnyArray, Bool, IdType, IndexKind, Metric

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
    return _merged([_ask(generation, shard, xq, k) for shard in generation.shards], xq, k, rescore=rescore)


def search_both(new: Generation, old: Generation, xq: F32, k: int) -> tuple[Answers, Answers]:
    """`search` of both generations for xq float32 [q, d], `new` rescored.

    The same bytes at the same effort give the same answers, so a shard that both have is asked once.
    """
    parts = {shard.manifest.name: _ask(new, shard, xq, k) for shard in new.shards}
    shared = same_shards(new, old) if _efforts(new) == _efforts(old) else frozenset()
    before = [
        parts[shard.manifest.name] if shard.manifest.name in shared else _ask(old, shard, xq, k) for shard in old.shards
    ]
    return _merged(list(parts.values()), xq, k, rescore=True), _merged(before, xq, k, rescore=False)


def same_shards(new: Generation, old: Generation) -> frozenset[str]:
    """Names of the shards whose every file is byte for byte the same in both; the files are taken as verified."""
    files = [_by_shard(each.manifest.files) for each in (new, old)]
    was = {shard.name: shard for shard in old.manifest.shards}
    return frozenset(
        shard.name
        for shard in new.manifest.shards
        if shard.name in was
        and shard.kind is was[shard.name].kind
        and files[0][shard.name] == files[1][shard.name]
        and new.manifest.metric is old.manifest.metric
    )


def _by_shard(files: Mapping[str, FileEntry]) -> dict[str, dict[str, FileEntry]]:
    found: dict[str, dict[str, FileEntry]] = defaultdict(dict)
    for name, entry in files.items():
        shard, _, file = name.partition("/")
        found[shard][file] = entry
    return found


def _efforts(generation: Generation) -> dict[IndexKind, SearchParams]:
    given = generation.manifest.default_search
    kinds = {shard.kind for shard in generation.manifest.shards}
    return {kind: make_params(SEARCH_PARAMS[kind], given.get(kind, {})) for kind in kinds}


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Answers of one shard: rows int32 [q, m] and scores float32 [q, m], padded; ids and vectors of all its rows."""

    rows: I32
    scores: F32
    ids: pa.ChunkedArray
    vectors: AnyArray
    metric: Metric


def _ask(generation: Generation, shard: ShardFiles, xq: F32, k: int) -> _Part:
    index, params = open_index(shard.manifest.kind, shard.path), _efforts(generation)[shard.manifest.kind]
    blocks = [
        index.search(xq[start : start + _AT_ONCE], min(k, index.n), params) for start in range(0, len(xq), _AT_ONCE)
    ]
    rows, scores = (np.concatenate([getattr(each, name) for each in blocks]) for name in ("rows", "scores"))
    check_distinct(rows)
    names, stored = shard.rows().column(ID_COLUMN), vectors(shard)
    return _Part(rows=rows, scores=scores, ids=names, vectors=stored, metric=generation.manifest.metric)


def _merged(parts: Sequence[_Part], xq: F32, k: int, *, rescore: bool) -> Answers:
    """The k best of all parts in the tie order. Only what can be among them is rescored and looked up by its id."""
    rows, scores = (np.concatenate([getattr(part, name) for part in parts], axis=1) for name in ("rows", "scores"))
    real = rows != NO_ROW
    valued = np.where(real, scores, -np.inf)
    cut = valued.shape[1] - min(k, valued.shape[1])
    kept = real & (valued >= np.partition(valued, cut, axis=1)[:, cut, None])
    merged = _by_id(parts, kept, scores, xq if rescore else None, k)
    # an id that came twice took another's place before it was cut
    short = np.array([len(ids) < min(k, int(have.sum())) for (ids, _, _), have in zip(merged, real, strict=True)])
    if short.any():
        merged = _by_id(parts, np.where(short[:, None], real, kept), scores, xq if rescore else None, k)
    return Answers(ids=[a for a, _, _ in merged], scores=[b for _, b, _ in merged], exact=[c for *_, c in merged])


def _by_id(parts: Sequence[_Part], kept: Bool, scores: F32, xq: F32 | None, k: int) -> list[tuple[AnyArray, F32, F32]]:
    """For each query the k best ids, their scores and, given xq, exact scores of the entries `kept` [q, all]."""
    numeric = parts[0].ids.type == ARROW_ID_TYPES[IdType.INT64]
    named: AnyArray = np.empty(kept.shape, dtype=np.int64 if numeric else object)
    exact = np.empty(kept.shape, dtype=np.float32)
    first = 0
    for part in parts:
        here = slice(first, first + part.rows.shape[1])
        mine = kept[:, here]
        rows = part.rows[mine]
        named[:, here][mine] = part.ids.take(pa.array(rows)).to_numpy()
        if xq is not None:
            exact[:, here][mine] = pair_scores(xq[np.nonzero(mine)[0]], part.vectors[rows], part.metric)
        first = here.stop
    found = []
    for i, chosen in enumerate(kept):
        ids, own = topk.merge(named[i, chosen], scores[i, chosen], k)
        if xq is None:
            found.append((ids, own, np.empty(0, np.float32)))
            continue
        known = dict(zip(named[i, chosen].tolist(), exact[i, chosen].tolist(), strict=True))
        found.append((ids, own, np.array([known[name] for name in ids.tolist()], dtype=np.float32)))
    return found


def exact_search(generation: Generation, xq: F32, k: int, column: str | None = None) -> Truth:
    """The best of all stored vectors for xq float32 [q, d]; column: attribute that tells the segment of the best."""
    truth = Best(len(xq), k)
    top = np.full(len(xq), -np.inf, dtype=np.float32)
    segment = [""] * len(xq)
    for shard in generation.shards:
        stored, rows = vectors(shard), shard.rows()
        truth.search(xq, stored, generation.manifest.metric)
        if column is None:
            continue
        better = np.flatnonzero(truth.scores[:, 0] > top)
        top = truth.scores[:, 0]
        if len(better) and column in rows.column_names:
            found, _ = topk.exact_search(xq[better], stored, 1, generation.manifest.metric)
            values = segments(rows.column(column).take(pa.array(found[:, 0]))).to_pylist()
            for query, value in zip(better, values, strict=True):
                segment[query] = value
    return Truth(scores=truth.scores, segment=segment)


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
