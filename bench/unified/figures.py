"""From rows to the figures that tables and plots show: means over seeds, their spread, and what a difference says.

Knows nothing about files or formats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.unified.rows import Row

METRICS = ("recall@10", "recall@100", "ndcg@10")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure over its seeds. spread: sample standard deviation over seeds, 0 for one; low, high: bounds of the 95 %
    interval over queries, averaged over seeds.
    """

    mean: float
    low: float
    high: float
    spread: float
    seeds: int
    queries: int

    def with_interval(self) -> str:
        """As `0.1234 [0.1111, 0.1357]`."""
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"

    def with_spread(self) -> str:
        """As `0.1234 ± 0.0012`, without the spread where there is one seed."""
        return f"{self.mean:.4f}" + (f" ± {self.spread:.4f}" if self.seeds > 1 else "")


def figure(rows: Sequence[Row]) -> Figure | None:
    """The figure of rows that differ in their seed only; None when there are none."""
    if not rows:
        return None
    means = [float(row["mean"]) for row in rows]
    count = len(means)
    mean = sum(means) / count
    spread = math.sqrt(sum((value - mean) ** 2 for value in means) / (count - 1)) if count > 1 else 0.0
    return Figure(
        mean=mean,
        low=sum(float(row["low"]) for row in rows) / count,
        high=sum(float(row["high"]) for row in rows) / count,
        spread=spread,
        seeds=count,
        queries=int(rows[0]["queries"]),
    )


def whole(rows: Sequence[Row]) -> list[Row]:
    """Rows of whole embeddings only (and of systems that have none): the largest prefix of each system."""
    largest: dict[tuple[str, str], int] = {}
    for row in rows:
        if row["prefix"] is not None:
            key = (row["variant"], row["system"])
            largest[key] = max(largest.get(key, 0), row["prefix"])
    return [row for row in rows if row["prefix"] is None or row["prefix"] == largest[row["variant"], row["system"]]]


def relative(value: float, base: float) -> str:
    """As `+12.3 %`."""
    return f"{100 * (value / base - 1):+.1f} %" if base else "–"


def verdict(without: Figure, base: Figure) -> str:
    """What taking a part away did, by recall: a difference below twice its standard error over seeds says nothing."""
    if min(without.seeds, base.seeds) < 2:
        return "one seed: no verdict"
    error = math.sqrt(without.spread**2 / without.seeds + base.spread**2 / base.seeds)
    if abs(without.mean - base.mean) <= 2 * error:
        return "within the spread"
    return "the part helps" if without.mean < base.mean else "the part hurts"
