"""Rows to try candidates on: a seeded draw over the whole source, read once as a stream.

Rows that a build would refuse are left out. Knows nothing about indexes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from index_builders import quarantine
from index_builders.settings import BuildSettings
from index_builders.source import open_source
from retrieval.errors import InvalidData
from retrieval.topk import normalise
from retrieval.types import F32, Metric, VectorDtype

SAMPLE_ROWS = 16_384
LEAST_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class Sample:
    """x float32 [s, d] in random order (so that any beginning is a sample too), of a source of `rows` rows."""

    x: F32
    rows: int
    d: int


def draw_sample(settings: BuildSettings, count: int = SAMPLE_ROWS) -> Sample:
    """At most `count` usable rows of the source, the same for the same seed; InvalidData when there are too few."""
    source = open_source(
        settings.source, settings.ids, id_column=settings.id_column, embedding_column=settings.embedding_column
    )
    rng = np.random.default_rng([settings.seed, 4])
    chosen = np.sort(rng.choice(source.rows, size=min(count, source.rows), replace=False))
    parts, start = [np.empty((0, source.d), np.float32)], 0
    for batch in source.batches():
        first, last = np.searchsorted(chosen, [start, start + len(batch.vectors)])
        rows = chosen[first:last] - start
        rows = rows[np.asarray(batch.reasons)[rows] == 0]
        x = batch.vectors[rows]
        parts.append(x[quarantine.judge_vectors(x, settings.metric, VectorDtype.FLOAT16) == 0])
        start += len(batch.vectors)
    x = np.concatenate(parts)
    if len(x) < LEAST_ROWS:
        raise InvalidData(
            f"{settings.source} has {len(x)} usable rows to try candidates on, too few to choose by: it takes "
            f"{LEAST_ROWS}; name a --kind"
        )
    x = rng.permutation(x)
    return Sample(x=normalise(x) if settings.metric is Metric.COSINE else x, rows=source.rows, d=source.d)
