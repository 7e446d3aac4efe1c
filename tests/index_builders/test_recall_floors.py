"""Recall@100 floors: kind x metric x parameters, after build and after reload, with proof that no scan answered."""

from pathlib import Path

import numpy as np
import pytest

from bench.data import clustered, clustered_queries
from index_builders.shard_task import build_part
from index_builders.train import draw_sample
from retrieval import topk
from retrieval.indexes import open_index
from retrieval.params import BUILD_PARAMS, SEARCH_PARAMS, make_params
from retrieval.types import IndexKind, Metric

N, D, Q, K, SEED = 6_000, 32, 60, 100, 11
COS, IP, L2 = Metric.COSINE, Metric.INNER_PRODUCT, Metric.L2
FLAT, IVFPQ, HNSW = IndexKind.FLAT, IndexKind.IVFPQ, IndexKind.HNSW

# kind, metric, build parameters, search parameters, floor, measured when written
FLOORS = [
    (FLAT, COS, {}, {}, 0.998, 0.9998),
    (FLAT, IP, {}, {}, 0.998, 0.9993),
    (FLAT, L2, {}, {}, 0.998, 0.9997),
    (HNSW, COS, {}, {"ef": 100}, 0.99, 0.9995),
    (HNSW, IP, {}, {"ef": 200}, 0.99, 0.9988),
    (HNSW, L2, {"m": 8}, {"ef": 100}, 0.97, 0.9862),
    (IVFPQ, COS, {}, {"nprobe": 32, "rescore": 400}, 0.94, 0.9618),
    (IVFPQ, COS, {"pq_bits": 6, "pq_dims": 4}, {"nprobe": 64, "rescore": 400}, 0.98, 0.9972),
    (IVFPQ, IP, {}, {"nprobe": 64, "rescore": 800}, 0.98, 0.9962),
    (IVFPQ, L2, {"vectors": "float32"}, {"nprobe": 64, "rescore": 800}, 0.98, 0.9970),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "metric", "build", "search", "floor", "measured"), FLOORS)
def test_recall_floor(kind, metric, build, search, floor, measured, tmp_path: Path):
    xb, xq = (
        clustered(N, D, seed=SEED, clusters=60, intrinsic=16),
        clustered_queries(Q, D, seed=SEED, clusters=60, intrinsic=16),
    )
    if metric is not COS:
        xb = xb * np.random.default_rng(SEED).uniform(0.8, 1.25, (N, 1)).astype(np.float32)
    np.save(tmp_path / "x.npy", xb)
    params = make_params(BUILD_PARAMS[kind], build)
    trained = None
    if kind is IVFPQ:
        from index_builders import ivfpq

        params = ivfpq.resolve(params, rows=N, shards=1, d=D)
        sample = draw_sample([tmp_path / "x.npy"], [N], params.train_rows, SEED)
        trained = ivfpq.train(sample, tmp_path, params=params, metric=metric, seed=SEED)
    (tmp_path / "out").mkdir()
    build_part(
        tmp_path / "x.npy", tmp_path / "out", str(kind), params.model_dump(mode="json"), str(metric), SEED, trained
    )
    order_file = tmp_path / "out" / "order.npy"
    order = np.load(order_file) if order_file.exists() else np.arange(N)
    _, true = topk.exact_search(xq, xb, K, metric)
    answers = []
    for _ in range(2):  # as built, and opened again
        index = open_index(kind, tmp_path / "out")
        found = index.search(xq, K, make_params(SEARCH_PARAMS[kind], search))
        answers.append(found)
        exact = np.stack(
            [topk.scores(q[None], xb[order[rows]], metric)[0] for q, rows in zip(xq, found.rows, strict=True)]
        )
        recall = topk.recall(exact, true)
        message = (
            f"{kind} {metric} {build} {search} seed {SEED}: recall@100 {recall:.4f}, floor {floor}, was {measured}"
        )
        print(message)
        assert recall >= floor, message
        if kind is not FLAT:
            assert found.work["scans"] == 0, f"{message}; a scan answered: {found.work}"
            assert found.work["distances"] < Q * N
            assert found.work.get("codes", 0) < Q * N
    assert np.array_equal(answers[0].rows, answers[1].rows)
    assert np.array_equal(answers[0].scores, answers[1].scores)
