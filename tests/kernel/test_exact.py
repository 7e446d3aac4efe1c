"""Exact scores, rescoring and scans: the same bits as the numpy reference at every instruction level."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval import kernel, topk
from retrieval.errors import InvalidArgument
from retrieval.kernel import reference
from retrieval.types import Metric

LEVELS = kernel.levels()
METRICS = [Metric.INNER_PRODUCT, Metric.L2]
DIMS = [*range(16, 301, 7), 17, 31, 32, 33, 64, 128, 256, 300, 768, 2048]


def draw(n, d, dtype, seed, kind="normal"):
    rng = np.random.default_rng(seed)
    if kind == "ties":  # few distinct values: many equal scores
        x = rng.integers(-1, 2, size=(n, d)).astype(np.float32)
    elif kind == "adversarial":  # subnormals, huge values, signed zeros, infinities and NaN
        pool = np.array([0.0, -0.0, 6e-8, -6e-8, 1e-4, 65504, -65504, 1, np.inf, -np.inf, np.nan], dtype=np.float32)
        x = rng.choice(pool, p=[0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.197, 0.001, 0.001, 0.001], size=(n, d))
    else:
        x = rng.standard_normal((n, d), dtype=np.float32)
    return x.astype(dtype)


def same(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1].view(np.uint32), expected[1].view(np.uint32))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_scores_have_the_reference_bits_in_every_dimension(level, metric, dtype):
    for d in DIMS:
        x, xq = draw(23, d, dtype, d), draw(2, d, np.float32, d + 1)
        rows = np.random.default_rng(d).integers(-1, 23, size=(2, 11)).astype(np.int32)
        found = kernel.score(x, xq, rows, metric, level=level)
        np.testing.assert_array_equal(found.view(np.uint32), reference.score(x, xq, rows, metric).view(np.uint32))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["normal", "ties", "adversarial"])
def test_rescore_and_scan_match_the_reference(level, metric, kind):
    for d, n in ((16, 40), (100, 333), (256, 1000)):
        x, xq = (
            draw(n, d, np.float16, d, kind),
            draw(3, d, np.float32, d + 1, kind if kind != "adversarial" else "normal"),
        )
        candidates = np.random.default_rng(1).integers(-1, n, size=(3, 2 * n)).astype(np.int32)
        for k in (1, 10, n + 5):
            same(
                kernel.rescore(x, xq, candidates, k, metric, level=level),
                reference.rescore(x, xq, candidates, k, metric),
            )
            same(kernel.scan(x, xq, k, metric, level=level), reference.scan(x, xq, k, metric))


def test_every_float16_value_is_converted_exactly():
    x = np.repeat(np.arange(65536, dtype=np.uint16).view(np.float16)[:, None], 16, axis=1)
    xq = np.zeros((1, 16), dtype=np.float32)
    xq[0, 3] = 1
    rows = np.flatnonzero(np.isfinite(x[:, 0])).astype(np.int32)[None, :]
    expected = x[rows[0], 3].astype(np.float32) + np.float32(0)
    for level in LEVELS:
        found = kernel.score(x, xq, rows, Metric.INNER_PRODUCT, level=level)[0]
        np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("metric", [Metric.COSINE, *METRICS])
@pytest.mark.parametrize("d", [16, 100, 192])
def test_scan_over_codes_is_the_exact_answer(level, metric, d):
    for kind, scale in (("normal", 1.0), ("ties", 3.0), ("normal", 100.0)):
        x = draw(5_000, d, np.float32, d, kind) * np.float32(scale)
        if metric is Metric.COSINE:
            x = topk.normalise(x + np.float32(1e-3))
        x16 = x.astype(np.float16)
        codes, _ = kernel.encode(x16, metric, unit=metric is Metric.COSINE, seed=7)
        xq = x[:4] + draw(4, d, np.float32, 5) * np.float32(0.1 * scale)
        for k in (1, 100):
            found = kernel.scan(x16, xq, k, metric, codes=codes, level=level)
            same(found, reference.scan(x16, xq, k, metric))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("size", [0.0, 1e-42, 1e-38, 1e-33, 1e-29])
def test_scan_over_codes_is_exact_for_queries_of_subnormal_size(level, metric, size):
    x = draw(2_000, 36, np.float16, 1)
    codes, _ = kernel.encode(x, metric, unit=False, seed=1)
    xq = (draw(8, 36, np.float32, 2) * size).astype(np.float32)
    same(kernel.scan(x, xq, 5, metric, codes=codes, level=level), reference.scan(x, xq, 5, metric))


@pytest.mark.parametrize("d", [16, 60, 100, 192, 256, 300, 384, 768, 1280, 2048])
def test_codes_match_the_reference(d):
    x = draw(50, d, np.float32, d)
    for metric, unit in ((Metric.COSINE, True), (Metric.INNER_PRODUCT, False), (Metric.L2, False)):
        xs = topk.normalise(x) if unit else x
        found, error = kernel.encode(xs, metric, unit=unit, seed=3, threads=2)
        expected, expected_error = reference.encode(xs, metric, unit=unit, seed=3)
        assert found.data.shape == (50, kernel.code_width(d))
        assert (found.data != expected.data).mean() < 1e-4  # a norm's last bit may move a coordinate over a border
        assert error == pytest.approx(expected_error, rel=1e-3)
        assert found.error == pytest.approx(expected.error, rel=1e-3)
        assert error < 0.012, f"d {d}: relative error {error}, measured 0.0102"


@pytest.mark.parametrize("d", [64, 192, 384, 960])
def test_rotation_is_orthonormal_and_spreads_single_coordinates(d):
    turned = reference.rotate(np.eye(d, dtype=np.float32), 5)
    np.testing.assert_allclose(turned @ turned.T, np.eye(d), atol=1e-5)
    assert np.abs(turned).max() * np.sqrt(turned.shape[1]) < 9, "a coordinate kept too much of its weight"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_scan_returns_the_exact_best_of_the_eligible_rows(data):
    n, d = data.draw(st.integers(1, 300)), data.draw(st.integers(2, 40))
    seed = data.draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    x = draw(n, d, np.float16, seed, data.draw(st.sampled_from(["normal", "ties"])))
    xq = draw(2, d, np.float32, seed + 1, "ties")
    allow = data.draw(st.sampled_from([None, np.packbits(rng.random(n) < rng.random(), bitorder="little")]))
    deleted = data.draw(st.sampled_from([None, np.packbits(rng.random(n) < rng.random(), bitorder="little")]))
    metric, k = data.draw(st.sampled_from(METRICS)), data.draw(st.integers(1, 50))
    codes, _ = kernel.encode(x, metric, unit=False, seed=1)
    expected = reference.scan(x, xq, k, metric, allow=allow, deleted=deleted)
    for c in (None, codes):
        same(kernel.scan(x, xq, k, metric, allow=allow, deleted=deleted, codes=c, threads=2), expected)
    assert kernel.count_rows(n, allow=allow, deleted=deleted) == reference.eligible(n, allow, deleted).sum()


def test_scores_agree_with_the_oracle():
    x, xq = draw(500, 64, np.float32, 1), draw(5, 64, np.float32, 2)
    for metric in METRICS:
        _, found, _ = kernel.scan(x, xq, 10, metric)
        _, true = topk.exact_search(xq, x, 10, metric)
        np.testing.assert_allclose(found, true, rtol=1e-4, atol=1e-4)


def test_shards_merge_into_the_whole_even_under_ties():
    x, xq = draw(600, 20, np.float16, 1, "ties"), draw(4, 20, np.float32, 2, "ties")
    rows, scores, _ = kernel.scan(x, xq, 50, Metric.L2)
    parts = [kernel.scan(np.ascontiguousarray(x[a:b]), xq, 50, Metric.L2) for a, b in ((0, 173), (173, 600))]
    for i in range(4):
        ids = np.concatenate([parts[0][0][i], parts[1][0][i] + 173])
        merged, values = topk.merge(ids, np.concatenate([p[1][i] for p in parts]), 50)
        np.testing.assert_array_equal(merged, rows[i])
        np.testing.assert_array_equal(values, scores[i])


def test_read_only_memory_maps_are_taken_as_they_are(tmp_path):
    x = draw(100, 48, np.float16, 1)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    xq = draw(2, 48, np.float32, 2)
    same(kernel.scan(mapped, xq, 5, Metric.L2), kernel.scan(x, xq, 5, Metric.L2))


def test_mistakes_are_named():
    x, xq = draw(10, 16, np.float16, 1), draw(2, 16, np.float32, 2)
    rows = np.zeros((2, 3), dtype=np.int32)
    with pytest.raises(InvalidArgument, match=r"candidate 10 is outside 0\.\.9"):
        kernel.rescore(x, xq, rows + 10, 2, Metric.L2)
    with pytest.raises(InvalidArgument, match=r"row -2 is outside 0\.\.9"):
        kernel.score(x, xq, rows - 2, Metric.L2)
    with pytest.raises(InvalidArgument, match="xq has 17 dimensions, vectors has 16"):
        kernel.scan(x, draw(2, 17, np.float32, 2), 2, Metric.L2)
    with pytest.raises(InvalidArgument, match="level 'sse9' is not offered"):
        kernel.scan(x, xq, 2, Metric.L2, level="sse9")
    with pytest.raises(InvalidArgument, match="a bitmap of 3 bytes does not fit 10 rows, which need 2"):
        kernel.scan(x, xq, 2, Metric.L2, allow=np.zeros(3, dtype=np.uint8))
    with pytest.raises(InvalidArgument, match=r"k = 0 is outside 1\.\.10000"):
        kernel.scan(x, xq, 0, Metric.L2)
    with pytest.raises(InvalidArgument, match="incompatible function arguments"):
        kernel.scan(x, xq.astype(np.float64), 1, Metric.L2)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="float16 or float32"):
        kernel.scan(x.astype(np.float64), xq, 1, Metric.L2)  # type: ignore[type-var]
