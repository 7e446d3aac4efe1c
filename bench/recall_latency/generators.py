"""Seeded vectors for hard cases beside `bench.data.clustered`: queries from elsewhere, and rows that repeat.

Queries of a text tower lie apart from the images or products that they are to find; the gap is drawn as one direction
that all queries share, and more noise (the "modality gap", Liang et al. 2022; OOD-DiskANN, Jaiswal et al. 2022). Many
sellers of one product give rows that are equal, and with them ties. Knows nothing about engines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.data import clustered, clustered_queries
from retrieval.topk import normalise
from retrieval.types import F32

_GAP, _NOISE = 0.6, 0.3  # of the shared direction and of the isotropic part, beside a query of length 1
_COPIES = 0.3  # of all rows
_POPULAR = 0.01  # of the distinct rows, which all copies are of


@dataclass(frozen=True)
class Draw:
    """Base float32 [n, d] and queries float32 [q, d], unit rows."""

    xb: F32
    xq: F32


def in_distribution(n: int, d: int, q: int, seed: int) -> Draw:
    """Clustered rows, held-out queries drawn as the rows are."""
    return Draw(clustered(n, d, seed=seed), clustered_queries(q, d, seed=seed))


def out_of_distribution(n: int, d: int, q: int, seed: int) -> Draw:
    """Clustered rows; queries moved along one direction and noisier than the rows."""
    rng = np.random.default_rng([seed, 7])
    gap = normalise(rng.standard_normal((1, d), dtype=np.float32))
    noise = normalise(rng.standard_normal((q, d), dtype=np.float32))
    xq = clustered_queries(q, d, seed=seed) + np.float32(_GAP) * gap + np.float32(_NOISE) * noise
    return Draw(clustered(n, d, seed=seed), normalise(xq))


def duplicates(n: int, d: int, q: int, seed: int) -> Draw:
    """Clustered rows of which 30 % are copies of one in a hundred of the others, in mixed order."""
    rng = np.random.default_rng([seed, 8])
    distinct = max(1, n - int(_COPIES * n))
    xb = clustered(distinct, d, seed=seed)
    copied = rng.integers(max(1, int(_POPULAR * distinct)), size=n - distinct)
    xb = np.concatenate([xb, xb[copied]])[rng.permutation(n)]
    return Draw(xb, clustered_queries(q, d, seed=seed))


GENERATORS: dict[str, Callable[[int, int, int, int], Draw]] = {
    "clustered": in_distribution,
    "ood": out_of_distribution,
    "duplicates": duplicates,
}
