"""The graph search of the kernel in numpy: same rows, scores and work counters as the native `Graph`, at every level.

Slow and plain, to say what walk.h and graph.cpp must do; written with sets and sorted lists where they keep one array.
A query is rotated and quantised, upper layers are descended greedily, the base layer is walked with a pool, and the
eligible rows of the pool that can still be among the k best are scored exactly. Knows nothing about speed or damage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from retrieval.kernel import Codes, reference
from retrieval.types import F16, F32, I32, I64, U8, U32, AnyArray, Metric

_PADDING = 0xFFFFFFFF
_QUERY_STEPS = 127 * 128  # a query's coordinate is 128 * high + low; high has 8 bits, and a walk uses only that
_DEVIATIONS = np.float32(6)  # of the codes' error that an exact score may lie above its approximation


class Graph:
    """`retrieval.kernel.Graph` with the same arguments, but for threads and level, and without its checks."""

    def __init__(
        self,
        vectors: F16 | F32,
        neighbors: U32,
        upper_rows: U32,
        upper_down: U32,
        upper_neighbors: U32,
        layer_first: Sequence[int],
        entry: int,
        metric: Metric,
        *,
        codes: Codes | None = None,
    ) -> None:
        self._vectors, self._neighbors, self._metric, self._codes = vectors, neighbors, metric, codes
        self._upper_rows, self._upper_down, self._upper_neighbors = upper_rows, upper_down, upper_neighbors
        self._layers, self._entry = len(layer_first) - 1, entry
        if codes is not None:
            self._walked = _join(codes.data) >> (4 if codes.walk_bits == 4 else 0)

    def search(
        self,
        xq: F32,
        k: int,
        ef: int,
        *,
        max_distances: int = 0,
        allow: U8 | None = None,
        deleted: U8 | None = None,
    ) -> tuple[I32, F32, I64, I64]:
        """Walk the graph: (rows int32 [q, k], exact scores float32 [q, k], distances int64 [q], hops int64 [q])."""
        with np.errstate(all="ignore"):
            found = [self._search_one(xq[i : i + 1], k, ef, max_distances, allow, deleted) for i in range(len(xq))]
        return (
            np.concatenate([np.empty((0, k), dtype=np.int32), *(rows for rows, _, _, _ in found)]),
            np.concatenate([np.empty((0, k), dtype=np.float32), *(scores for _, scores, _, _ in found)]),
            np.array([distances for _, _, distances, _ in found], dtype=np.int64),
            np.array([hops for _, _, _, hops in found], dtype=np.int64),
        )

    def _search_one(
        self, xq: F32, k: int, ef: int, max_distances: int, allow: U8 | None, deleted: U8 | None
    ) -> tuple[I32, F32, int, int]:
        n = len(self._vectors)
        eligible = reference.eligible(n, allow, deleted)
        count = int(eligible.sum())
        wanted = min(k, count)
        query = _Query(xq, self._metric, self._codes)
        pool_size = max(k + self._slack(k), ef)
        beyond = pool_size - max(k, ef)  # room for entries that are only scored exactly
        if 0 < count < n:
            rarity = n / count
            pool_size = math.ceil(max(pool_size * math.pow(rarity, 0.8), 1.25 * wanted * rarity))
        distances = hops = 0
        rows: list[int] = []
        complete = wanted == 0
        while not complete:
            pool_size = min(pool_size, n)
            budget = max(max_distances - distances, 1) if max_distances else 0
            width = pool_size - beyond if pool_size < n else pool_size
            pool, walked, hopped = self._walk(query, pool_size, width, budget)
            distances, hops = distances + walked, hops + hopped
            rows = self._worth_scoring(query, [row for row in pool if eligible[row]], k)
            complete = len(rows) >= wanted or 0 < max_distances <= distances
            hopeless = len(pool) < pool_size or pool_size == n or 4 * walked > count
            if not complete and hopeless:
                out = reference.scan(self._vectors, xq, k, self._metric, allow=allow, deleted=deleted)
                return out[0], out[1], distances + count, hops
            pool_size *= 4
        best = reference.rescore(self._vectors, xq, np.array([rows], dtype=np.int32), k, self._metric)
        return best[0], best[1], distances, hops

    def _slack(self, k: int) -> int:
        """Room in the pool beyond k: codes confuse the order near its end."""
        if self._codes is None:
            return 0
        return k // 3 + 16 if self._codes.walk_bits == 4 else k // 8 + 8

    def _walk(self, query: _Query, pool_size: int, width: int, budget: int) -> tuple[list[int], int, int]:
        """Rows of the pool, best first, and the distances and hops it took; a budget of 0 has no end.

        width: the best entries of the pool, which are expanded.
        """
        first, distances, hops = self._descend(query)
        pool = [first]  # (order of the score, -row), best first
        met, expanded = {-first[1]}, set()
        beam = 6 if pool_size <= 1000 else 16
        waiting: list[int] = []  # rows met in the step before, scored after the next are chosen
        while True:
            more = budget == 0 or distances < budget
            chosen = [-entry[1] for entry in pool[:width] if -entry[1] not in expanded][:beam] if more else []
            if not chosen and not waiting:
                break
            expanded.update(chosen)
            hops += len(chosen)
            arriving: list[int] = []
            for row in chosen:
                for neighbor in _until_padding(self._neighbors[row]):
                    if neighbor not in met:
                        met.add(neighbor)
                        arriving.append(neighbor)
            distances += len(arriving)
            pool = sorted(pool + self._entries(query, waiting), reverse=True)[:pool_size]
            waiting = arriving
        return [-entry[1] for entry in pool], distances, hops

    def _descend(self, query: _Query) -> tuple[tuple[int, int], int, int]:
        """Entry of the row where the base layer's walk begins, and the distances and hops it took."""
        slot = self._entry
        best = self._entries(query, [int(self._upper_rows[slot]) if self._layers else slot])[0]
        distances, hops = 1, 0
        for _ in range(self._layers):
            moved = True
            while moved and (slots := _until_padding(self._upper_neighbors[slot])):
                entries = self._entries(query, [int(self._upper_rows[s]) for s in slots])
                distances, hops = distances + len(entries), hops + 1
                moved = max(entries) > best
                if moved:
                    best = max(entries)
                    slot = slots[entries.index(best)]
            slot = int(self._upper_down[slot])
        return best, distances, hops

    def _entries(self, query: _Query, rows: list[int]) -> list[tuple[int, int]]:
        """(order, -row) of each row: compared as tuples, the better score is larger, then the smaller row."""
        if not rows:
            return []
        if self._codes is None:
            values = reference.score(self._vectors, query.xq, np.array([rows], dtype=np.int32), self._metric)[0]
            orders = _order(values)
        elif self._codes.scale is None:  # all rows have one step, so the integers are the order
            orders = self._dots(query, rows)
        else:
            orders = _order(self._approximate(query, rows))
        return list(zip(orders.tolist(), (-row for row in rows), strict=True))

    def _dots(self, query: _Query, rows: list[int]) -> AnyArray:
        return np.asarray(self._walked[rows].astype(np.int64) @ query.high)

    def _approximate(self, query: _Query, rows: list[int]) -> F32:
        """What the codes that a walk reads make of the rows' scores; a constant of the query is left out."""
        c, dots = self._codes, self._dots(query, rows)
        assert c is not None
        if c.scale is None:
            step = np.float32(32 if c.walk_bits == 4 else 2) * query.multiplier * query.unit_scale
            return np.asarray(step * dots.astype(np.float32))
        total = int(query.high.sum())
        centred = 32 * dots - 240 * total if c.walk_bits == 4 else 2 * dots - 255 * total
        values = query.multiplier * centred.astype(np.float32) * c.scale[rows]
        return np.asarray(values if c.bias is None else values + c.bias[rows])

    def _worth_scoring(self, query: _Query, rows: list[int], k: int) -> list[int]:
        """The rows, best first, less those whose exact score cannot reach that of the k-th."""
        c = self._codes
        if c is None or not rows:
            return rows
        # errors of rotated coordinates are close to uniform over a step, so those of scores are close to normal
        two = np.float32(2 if self._metric is Metric.L2 else 1)
        of_row = np.float32(32 if c.walk_bits == 4 else 2) * query.norm * two
        of_query = np.float32(512) / np.float32(9) * np.sqrt(np.float32(c.data.shape[1]))
        variance = of_row * of_row + query.multiplier * query.multiplier * of_query * of_query
        deviation = np.float32(0.2887) * np.sqrt(variance)
        scale = np.full(len(rows), query.unit_scale) if c.scale is None else c.scale[rows]
        values, margins = self._approximate(query, rows), _DEVIATIONS * deviation * scale
        kept: list[int] = []
        needed = np.float32(-np.inf)
        for row, value, margin in zip(rows, values, margins, strict=True):
            if value + margin < needed:
                continue
            if len(kept) == k - 1:
                needed = value - margin
            kept.append(row)
        return kept


