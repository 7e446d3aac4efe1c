"""From raw rows to points: an engine at one effort, its recall and its time over all repeats.

The time of a repeat is the mean over its queries (single) or the median over its calls (batch); the time of a point is
the median over repeats, its spread their least and greatest. Knows nothing about how rows were made or are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from bench.recall_latency.rows import Row

TARGETS = (0.90, 0.95, 0.99)
_ROUNDING = 1e-6  # a mean of float32 shares that is the target may come out below it


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What can be compared: one data set, k, mode and number of threads."""

    data: str
    k: int
    mode: str
    threads: int

    @property
    def title(self) -> str:
        """For people."""
        asked = "single queries" if self.mode == "single" else "one batch"
        return f"{self.data}, k = {self.k}, {asked}, {self.threads} thread{'' if self.threads == 1 else 's'}"

    @property
    def file(self) -> str:
        """For files."""
        return f"{self.data}-k{self.k}-{self.mode}-{self.threads}"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One engine at one effort. us: microseconds per query; low and high: the least and greatest repeat."""

    panel: Panel
    engine: str
    kind: str
    build: str
    effort: str
    recall: float
    us: float
    low: float
    high: float
    p50: float
    p99: float
    repeats: int
    queries: int
    cpu_share: float  # the least of all repeats
    missing: int
    duplicates: int
    unknown: int

    @property
    def name(self) -> tuple[str, str]:
        """An engine with its build."""
        return self.engine, self.build


def points_of(rows: Sequence[Row]) -> list[Point]:
    """All points, ordered by panel, engine, build and recall."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        if not row["reason"]:
            key = tuple(row[name] for name in ("data", "k", "mode", "threads", "engine", "build", "effort"))
            groups.setdefault(key, []).append(row)
    points = [_point(group) for group in groups.values()]
    return sorted(points, key=lambda p: (*panel_order(p.panel), p.engine, p.build, p.recall, p.effort))


def _point(rows: Sequence[Row]) -> Point:
    first = rows[0]
    single = first["mode"] == "single"
    times = [np.mean(row["latency_ns"]) if single else np.median(row["latency_ns"]) for row in rows]
    middle, last = (median(float(np.percentile(row["latency_ns"], q)) for row in rows) / 1e3 for q in (50, 99))
    return Point(
        panel=Panel(data=first["data"], k=first["k"], mode=first["mode"], threads=first["threads"]),
        engine=first["engine"],
        kind=first["kind"],
        build=first["build"],
        effort=first["effort"],
        recall=float(np.mean([np.mean(row["recall"], dtype=np.float64) for row in rows])),
        us=median(map(float, times)) / 1e3,
        low=float(min(times)) / 1e3,
        high=float(max(times)) / 1e3,
        p50=middle,
        p99=last,
        repeats=len(rows),
        queries=min(row["queries"] for row in rows),
        cpu_share=min(row["cpu_share"] for row in rows),
        missing=sum(row["missing"] for row in rows),
        duplicates=sum(row["duplicates"] for row in rows),
        unknown=sum(row["unknown"] for row in rows),
    )


def panels_of(points: Iterable[Point]) -> list[Panel]:
    """The distinct panels, in order."""
    return sorted({point.panel for point in points}, key=panel_order)


def panel_order(panel: Panel) -> tuple[str, int, int, int]:
    """Single queries before batches, few threads before many; k = 100 stands among the others by size."""
    return panel.data, panel.k, 0 if panel.mode == "single" else 1, panel.threads


def best_at(points: Iterable[Point], target: float) -> dict[tuple[str, str], Point]:
    """Of each engine and build the fastest measured point whose recall reaches the target; nothing is interpolated."""
    best: dict[tuple[str, str], Point] = {}
    for point in points:
        if point.recall >= target - _ROUNDING and (point.name not in best or point.us < best[point.name].us):
            best[point.name] = point
    return best


def frontier(points: Iterable[Point]) -> list[Point]:
    """The points that no other of them beats in recall and time, by ascending recall."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.recall, p.us)):
        if not kept or point.us < kept[-1].us:
            kept.append(point)
    return kept[::-1]
