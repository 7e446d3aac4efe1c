"""The IVF-PQ reader: filters, short answers, foreign files, threads."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest

from bench.data import clustered, clustered_queries
from index_builders import ivfpq
from retrieval import topk
from retrieval.errors import DamagedData, InvalidParams
from retrieval.indexes.ivfpq import IvfpqIndex
from retrieval.params import HnswSearch, IvfpqBuild, IvfpqSearch
from retrieval.types import NO_ROW, Metric

N, D = 5_000, 32
COS = Metric.COSINE


def make(folder: Path, x: np.ndarray, metric: Metric = COS, **params: object) -> np.ndarray:
    build = ivfpq.resolve(IvfpqBuild(**params), rows=len(x), shards=1, d=x.shape[1])
    trained = ivfpq.train(x, folder, params=build, metric=metric, seed=1)
    report = ivfpq.build_shard(x, folder, params=build, metric=metric, seed=1, trained=trained)
    return report["order"]


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ivfpq")
    x = clustered(N, D, seed=2, clusters=50, intrinsic=16)
    order = make(folder, x)
    return folder, x[order]


@pytest.fixture(scope="module")
def xq():
    return clustered_queries(20, D, seed=2, clusters=50, intrinsic=16)


def bits(allow: np.ndarray) -> np.ndarray:
    return np.packbits(allow, bitorder="little")


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2, 0.05, 0.001])
def test_filtered_answers_hold_only_allowed_rows_and_reach_recall(shard, xq, share):
    folder, x = shard
    index = IvfpqIndex.open(folder)
    allow = np.random.default_rng(3).random(N) < share
    found = index.search(xq, 20, IvfpqSearch(nprobe=64, rescore=200), allow=bits(allow))
    real = found.rows != NO_ROW
    assert allow[found.rows[real]].all()
    assert (real.sum(axis=1) == min(20, allow.sum())).all()
    _, true = topk.exact_search(xq, x, 20, COS, allow=allow)
    recall = topk.recall(found.scores, true, tolerance=2e-3)
    assert recall >= 0.9, f"share {share}: {recall:.3f}, seed 3"


def test_a_filter_far_from_the_query_still_fills_the_answer(shard, xq):
    folder, x = shard
    scores = x @ xq[0]
    allow = scores < np.quantile(scores, 0.3)  # 1,500 rows, none of them near
    found = IvfpqIndex.open(folder).search(xq[:1], 300, IvfpqSearch(nprobe=1, rescore=1), allow=bits(allow))
    assert (found.rows != NO_ROW).sum() == 300
    assert allow[found.rows].all()


def test_one_list_is_widened_until_k_rows_are_found(shard, xq):
    folder, _ = shard
    found = IvfpqIndex.open(folder).search(xq, 1_000, IvfpqSearch(nprobe=1, rescore=1))
    assert (found.rows != NO_ROW).all()
    assert all(len(set(rows)) == 1_000 for rows in found.rows)


def test_more_neighbours_than_rows_leave_a_padded_tail(shard, xq):
    folder, _ = shard
    found = IvfpqIndex.open(folder).search(xq[:2], N + 50, IvfpqSearch())
    assert (found.rows[:, N:] == NO_ROW).all()
    assert np.isneginf(found.scores[:, N:]).all()
    assert (np.sort(found.rows[:, :N]) == np.arange(N)).all()
    nothing = IvfpqIndex.open(folder).search(xq[:2], 5, IvfpqSearch(), allow=bits(np.zeros(N, bool)))
    assert (nothing.rows == NO_ROW).all()


def test_scores_are_exact_and_in_the_tie_order(shard, xq):
    folder, _ = shard
    index = IvfpqIndex.open(folder)
    stored = np.load(folder / "vectors.npy").astype(np.float32)
    found = index.search(xq, 50, IvfpqSearch())
    for q, (rows, scores) in enumerate(zip(found.rows, found.scores, strict=True)):
        np.testing.assert_allclose(scores, stored[rows] @ xq[q], rtol=1e-5, atol=1e-6)
        assert list(zip(-scores, rows, strict=True)) == sorted(zip(-scores, rows, strict=True))
    np.testing.assert_array_equal(index.score(xq, found.rows), found.scores)


@pytest.mark.parametrize("d", [2, 9, 31, 33])
def test_odd_dimensions(tmp_path, d):
    x = clustered(1_000, d, seed=4, clusters=10, intrinsic=min(d, 8))
    order = make(tmp_path, x)
    found = IvfpqIndex.open(tmp_path).search(x[order][:10], 1, IvfpqSearch(nprobe=16, rescore=200))
    np.testing.assert_allclose(found.scores[:, 0], 1, atol=2e-3)


def test_threads_and_calls_do_not_touch_each_other(shard, xq):
    folder, _ = shard
    index = IvfpqIndex.open(folder)
    efforts = [IvfpqSearch(nprobe=nprobe, rescore=100 + nprobe) for nprobe in (1, 4, 16, 64)]
    alone = [index.search(xq, 10, effort).rows for effort in efforts]
    before = faiss.omp_get_max_threads()
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            together = list(pool.map(lambda effort: index.search(xq, 10, effort).rows, efforts))
            assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    index.search(xq, 10, efforts[0], threads=1)
    assert faiss.omp_get_max_threads() == before


def test_foreign_parameters(shard, xq):
    with pytest.raises(InvalidParams, match="an IVF-PQ shard takes IvfpqSearch, not HnswSearch"):
        IvfpqIndex.open(shard[0]).search(xq, 1, HnswSearch())


def test_files_that_do_not_hold_together(shard, tmp_path):
    folder = tmp_path / "s"
    shutil.copytree(shard[0], folder)
    meta = json.loads((folder / "index.json").read_text())
    whole = (folder / "index.faiss").read_bytes()
    (folder / "index.faiss").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedData, match=r"index\.faiss is not an index that faiss can read"):
        IvfpqIndex.open(folder)
    faiss.write_index(faiss.IndexFlatL2(D), str(folder / "index.faiss"))
    with pytest.raises(DamagedData, match="holds a IndexFlatL2, not inverted lists"):
        IvfpqIndex.open(folder)
    index = faiss.read_index(str(shard[0] / "index.faiss"))
    index.add(np.zeros((1, D), np.float32))
    faiss.write_index(index, str(folder / "index.faiss"))
    with pytest.raises(DamagedData, match=r"has \(rows, .* \(5001, 32.*index\.json says \(5000, 32"):
        IvfpqIndex.open(folder)
    index = faiss.read_index(str(shard[0] / "quantizer.faiss"))
    index.add_with_ids(shard[1], np.zeros(N, np.int64))
    faiss.write_index(index, str(folder / "index.faiss"))
    with pytest.raises(DamagedData, match="hold a row twice and leave out row 1"):
        IvfpqIndex.open(folder)
    (folder / "index.json").write_text(json.dumps({**meta, "nlist": meta["nlist"] + 1}))
    with pytest.raises(DamagedData, match=r"index\.json says"):
        IvfpqIndex.open(folder)
