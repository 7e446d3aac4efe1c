"""The tie rule, exact search, merge and recall, held against slow and obvious versions of themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.topk import check_vectors, exact_search, merge, normalise, recall, scores, top_k
from retrieval.types import NO_ROW, Metric

METRICS = list(Metric)


def slow_top_k(row: np.ndarray, ids: list, k: int) -> list[tuple]:
    return sorted(zip(ids, row.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))[:k]


def tied(seed: int, n: int, d: int, values: int = 2) -> np.ndarray:
    """Vectors over a tiny alphabet, so that equal scores are the rule; never zero."""
    x = np.random.default_rng(seed).integers(0, values, (n, d)).astype(np.float32)
    x[:, 0] = 1
    return x


@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(1, 70))
def test_top_k_follows_the_tie_rule(seed: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 4, (3, n)).astype(np.float32)
    ids = rng.permutation(n).astype(np.int64)
    found, best = top_k(values, k, ids)
    for i in range(3):
        assert list(zip(found[i].tolist(), best[i].tolist(), strict=True)) == slow_top_k(values[i], ids.tolist(), k)


@pytest.mark.parametrize("metric", METRICS)
@given(st.integers(0, 2**31), st.integers(1, 80), st.integers(1, 5), st.integers(1, 100), st.booleans())
def test_merging_the_parts_is_searching_the_whole(
    metric: Metric, seed: int, n: int, parts: int, k: int, string_ids: bool
) -> None:
    xb, xq = tied(seed, n, 4), tied(seed + 1, 2, 4)
    if metric is Metric.COSINE:
        xb, xq = normalise(xb), normalise(xq)
    rng = np.random.default_rng(seed)
    ids = rng.permutation(n).astype(np.int64)
    labels = np.array([f"e{i:03d}" for i in ids]) if string_ids else ids
    shard = rng.integers(0, parts, n)
    # one table of scores: the law is about merging, not about how BLAS rounds a block of another shape
    table = scores(xq, xb, metric)
    whole_ids, whole_scores = top_k(table, k, labels)
    for i in range(len(xq)):
        answers = [top_k(table[i : i + 1, shard == s], k, labels[shard == s]) for s in range(parts)]
        merged_ids, merged_scores = merge(
            np.concatenate([a[0][0] for a in answers]), np.concatenate([a[1][0] for a in answers]), k
        )
        assert merged_ids.tolist() == whole_ids[i].tolist()
        assert merged_scores.tolist() == whole_scores[i].tolist()


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3)), max_size=40), st.integers(1, 12))
def test_merge_removes_duplicates_before_the_cut(pairs: list[tuple[int, int]], k: int) -> None:
    ids = np.array([p[0] for p in pairs], dtype=np.int64)
    values = np.array([p[1] for p in pairs], dtype=np.float32)
    best = {i: max(s for j, s in pairs if j == i) for i, _ in pairs}
    expected = sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))[:k]
    found, found_scores = merge(ids, values, k)
    assert list(zip(found.tolist(), found_scores.tolist(), strict=True)) == expected


@pytest.mark.parametrize("metric", METRICS)
def test_exact_search_in_blocks_equals_one_block(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    xb, xq = tied(3, 500, 6, values=3), tied(4, 7, 6, values=3)  # small integers: every block rounds alike
    whole = exact_search(xq, xb, 50, metric)
    monkeypatch.setattr("retrieval.topk._BLOCK_ELEMENTS", 7 * 13)
    blocks = exact_search(xq, xb, 50, metric)
    assert np.array_equal(whole[0], blocks[0])
    assert np.array_equal(whole[1], blocks[1])
    table = scores(xq, xb, metric)
    assert [list(p) for p in zip(whole[0][0], whole[1][0], strict=True)] == [
        list(p) for p in slow_top_k(table[0], list(range(500)), 50)
    ]


def test_exact_search_returns_allowed_rows_only_and_pads() -> None:
    allow = np.zeros(20, dtype=bool)
    allow[[3, 7]] = True
    rows, best = exact_search(tied(1, 2, 4), tied(2, 20, 4), 5, Metric.INNER_PRODUCT, allow=allow)
    assert set(rows[:, :2].ravel().tolist()) == {3, 7}
    assert (rows[:, 2:] == NO_ROW).all()
    assert np.isneginf(best[:, 2:]).all()


def test_l2_scores_are_negative_squared_distances() -> None:
    rng = np.random.default_rng(0)
    xq, xb = rng.standard_normal((3, 8), dtype=np.float32), rng.standard_normal((5, 8), dtype=np.float32)
    expected = -((xq[:, None, :] - xb[None, :, :]) ** 2).sum(axis=2)
    assert np.allclose(scores(xq, xb, Metric.L2), expected, atol=1e-4)


def test_check_vectors_finds_every_kind_of_bad_row() -> None:
    x = np.ones((6, 3), dtype=np.float32)
    x[1, 0], x[2, 1], x[3], x[4, 2] = np.nan, np.inf, 0, 3e38
    assert check_vectors(x).tolist() == [True, False, False, False, False, True]


def test_recall_counts_ties_as_found_and_misses_as_missed() -> None:
    true = np.array([[3.0, 2.0, 1.0, 1.0]], dtype=np.float32)
    assert recall(np.array([[3.0, 2.0, 1.0, 1.0]], dtype=np.float32), true) == 1.0
    assert recall(np.array([[3.0, 2.0, 0.5, -np.inf]], dtype=np.float32), true) == 0.5
    short = np.array([[3.0, 2.0, -np.inf, -np.inf]], dtype=np.float32)  # only two exist
    assert recall(short, short) == 1.0
    assert recall(np.array([[3.0, -np.inf, -np.inf, -np.inf]], dtype=np.float32), short) == 0.5