class _Query:
    """xq float32 [1, d]; norm; and where there are codes, high int64 [w], worth `multiplier` a step."""

    def __init__(self, xq: F32, metric: Metric, codes: Codes | None) -> None:
        self.xq = xq
        squares = np.cumsum(xq[0].astype(np.float64) ** 2)  # cumsum adds in order, sum does not
        self.norm = np.float32(np.sqrt(squares[-1]))
        if codes is None:
            return
        rotated = reference.rotate(xq, codes.seed)[0]
        largest = np.fmax.reduce(np.abs(rotated), initial=np.float32(0))
        usable = bool(largest > 0 and np.isfinite(largest))
        step = largest / np.float32(_QUERY_STEPS) if usable else np.float32(0)
        scaled = rotated * (np.float32(_QUERY_STEPS) / largest) if usable else np.zeros_like(rotated)
        scaled = np.where(np.isfinite(scaled), scaled, np.float32(0))
        whole = np.clip(np.rint(scaled), -_QUERY_STEPS, _QUERY_STEPS).astype(np.int64)
        self.high = (whole + 64) >> 7
        self.multiplier = np.float32(128) * (np.float32(2 if metric is Metric.L2 else 1) * step)
        self.unit_scale = reference.unit_scale(len(rotated))


def _until_padding(neighbors: U32) -> list[int]:
    return [int(neighbor) for neighbor in neighbors if neighbor != _PADDING]


def _order(values: F32) -> AnyArray:
    """Integers in the order of the values; NaN comes last."""
    bits = values.view(np.uint32).astype(np.int64)
    return np.where(np.isnan(values), 0, np.where(bits >= 2**31, 2**32 - 1 - bits, bits + 2**31))


def _join(data: U8) -> U8:
    """Codes [n, w] in the order of their coordinates, from the halves that `Codes.data` holds."""
    n, w = data.shape
    halves = data.reshape(n, 2, w // 64, 32)
    whole = np.stack([halves & 15, halves >> 4], axis=3)  # [n, half, block, 2, 32]
    return np.asarray(whole[:, 0] << 4 | whole[:, 1], dtype=np.uint8).reshape(n, w)
