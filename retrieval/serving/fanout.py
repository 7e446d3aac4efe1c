"""One generation's shards searched and merged into one answer per query.

The tie rule is `retrieval.topk`'s: score descending, id ascending, dedupe before the cut. A shard that fails costs
coverage and is named; it never fails the call by itself. Shards are searched in sequence or over a fixed pool. Knows
nothing about spaces, entity types or where a shard runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import pyarrow as pa

from retrieval.errors import InvalidArgument, Overloaded, Unavailable
from retrieval.params import SearchParams
from retrieval.serving.filtering.bitmaps import codes_of, concatenated, crowd_ranks
from retrieval.serving.filtering.filters import UNRESTRICTED, Crowding, Restriction
from retrieval.serving.shards import Hits, Shard, ShardExplanation
from retrieval.topk import merge
from retrieval.types import F32, I32, AnyArray, Bool, IndexKind

_log = logging.getLogger(__name__)
_R = TypeVar("_R")


@dataclass(frozen=True, kw_only=True)
class Merged:
    """The best of all shards for one query, in the tie order.

    ids: int64 [n] or object [n] of str; scores: float32 [n]; shards, rows: int32 [n], where each candidate lies;
    crowd: the crowding column's values [n], None without crowding.
    """

    ids: AnyArray
    scores: F32
    shards: I32
    rows: I32
    crowd: pa.Array | None = None


@dataclass(frozen=True, kw_only=True)
class Reached:
    """Which shards answered: their share of the rows, and one phrase for each that did not."""

    coverage: float
    failures: tuple[str, ...]


@runtime_checkable
class Together(Protocol):
    """Shards asked together, because one call brings several answers; an exception stands for one that failed."""

    def search(
        self, xq: F32, k: int, params: Mapping[IndexKind, SearchParams], restriction: Restriction = UNRESTRICTED
    ) -> list[Hits | Exception]:
        """As `Shard.search`, of each shard."""
        ...

    def score(self, xq: F32, ids: AnyArray) -> list[tuple[F32, Bool] | Exception]:
        """As `Shard.score`, of each shard."""
        ...

    def vectors(self, ids: AnyArray) -> list[tuple[F32, Bool] | Exception]:
        """As `Shard.vectors`, of each shard."""
        ...

    def explain(
        self,
        xq: F32,
        ids: AnyArray,
        k: int,
        params: Mapping[IndexKind, SearchParams],
        restriction: Restriction = UNRESTRICTED,
        score: float | None = None,
    ) -> list[ShardExplanation | Exception]:
        """As `Shard.explain`, of each shard."""
        ...


def search_shards(
    shards: Sequence[Shard],
    xq: F32,
    k: int,
    params: dict[IndexKind, SearchParams],
    pool: Executor | None,
    restriction: Restriction = UNRESTRICTED,
) -> tuple[list[Hits | None], Reached]:
    """Search xq float32 [q, d] in every shard; None stands for a shard that failed.

    InvalidArgument from a shard is the caller's mistake and is raised.
    """
    # asking a protocol costs some 9 microseconds, which the plain tuple of most servers need not pay for every call
    if type(shards) is not tuple and isinstance(shards, Together):
        return _reached(shards, shards.search(xq, k, params, restriction))
    return _ask(shards, lambda shard: shard.search(xq, k, params[shard.kind], restriction=restriction), pool)


def explain_shards(
    shards: Sequence[Shard],
    xq: F32,
    ids: AnyArray,
    k: int,
    params: dict[IndexKind, SearchParams],
    pool: Executor | None,
    restriction: Restriction = UNRESTRICTED,
    score: float | None = None,
) -> tuple[list[ShardExplanation | None], Reached]:
    """What every shard says of the entity ids [1] for one query [1, d]; None stands for a shard that failed."""
    if isinstance(shards, Together):
        return _reached(shards, shards.explain(xq, ids, k, params, restriction, score))
    return _ask(
        shards,
        lambda shard: shard.explain(xq, ids, k, params[shard.kind], restriction=restriction, score=score),
        pool,
    )


def score_shards(shards: Sequence[Shard], xq: F32, ids: AnyArray, pool: Executor | None) -> tuple[F32, Bool, Reached]:
    """Exact scores float32 [q, n] of ids [n] and bool [n] which were found; 0 where not."""
    if isinstance(shards, Together):
        answers, reached = _reached(shards, shards.score(xq, ids))
    else:
        answers, reached = _ask(shards, lambda shard: shard.score(xq, ids), pool)
    scores, found = np.zeros((len(xq), len(ids)), np.float32), np.zeros(len(ids), bool)
    for answer in answers:
        if answer is not None:
            np.copyto(scores, answer[0], where=answer[1][None, :])
            found |= answer[1]
    return scores, found, reached


def find_vectors(shards: Sequence[Shard], ids: AnyArray, pool: Executor | None) -> tuple[F32, Bool, Reached]:
    """Stored vectors float32 [n, d] of ids [n] and bool [n] which were found."""
    if isinstance(shards, Together):
        answers, reached = _reached(shards, shards.vectors(ids))
    else:
        answers, reached = _ask(shards, lambda shard: shard.vectors(ids), pool)
    answered = [answer for answer in answers if answer is not None]
    if not answered:
        return np.zeros((len(ids), 0), np.float32), np.zeros(len(ids), bool), reached
    vectors, found = np.zeros_like(answered[0][0]), np.zeros(len(ids), bool)
    for part, held in answered:
        vectors[held] = part[held]
        found |= held
    return vectors, found, reached


def merge_hits(hits: Sequence[Hits | None], query: int, k: int, crowding: Crowding | None = None) -> Merged:
    """Merge what the shards found for one query of the batch; crowding comes after the dedupe and before the cut."""
    parts = []
    for number, part in enumerate(hits):
        if part is not None:
            first, last = part.bounds[query], part.bounds[query + 1]
            parts.append((number, part.ids[first:last], part.scores[first:last], part.rows[first:last]))
    if not parts:
        nothing = np.zeros(0, np.int32)
        return Merged(ids=nothing.astype(np.int64), scores=nothing.astype(np.float32), shards=nothing, rows=nothing)
    if len(parts) == 1 and crowding is None and (only := _untied(*parts[0], k)) is not None:
        return only
    numbers, ids, scores, rows = zip(*parts, strict=True)
    all_ids, all_scores = np.concatenate(ids), np.concatenate(scores)
    crowd = None
    if crowding is None:
        order = merge_order(all_ids, all_scores, k)
    else:
        every = concatenated(
            [
                part.crowd[part.bounds[query] : part.bounds[query + 1]]
                for part in hits
                if part is not None and part.crowd is not None
            ]
        )
        order = merge_order(all_ids, all_scores, max(len(all_ids), 1))
        codes = codes_of(every)
        order = order[crowd_ranks(codes[order]) < crowding.at_most][:k]
        crowd = every.take(pa.array(order))
    sizes = [len(part) for part in scores]
    return Merged(
        ids=all_ids[order],
        scores=all_scores[order],
        shards=np.repeat(np.array(numbers, np.int32), sizes)[order],
        rows=np.concatenate(rows)[order],
        crowd=crowd,
    )


def _untied(number: int, ids: AnyArray, scores: F32, rows: I32, k: int) -> Merged | None:
    """What one shard found, which is its own merge where no two scores are equal: it is sorted, an id is in it once."""
    if len(scores) > 1 and not (scores[:-1] > scores[1:]).all():
        return None
    return Merged(ids=ids[:k], scores=scores[:k], shards=np.full(min(len(scores), k), number, np.int32), rows=rows[:k])


def merge_order(ids: AnyArray, scores: F32, k: int) -> AnyArray:
    """Positions of the at most k best distinct ids in the tie order: `topk.merge`, as positions.

    ids: int64 or object [m]; scores: float32 [m]. An id lives in one shard, so repeats are the exception: where none
    reaches the k-th score, only what does has to be sorted by id.
    """
    kept: AnyArray | None = None
    if len(ids) > k:
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        kept = np.flatnonzero(scores >= threshold)
        best_ids, best_scores = ids[kept], scores[kept]
    else:
        best_ids, best_scores = ids, scores
    if _repeats(best_ids):
        return _merge_repeats(ids, scores, k)
    order = np.lexsort((best_ids, -best_scores))[:k]
    return np.asarray(order if kept is None else kept[order])


def _merge_repeats(ids: AnyArray, scores: F32, k: int) -> AnyArray:
    # the first of equal (id, score) pairs stands for all of them, which are the same entity
    kept_ids, kept_scores = merge(ids, scores, k)
    place = {pair: at for at, pair in reversed(list(enumerate(zip(ids.tolist(), scores.tolist(), strict=True))))}
    pairs = zip(kept_ids.tolist(), kept_scores.tolist(), strict=True)
    return np.fromiter((place[pair] for pair in pairs), np.int64, len(kept_ids))


def _repeats(ids: AnyArray) -> bool:
    if ids.dtype == object:
        return len(set(ids.tolist())) < len(ids)
    ordered = np.sort(ids)
    return bool((ordered[1:] == ordered[:-1]).any())


def _ask(
    shards: Sequence[Shard], question: Callable[[Shard], _R], pool: Executor | None
) -> tuple[list[_R | None], Reached]:
    def guarded(shard: Shard) -> _R | Exception:
        try:
            return question(shard)
        except InvalidArgument:
            raise
        except (Unavailable, Overloaded) as error:  # expected of a fleet, and it says itself why
            _log.warning("%s: %s", shard.name, error)
            return error
        except Exception as error:
            _log.exception("%s failed", shard.name)
            return error

    asked = map(guarded, shards) if pool is None or len(shards) == 1 else pool.map(guarded, shards)
    return _reached(shards, asked)


def _reached(shards: Sequence[Shard], asked: Iterable[_R | Exception]) -> tuple[list[_R | None], Reached]:
    answers: list[_R | None] = []
    failures = []
    searched = 0
    for shard, answer in zip(shards, asked, strict=True):
        if isinstance(answer, Exception):
            answers.append(None)
            why = (
                f": {answer}"
                if isinstance(answer, Unavailable | Overloaded)
                else f" failed with {type(answer).__name__}"
            )
            failures.append(f"{shard.name} ({shard.rows:,} rows){why}")
        else:
            answers.append(answer)
            searched += shard.rows
    total = sum(shard.rows for shard in shards)
    coverage = 1.0 if not failures else searched / total
    return answers, Reached(coverage=coverage, failures=tuple(failures))
