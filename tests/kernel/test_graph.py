"""Graph search: the same walk at every level, recall of hnswlib's own search, filters, and arrays in parts."""

from __future__ import annotations

from pathlib import Path

import hnswlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data import clustered, clustered_queries
from index_builders import flat, hnsw
from retrieval import kernel, topk
from retrieval.errors import DamagedData, InvalidData, InvalidParams
from retrieval.indexes.flat import FlatIndex
from retrieval.indexes.hnsw import HnswIndex
from retrieval.kernel import reference
from retrieval.params import FlatBuild, FlatSearch, HnswBuild, HnswSearch
from retrieval.types import Metric, VectorDtype

N, D = 6_000, 48
METRICS = list(Metric)


def data(metric, n=N, d=D):
    x, xq = clustered(n, d, seed=3), clustered_queries(50, d, seed=3)
    if metric is not Metric.COSINE:
        rng = np.random.default_rng(1)
        x, xq = x * rng.uniform(0.5, 2.0, (n, 1)).astype(np.float32), xq * np.float32(3)
    return x, xq


@pytest.fixture(scope="module", params=METRICS)
def shard(request, tmp_path_factory):
    metric = request.param
    x, xq = data(metric)
    out = tmp_path_factory.mktemp("shard")
    report = hnsw.build_shard(x, out, params=HnswBuild(), metric=metric, seed=5, threads=2)
    return metric, x, xq, out, report


def truth(out, xq, k, metric, allow=None, deleted=None):
    stored = np.load(out / "vectors.npy")
    return reference.scan(stored, xq, k, metric, allow=allow, deleted=deleted)


def test_recall_is_that_of_hnswlib_at_the_same_ef(shard):
    metric, x, xq, out, report = shard
    index = HnswIndex.open(out)
    assert index.has_codes
    peer = hnswlib.Index("l2" if metric is Metric.L2 else "ip", D)
    peer.init_index(N, M=16, ef_construction=200, random_seed=5)
    peer.add_items(x, num_threads=2)
    true = truth(out, xq, 100, metric)[1]
    for ef in (100, 200):
        peer.set_ef(ef)
        labels, _ = peer.knn_query(xq, k=100, num_threads=1)
        back = np.empty(N, dtype=np.int64)
        back[report["order"]] = np.arange(N)
        theirs = topk.recall(
            kernel.score(np.load(out / "vectors.npy"), xq, back[labels].astype(np.int32), metric), true
        )
        found = index.search(xq, 100, HnswSearch(ef=ef))
        ours = topk.recall(found.scores, true)
        assert ours >= theirs - 0.005, f"{metric} ef {ef} seed 5: ours {ours:.4f}, hnswlib's {theirs:.4f}, floor -0.005"
        assert found.work["distances"] < 50 * N * 0.6, "the walk computed nearly all distances"
        assert found.work["scans"] == 0


def test_every_level_walks_the_same_way_and_scores_are_exact(shard):
    metric, _, xq, out, _ = shard
    index = HnswIndex.open(out)
    stored = np.load(out / "vectors.npy")
    bits = np.packbits(np.random.default_rng(1).random(N) < 0.5, bitorder="little")
    for allow in (None, bits):
        answers = [index.graph.search(xq, 20, 60, allow=allow, level=level) for level in kernel.levels()]
        for answer in answers[1:]:
            for a, b in zip(answers[0], answer, strict=True):
                np.testing.assert_array_equal(a, b)
        rows, scores = answers[0][:2]
        np.testing.assert_array_equal(scores, kernel.score(stored, xq, rows, metric))
        again = index.graph.search(xq, 20, 60, allow=allow, threads=3)
        np.testing.assert_array_equal(again[0], rows)


