"""Which pairs and which random negatives each step sees: a pure function of the seed and the step number.

Each task runs through a permutation of its pairs per epoch. Because a batch follows from its step number alone, the
position in the data is one integer, a run resumes anywhere, and several processes agree without talking. Knows nothing
about texts or towers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from retrieval.errors import InvalidParams
from retrieval.training.tables import TaskPairs
from retrieval.types import F32, I64, AnyArray, Bool


@dataclass(frozen=True, kw_only=True)
class TaskBatch:
    """Pairs of one task in one step: int64 [b] and weights float32 [b]; randoms: int64 [r] further candidates."""

    queries: I64
    answers: I64
    weights: F32
    randoms: I64


class Sampler:
    """Batches by step number."""

    def __init__(
        self,
        pairs: Mapping[str, TaskPairs],
        *,
        shares: Mapping[str, float],
        pools: Mapping[str, I64],
        batch: int,
        randoms: int,
        seed: int,
        multiple: int = 1,
    ) -> None:
        """pools: of each task, what random negatives are drawn from; multiple: sizes are divisible by it (processes).

        InvalidParams when a task would get no pair in a step.
        """
        self._pairs, self._pools, self._seed = dict(pairs), dict(pools), seed
        self._randoms = randoms // multiple * multiple
        total = sum(shares[name] for name in pairs)
        self.sizes = {name: int(batch * shares[name] / total) // multiple * multiple for name in pairs}
        for name, size in self.sizes.items():
            if size < 2:
                raise InvalidParams(
                    f"task {name!r} gets {size} of {batch} pairs a step over {multiple} processes: raise batch or share"
                )
        self._orders: dict[str, tuple[int, AnyArray]] = {}

    def step(self, number: int) -> dict[str, TaskBatch]:
        """The batch of step `number` (from 0), by task."""
        return {name: self._task(place, name, number) for place, name in enumerate(self._pairs)}

    def _task(self, place: int, name: str, number: int) -> TaskBatch:
        pairs, size = self._pairs[name], self.sizes[name]
        rows = self._rows(place, name, number * size, size)
        random = np.random.default_rng((self._seed, place, 1, number))
        pool = self._pools[name]
        return TaskBatch(
            queries=pairs.queries[rows],
            answers=pairs.answers[rows],
            weights=pairs.weights[rows],
            randoms=pool[random.integers(len(pool), size=self._randoms)],
        )

    def _rows(self, place: int, name: str, start: int, size: int) -> AnyArray:
        count = len(self._pairs[name])
        parts = []
        while size:
            epoch, at = divmod(start, count)
            taken = min(size, count - at)
            parts.append(self._order(place, name, epoch)[at : at + taken])
            start, size = start + taken, size - taken
        return np.concatenate(parts)

    def _order(self, place: int, name: str, epoch: int) -> AnyArray:
        known = self._orders.get(name)
        if known is None or known[0] != epoch:
            random = np.random.default_rng((self._seed, place, 0, epoch))
            known = self._orders[name] = (epoch, random.permutation(len(self._pairs[name])))
        return known[1]


class KnownAnswers:
    """All true pairs of one kind of answer, to tell which candidates are no negatives of a query."""

    def __init__(self, queries: I64, answers: I64) -> None:
        """queries, answers: int64 [p], pair by pair; repetition allowed."""
        order = np.lexsort((answers, queries))
        self._queries, self._answers = queries[order], answers[order]

    def mask(self, queries: I64, candidates: I64) -> Bool:
        """bool [n, m]: True where candidate [m] is a known answer of query [n]."""
        if len(candidates) == 0:
            return np.zeros((len(queries), 0), dtype=bool)
        distinct, row_of = np.unique(queries, return_inverse=True)
        columns, column_of = np.unique(candidates, return_inverse=True)
        starts = np.searchsorted(self._queries, distinct, side="left")
        counts = np.searchsorted(self._queries, distinct, side="right") - starts
        rows = np.repeat(np.arange(len(distinct)), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        answers = self._answers[np.repeat(starts, counts) + within]
        places = np.minimum(np.searchsorted(columns, answers), len(columns) - 1)
        hit = columns[places] == answers
        small = np.zeros((len(distinct), len(columns)), dtype=bool)
        small[rows[hit], places[hit]] = True
        return np.asarray(small[row_of][:, column_of])
