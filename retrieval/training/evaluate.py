"""How good a ranking is by people's judgement: nDCG@k and recall@k over judged queries, with a confidence interval.

Conventions. Gain is 2^rating - 1, discount 1 / log2(rank + 1) with ranks from 1. An entity without a judgement has
rating 0. A query without any relevant judgement says nothing about a ranking: its value is NaN, and it is left out of
every mean; `Measured.queries` is the number that counted. Plain numpy; knows nothing about towers or indexes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from retrieval.errors import InvalidData, InvalidParams

F64: TypeAlias = npt.NDArray[np.float64]
Judgments: TypeAlias = Mapping[str, Mapping[Any, float]]  # query -> entity id -> rating, 0 or more

_DRAWN = 1 << 23  # query numbers of the bootstrap held at once: 64 MiB


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Mean over the queries that counted, with the bounds of its bootstrap interval."""

    mean: float
    low: float
    high: float
    queries: int


def judgments_by_query(queries: Sequence[str], ids: Sequence[Any], ratings: Sequence[int]) -> dict[str, dict[Any, int]]:
    """Judgements as columns of equal length into query -> id -> rating; InvalidData for a negative rating."""
    grouped: dict[str, dict[Any, int]] = {}
    for query, entity, rating in zip(queries, ids, ratings, strict=True):
        if rating < 0:
            raise InvalidData(f"rating {rating} of entity {entity!r} for {query!r} is below 0: ratings start at 0")
        grouped.setdefault(query, {})[entity] = int(rating)
    return grouped


def ndcg_at_k(ranked: Sequence[Sequence[Any]], ratings: Sequence[Mapping[Any, float]], k: int) -> F64:
    """nDCG@k float64 [q], NaN for a query with no rating above 0.

    ranked: entity ids of each query, best first, without repetition; ratings: those of the same queries.
    """
    _check(ranked, ratings, k)
    discounts = 1 / np.log2(np.arange(2, k + 2))
    values = np.full(len(ranked), np.nan)
    for row, (found, judged) in enumerate(zip(ranked, ratings, strict=True)):
        ideal = np.sort(_gains(list(judged.values())))[::-1][:k]
        if ideal.sum() == 0:
            continue
        gains = _gains([judged.get(entity, 0) for entity in found[:k]])
        values[row] = (gains * discounts[: len(gains)]).sum() / (ideal * discounts[: len(ideal)]).sum()
    return values


def recall_at_k(
    ranked: Sequence[Sequence[Any]], ratings: Sequence[Mapping[Any, float]], k: int, *, relevant_from: float = 1
) -> F64:
    """Share of the relevant entities among the first k, float64 [q]; NaN for a query that has none.

    Relevant is a rating >= relevant_from. With more than k relevant entities the share is of k, so that 1 can be
    reached.
    """
    _check(ranked, ratings, k)
    values = np.full(len(ranked), np.nan)
    for row, (found, judged) in enumerate(zip(ranked, ratings, strict=True)):
        relevant = {entity for entity, rating in judged.items() if rating >= relevant_from}
        if relevant:
            values[row] = len(relevant.intersection(found[:k])) / min(k, len(relevant))
    return values


def summarise(values: F64, *, confidence: float = 0.95, resamples: int = 2_000, seed: int = 0) -> Measured:
    """Mean of the values float64 [q] that are not NaN, with a percentile bootstrap interval over queries.

    InvalidData when no query counts.
    """
    counted = values[~np.isnan(values)]
    if len(counted) == 0:
        raise InvalidData(f"none of {len(values)} queries has a relevant judgement: there is nothing to measure")
    random = np.random.default_rng(seed)
    block = max(1, _DRAWN // len(counted))  # resamples drawn at once, so that memory stays bounded
    means = [
        counted[random.integers(len(counted), size=(min(block, resamples - start), len(counted)))].mean(axis=1)
        for start in range(0, resamples, block)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Measured(mean=float(counted.mean()), low=float(low), high=float(high), queries=len(counted))


def _gains(ratings: Sequence[float]) -> F64:
    return np.asarray(np.exp2(np.asarray(ratings, dtype=np.float64)) - 1)


def _check(ranked: Sequence[Sequence[Any]], ratings: Sequence[Mapping[Any, float]], k: int) -> None:
    if k < 1:
        raise InvalidParams(f"k = {k} is not acceptable: a cut-off is 1 or more")
    if len(ranked) != len(ratings):
        raise InvalidData(f"{len(ranked)} rankings for {len(ratings)} judged queries: give one ranking per query")
    for row, found in enumerate(ranked):
        if len(set(found[:k])) != len(found[:k]):
            raise InvalidData(f"ranking {row} repeats an entity among its first {k}: rank each entity once")