def test_a_graph_without_codes_is_walked_on_the_vectors(shard):
    metric, _, xq, out, _ = shard
    description = hnsw.HnswDescription.model_validate_json((out / "index.json").read_text())
    plain = HnswIndex(out, description.model_copy(update={"codes": None}))
    true = truth(out, xq, 10, metric)[1]
    answers = [plain.graph.search(xq, 10, 100, level=level) for level in kernel.levels()]
    for answer in answers:
        for a, b in zip(answers[0], answer, strict=True):
            np.testing.assert_array_equal(a, b)
    assert topk.recall(answers[0][1], true) > 0.93  # measured 0.942 (l2) to 0.99


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1, 0.01, 0.001, 0.0])
def test_filters_return_only_eligible_rows_and_keep_recall(shard, share):
    metric, _, xq, out, _ = shard
    index = HnswIndex.open(out)
    rng = np.random.default_rng(2)
    allow = np.packbits(rng.random(N) < share, bitorder="little")
    deleted = np.packbits(rng.random(N) < 0.2, bitorder="little")
    eligible = reference.eligible(N, allow, deleted)
    true = truth(out, xq, 10, metric, allow, deleted)
    for rows, scores in (
        index.graph.search(xq, 10, 100, allow=allow, deleted=deleted)[:2],
        index.graph.scan(xq, 10, allow=allow, deleted=deleted)[:2],
    ):
        assert eligible[rows[rows >= 0]].all()
        assert ((rows >= 0).sum(axis=1) == min(10, eligible.sum())).all(), "rows that qualify are missing"
        assert topk.recall(scores, true[1]) > 0.93  # measured 0.964 and more
    np.testing.assert_array_equal(index.graph.scan(xq, 10, allow=allow, deleted=deleted)[0], true[0])
    found = index.search(xq, 10, HnswSearch(), allow=allow)
    assert reference.eligible(N, allow, None)[found.rows[found.rows >= 0]].all()


def test_rows_far_from_the_query_are_found_when_only_they_are_allowed(shard):
    metric, _, xq, out, _ = shard
    index = HnswIndex.open(out)
    worst = kernel.scan(np.load(out / "vectors.npy"), -xq[:1], 10, metric)[0]
    allow = kernel.bitmap(worst[0], N)
    rows, _, distances, _ = index.graph.search(xq[:1], 50, 50, allow=allow)
    assert set(rows[0]) == {*worst[0], -1}
    assert distances[0] > 10


def test_all_rows_come_back_when_k_is_large(shard):
    metric, _, xq, out, _ = shard
    index = HnswIndex.open(out)
    found = index.search(xq[:2], 10_000, HnswSearch(ef=20_000))
    true = truth(out, xq[:2], 10_000, metric)
    np.testing.assert_array_equal(found.rows, true[0])
    np.testing.assert_array_equal(found.scores.view(np.uint32), true[1].view(np.uint32))


def test_a_budget_of_distances_ends_the_walk(shard):
    _, _, xq, out, _ = shard
    index = HnswIndex.open(out)
    free = index.search(xq, 10, HnswSearch(ef=500)).work["distances"]
    bound = index.search(xq, 10, HnswSearch(ef=500, max_distances=300)).work["distances"]
    assert bound < free
    assert bound <= 50 * (300 + 4 * 32)


