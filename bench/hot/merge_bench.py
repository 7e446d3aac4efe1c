"""Merging what four shards found into the best 100, beside numpy's sort of the same scores."""

from typing import Any

import numpy as np
import pytest

from retrieval.serving.fanout import merge_hits
from retrieval.serving.shards import Hits

SHARDS, K = 4, 100


def _found() -> list[Hits]:
    rng = np.random.default_rng(0)
    return [
        Hits(
            ids=rng.permutation(10**6)[:K].astype(np.int64) * SHARDS + shard,
            rows=rng.integers(0, 10**6, K, dtype=np.int32),
            scores=-np.sort(-rng.random(K, dtype=np.float32)),
            bounds=np.array([0, K]),
        )
        for shard in range(SHARDS)
    ]


@pytest.mark.benchmark(group="merge")
def test_reference(benchmark: Any) -> None:
    scores = np.concatenate([part.scores for part in _found()])
    benchmark(lambda: [np.argsort(-scores, kind="stable") for _ in range(10)])


@pytest.mark.benchmark(group="merge")
def test_ours(benchmark: Any) -> None:
    found = _found()
    merged = benchmark(merge_hits, found, 0, K)
    best = -np.sort(-np.concatenate([part.scores for part in found]))[:K]
    assert (merged.scores == best).all()
