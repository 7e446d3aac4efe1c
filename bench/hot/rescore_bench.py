"""Exact scores of 400 candidates from float16 vectors, beside numpy's product of the same rows in float32."""

from typing import Any, TypeAlias

import numpy as np
import pytest

from retrieval import kernel
from retrieval.types import F16, F32, I32, Metric

Data: TypeAlias = tuple[F16, F32, I32]
N, D, CANDIDATES, K = 100_000, 256, 400, 100


@pytest.fixture(scope="module")
def data() -> Data:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((N, D), dtype=np.float32).astype(np.float16)
    xq = rng.standard_normal((1, D), dtype=np.float32)
    return vectors, xq, rng.choice(N, CANDIDATES, replace=False).astype(np.int32)[None]


@pytest.mark.benchmark(group="rescore")
def test_reference(benchmark: Any, data: Data) -> None:
    vectors, xq, candidates = data
    rows = vectors[candidates[0]].astype(np.float32)
    benchmark(lambda: [rows @ xq[0] for _ in range(10)])


@pytest.mark.benchmark(group="rescore")
def test_ours(benchmark: Any, data: Data) -> None:
    vectors, xq, candidates = data
    rows, scores = benchmark(kernel.rescore, vectors, xq, candidates, K, Metric.INNER_PRODUCT)
    exact = vectors[rows[0]].astype(np.float32) @ xq[0]
    np.testing.assert_allclose(scores[0], exact, rtol=1e-3, atol=1e-3)