def toy_graph(n=200, d=16, *, parts=1, seed=1, codes=True):
    """A ring in each part, and no upper layer: reachable only inside a part."""
    rng = np.random.default_rng(seed)
    x = topk.normalise(rng.standard_normal((n, d), dtype=np.float32)).astype(np.float16)
    size = n // parts
    rows = np.arange(n)
    part = np.minimum(rows // size, parts - 1)
    first, end = part * size, np.where(part == parts - 1, n, (part + 1) * size)
    steps = np.arange(1, 9)
    neighbors = (first[:, None] + (rows[:, None] - first[:, None] + steps) % (end - first)[:, None]).astype(np.uint32)
    empty = np.empty(0, dtype=np.uint32)
    arrays = {
        "vectors": x,
        "neighbors": neighbors,
        "upper_rows": empty,
        "upper_down": empty,
        "upper_neighbors": empty.reshape(0, 4),
        "layer_first": [0],
        "entry": 0,
        "metric": Metric.COSINE,
    }
    return arrays, (kernel.encode(x, Metric.COSINE, unit=True, seed=1)[0] if codes else None)


@pytest.mark.parametrize("codes", [True, False])
def test_a_graph_in_parts_still_returns_every_row(codes):
    arrays, coded = toy_graph(parts=4, codes=codes)
    graph = kernel.Graph(**arrays, codes=coded)
    xq = arrays["vectors"][150:152].astype(np.float32)
    rows, scores, distances, _ = graph.search(xq, 120, 10)
    expected = reference.scan(arrays["vectors"], xq, 120, Metric.COSINE)
    np.testing.assert_array_equal(rows, expected[0])
    np.testing.assert_array_equal(scores, expected[1])
    assert (distances >= 200).all(), "the scan is not counted"


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(0, 1000), st.floats(0, 1), st.integers(1, 70), st.integers(1, 70), st.booleans())
def test_filtered_answers_are_subsets_and_complete(n, seed, share, k, ef, codes):
    arrays, coded = toy_graph(n=n, parts=1 if n < 20 else 2, seed=seed, codes=codes)
    graph = kernel.Graph(**arrays, codes=coded)
    allow = np.packbits(np.random.default_rng(seed).random(n) < share, bitorder="little")
    eligible = reference.eligible(n, allow, None)
    xq = np.random.default_rng(seed + 1).standard_normal((1, 16), dtype=np.float32)
    rows, scores, _, _ = graph.search(xq, k, ef, allow=allow)
    found = rows[rows >= 0]
    assert eligible[found].all()
    assert len(set(found)) == len(found) == min(k, eligible.sum())
    assert (np.diff(scores[0][: len(found)]) <= 0).all()


@pytest.mark.parametrize("n", [1, 2, 3, 40])
@pytest.mark.parametrize("metric", METRICS)
def test_tiny_shards_answer_exactly(tmp_path, n, metric):
    x, xq = data(metric, n, 20)
    report = hnsw.build_shard(x, tmp_path, params=HnswBuild(m=4), metric=metric, seed=1)
    index = HnswIndex.open(tmp_path)
    found = index.search(xq, 5, HnswSearch())
    expected = reference.scan(np.load(tmp_path / "vectors.npy"), xq, 5, metric)
    np.testing.assert_array_equal(found.rows, expected[0])
    np.testing.assert_array_equal(x[report["order"]].astype(np.float16), np.load(tmp_path / "vectors.npy"))


def test_duplicated_rows_are_told_apart_by_row(tmp_path):
    x = np.repeat(clustered(30, 16, seed=1), 20, axis=0)
    hnsw.build_shard(x, tmp_path, params=HnswBuild(), metric=Metric.COSINE, seed=1)
    index = HnswIndex.open(tmp_path)
    found = index.search(x[:1], 600, HnswSearch())
    assert sorted(found.rows[0]) == list(range(600))
    ties = np.diff(found.scores[0]) == 0
    assert (np.diff(found.rows[0])[ties] > 0).all()


def test_one_thread_builds_the_same_bytes_twice(tmp_path):
    x = clustered(2_000, 40, seed=1)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        hnsw.build_shard(x, tmp_path / name, params=HnswBuild(m=8), metric=Metric.COSINE, seed=9)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == sorted(p.name for p in (tmp_path / "b").iterdir())
    assert "index.codes.npy" in files
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_progress_is_told_and_no_temporary_file_stays(tmp_path):
    heard = []
    x = clustered(500, 16, seed=1)
    report = hnsw.build_shard(x, tmp_path, params=HnswBuild(), metric=Metric.COSINE, seed=1, progress=heard.append)
    assert heard[-1] == 500
    assert report["quantisation_error"] == pytest.approx(0.0102, abs=0.002)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_codes_are_dropped_when_they_cost_recall(tmp_path):
    # neighbours that differ by less than a quantisation step of their common, large part
    rng = np.random.default_rng(1)
    x = (100 + 0.05 * rng.standard_normal((3_000, 32))).astype(np.float32)
    report = hnsw.build_shard(
        x, tmp_path, params=HnswBuild(vectors=VectorDtype.FLOAT32), metric=Metric.L2, seed=1, threads=2
    )
    assert report["codes"].startswith("none")
    index = HnswIndex.open(tmp_path)
    assert not index.has_codes
    true = reference.scan(np.load(tmp_path / "vectors.npy"), x[:20], 10, Metric.L2)[1]
    assert topk.recall(index.search(x[:20], 10, HnswSearch()).scores, true) > 0.95


