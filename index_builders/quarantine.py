"""Source rows that must not reach an index: why each was refused, counted, with the first few by name.

One bad row spoils more than itself (a single NaN cuts a graph's recall by a fifth), so bad rows are stopped here and a
build with too many of them fails. Knows nothing about files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from retrieval.errors import BuildFailed
from retrieval.store import manifest
from retrieval.types import F32, FLOAT16_MAX, AnyArray, Bool, Metric, VectorDtype

REASONS = (
    "",  # 0: nothing wrong
    "null id",
    "empty id",
    "null embedding",
    "wrong dimension",
    "NaN",
    "infinite",
    "zero norm",
    "out of range",
    "duplicate id",
)
NULL_ID, EMPTY_ID, NULL_EMBEDDING, WRONG_DIMENSION, NAN, INFINITE, ZERO_NORM, OUT_OF_RANGE, DUPLICATE_ID = range(1, 10)
_EXAMPLES = 5


class Tally:
    """Counts and examples by reason."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.examples: dict[str, list[str]] = {}

    def add(self, reasons: AnyArray, name: Callable[[int], str]) -> None:
        """Count reasons uint8 [n]; name(i) tells row i to a person and is called for examples only."""
        for code in np.unique(reasons[reasons > 0]):
            where = np.flatnonzero(reasons == code)
            reason = REASONS[code]
            self.counts[reason] = self.counts.get(reason, 0) + len(where)
            examples = self.examples.setdefault(reason, [])
            examples += [name(int(i)) for i in where[: _EXAMPLES - len(examples)]]

    def report(self) -> manifest.Quarantine:
        """As the manifest holds it."""
        return manifest.Quarantine(counts=self.counts, examples=self.examples)


def judge_vectors(x: F32, metric: Metric, dtype: VectorDtype) -> AnyArray:
    """Reason uint8 [n] for each row of x [n, d], 0 where it is good for an index that stores `dtype`."""
    reasons = np.zeros(len(x), dtype=np.uint8)
    with np.errstate(over="ignore", invalid="ignore"):
        squared = np.einsum("nd,nd->n", x, x, dtype=np.float32)
    suspects = np.flatnonzero(~np.isfinite(squared) | (squared <= 0))
    for i in suspects:
        if np.isnan(x[i]).any():
            reasons[i] = NAN
        elif np.isinf(x[i]).any():
            reasons[i] = INFINITE
        elif squared[i] <= 0:
            reasons[i] = ZERO_NORM
        else:
            reasons[i] = OUT_OF_RANGE  # its squared norm overflows float32, and so would every score
    if dtype is VectorDtype.FLOAT16 and metric is not Metric.COSINE:
        # stored as float16 these would turn into infinities
        reasons[(reasons == 0) & (np.abs(x).max(axis=1, initial=0.0) > FLOAT16_MAX)] = OUT_OF_RANGE
    return reasons


def first_of_each(codes: AnyArray) -> Bool:
    """True for the first occurrence of each value of codes [n]; the others are duplicates."""
    first = np.zeros(len(codes), dtype=bool)
    first[np.unique(codes, return_index=True)[1]] = True
    return first


def gate(quarantine: manifest.Quarantine, rows_in: int, limit: float) -> None:
    """BuildFailed when the share of refused rows is above `limit`, naming reasons, counts and examples."""
    if quarantine.total <= limit * rows_in:
        return
    reasons = "; ".join(
        f"{count} {reason} ({_list(quarantine.examples[reason], count)})" for reason, count in quarantine.counts.items()
    )
    raise BuildFailed(
        f"{quarantine.total} of {rows_in} rows are unusable, {quarantine.total / rows_in:.2%} where {limit:.2%} is "
        f"allowed: {reasons}; mend the source or allow more with --max-quarantined"
    )


def _list(examples: Sequence[str], count: int) -> str:
    return ", ".join(examples) + (", …" if count > len(examples) else "")
