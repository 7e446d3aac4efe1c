"""Norms of the vectors as the source has them, before they are normalised: what the encoder did.

A shard's report keeps those of its rows. The ids of a shard are drawn by a hash, so the quantiles of all rows are taken
to be the mean of the shards' own, weighted by rows; mean, smallest and largest are exact. Knows nothing about files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retrieval.types import F32

REPORT_KEY = "source_norms"


class SourceNorms:
    """Collects the norms of one shard, 4 bytes a row."""

    def __init__(self) -> None:
        self._parts: list[F32] = []

    def add(self, norms: F32) -> None:
        """Take in norms float32 [n]."""
        self._parts.append(norms)

    def figures(self) -> dict[str, float]:
        """rows, mean, smallest, p01, p50, p99 and largest; empty before anything was added."""
        if not self._parts:
            return {}
        norms = np.concatenate(self._parts)
        p01, p50, p99 = np.quantile(norms, [0.01, 0.5, 0.99])
        found = {
            "mean": norms.mean(dtype=np.float64),
            "smallest": norms.min(),
            "p01": p01,
            "p50": p50,
            "p99": p99,
            "largest": norms.max(),
        }
        return {"rows": len(norms), **{name: round(float(value), 6) for name, value in found.items()}}


def merged(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The figures of all shards by their reports; None when one does not tell."""
    told = [report.get(REPORT_KEY) for report in reports]
    if not all(isinstance(each, dict) and each for each in told):
        return None
    each = [one for one in told if one]
    rows = sum(one["rows"] for one in each)

    def mean(name: str) -> float:
        return round(float(sum(one["rows"] * one[name] for one in each) / rows), 6)

    return {
        "rows": rows,
        "smallest": min(one["smallest"] for one in each),
        "largest": max(one["largest"] for one in each),
        **{name: mean(name) for name in ("mean", "p01", "p50", "p99")},
    }