def test_flat_shards_answer_exactly(tmp_path):
    x, xq = data(Metric.L2, 700, 30)
    report = flat.build_shard(x, tmp_path, params=FlatBuild(vectors=VectorDtype.FLOAT32), metric=Metric.L2)
    index = FlatIndex.open(tmp_path)
    allow = np.packbits(np.arange(700) % 3 == 0, bitorder="little")
    found = index.search(xq, 9, FlatSearch(), allow=allow)
    expected = reference.scan(x, xq, 9, Metric.L2, allow=allow)
    np.testing.assert_array_equal(found.rows, expected[0])
    np.testing.assert_array_equal(index.score(xq, found.rows), found.scores)
    assert list(report["order"]) == list(range(700))


def test_mistakes_are_named(tmp_path):
    x = clustered(100, 16, seed=1)
    with pytest.raises(InvalidData, match="at least one row"):
        hnsw.build_shard(x[:0], tmp_path, params=HnswBuild(), metric=Metric.L2, seed=1)
    with pytest.raises(InvalidData, match="float16 ends at 65504; use float32"):
        hnsw.build_shard(x * np.float32(1e6), tmp_path, params=HnswBuild(), metric=Metric.L2, seed=1)
    hnsw.build_shard(x, tmp_path, params=HnswBuild(), metric=Metric.COSINE, seed=1)
    with pytest.raises(InvalidParams, match="takes HnswSearch, not FlatSearch"):
        HnswIndex.open(tmp_path).search(x, 1, FlatSearch())
    with pytest.raises(DamagedData, match=r"does not describe a retrieval\.flat index"):
        FlatIndex.open(tmp_path)
    text = (tmp_path / "index.json").read_text()
    (tmp_path / "index.json").write_text(text.replace('"version": 1', '"version": 2'))
    with pytest.raises(DamagedData, match="has version 2, this release reads version 1"):
        HnswIndex.open(tmp_path)
    (tmp_path / "index.json").write_text(text)
    neighbors = np.load(tmp_path / "index.neighbors.npy")
    np.save(tmp_path / "index.neighbors.npy", neighbors.astype(np.int64))
    with pytest.raises(DamagedData, match=r"index.neighbors.npy holds int64 \[100, 48\], expected uint32"):
        HnswIndex.open(tmp_path)
    neighbors[50, 0] = 100
    np.save(tmp_path / "index.neighbors.npy", neighbors)
    with pytest.raises(DamagedData, match=r"neighbors names a row outside 0\.\.99"):
        HnswIndex.open(tmp_path)
    (tmp_path / "index.neighbors.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DamagedData, match=r"index.neighbors.npy cannot be opened"):
        HnswIndex.open(tmp_path)


def test_a_graph_that_the_disk_had_no_room_for_is_an_error_of_the_disk(tmp_path, monkeypatch):
    class Truncating(hnswlib.Index):
        def save_index(self, path):
            super().save_index(path)
            Path(path).write_bytes(Path(path).read_bytes()[:-5])

    monkeypatch.setattr(hnswlib, "Index", Truncating)
    vectors = clustered(50, 16, seed=1)
    with pytest.raises(OSError, match="No space left on device"):
        hnsw.build_shard(vectors, tmp_path, params=HnswBuild(), metric=Metric.COSINE, seed=0)
