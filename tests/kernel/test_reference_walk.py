"""Graph search against its numpy reference: rows, score bits, distances and hops are the same at every level."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data import clustered, clustered_queries
from index_builders import hnsw
from retrieval import kernel, topk
from retrieval.kernel import reference, reference_walk
from retrieval.params import HnswBuild
from retrieval.types import Metric

LEVELS = kernel.levels()
N, Q = 900, 2
WALKS = [None, 4, 8]  # bits that a walk reads; None: no codes, the vectors themselves


def graph_arrays(folder, metric):
    stated = json.loads((folder / "index.json").read_text())
    names = ("neighbors", "upper.rows", "upper.down", "upper.neighbors")
    arrays = {name.replace(".", "_"): np.load(folder / f"index.{name}.npy") for name in names}
    arrays |= {name: stated[name] for name in ("layer_first", "entry")}
    return {"vectors": np.load(folder / "vectors.npy"), "metric": metric, **arrays}


def with_bits(codes, walk_bits):
    return kernel.Codes(codes.data, codes.scale, codes.bias, codes.seed, codes.error, walk_bits)


def assert_parity(arrays, codes, xq, k, ef, **options):
    expected = reference_walk.Graph(**arrays, codes=codes).search(xq, k, ef, **options)
    graph = kernel.Graph(**arrays, codes=codes)
    for level in LEVELS:
        found = graph.search(xq, k, ef, level=level, **options)
        where = f"level {level}, k {k}, ef {ef}, walk bits {codes.walk_bits if codes else None}, {sorted(options)}"
        for name, a, b in zip(("rows", "scores", "distances", "hops"), found, expected, strict=True):
            assert a.dtype == b.dtype
            a, b = (v.view(np.uint32) if name == "scores" else v for v in (a, b))
            np.testing.assert_array_equal(a, b, err_msg=f"{name}: {where}")
    return expected


@pytest.fixture(scope="module", params=[16, 33, 256, 300])
def dimension(request):
    return request.param


@pytest.fixture(scope="module", params=list(Metric))
def shard(request, dimension, tmp_path_factory):
    """(arrays of a built graph, its codes, queries, metric)."""
    metric, folder = request.param, tmp_path_factory.mktemp("walk")
    x = clustered(N, dimension, seed=2, clusters=20)
    xq = clustered_queries(Q, dimension, seed=2, clusters=20)
    if metric is not Metric.COSINE:
        x = x * np.random.default_rng(1).uniform(0.5, 2, (N, 1)).astype(np.float32)
        xq = xq * np.float32(3)
    x[100:140] = x[100]  # ties
    hnsw.build_shard(x, folder, params=HnswBuild(m=6, ef_construction=40), metric=metric, seed=4)
    arrays = graph_arrays(folder, metric)
    assert len(arrays["layer_first"]) > 2, "the graph has no layers to descend"
    codes, _ = kernel.encode(arrays["vectors"], metric, unit=metric is Metric.COSINE, seed=4)
    return arrays, codes, np.concatenate([xq, x[100:101]]), metric


@pytest.mark.parametrize("bits", WALKS)
def test_walks_are_those_of_the_reference(shard, bits):
    arrays, codes, xq, _ = shard
    codes = with_bits(codes, bits) if bits else None
    _, _, distances, hops = assert_parity(arrays, codes, xq, 10, 40)
    assert (distances < N).all(), "the walk went everywhere, so the graph decided nothing"
    assert (hops > 4).all()
    assert_parity(arrays, codes, xq, 1, 1)
    assert_parity(arrays, codes, xq[:1], 100, 20)
    for budget in (1, 30, 150):
        assert_parity(arrays, codes, xq, 10, 80, max_distances=budget)


@pytest.mark.parametrize("bits", WALKS)
def test_filtered_walks_are_those_of_the_reference(shard, bits):
    arrays, codes, xq, metric = shard
    codes = with_bits(codes, bits) if bits else None
    rng = np.random.default_rng(3)
    deleted = np.packbits(rng.random(N) < 0.3, bitorder="little")
    for share in (0.9, 0.3, 0.02, 0.0):
        allow = np.packbits(rng.random(N) < share, bitorder="little")
        assert_parity(arrays, codes, xq[-2:], 10, 30, allow=allow, deleted=deleted)
    assert_parity(arrays, codes, xq, 10, 30, deleted=deleted)
    # rows far from the query alone are allowed: the pool is widened, and then a scan answers
    far = kernel.scan(arrays["vectors"], -xq[:1], 40, metric)[0][0]
    assert_parity(arrays, codes, xq[:1], 10, 10, allow=kernel.bitmap(far, N))
    assert_parity(arrays, codes, xq[:1], 60, 10, allow=kernel.bitmap(far, N), max_distances=200)


def test_a_pool_of_more_than_a_thousand_rows_takes_larger_steps(tmp_path):
    x = clustered(1_800, 16, seed=5, clusters=20)
    hnsw.build_shard(x, tmp_path, params=HnswBuild(m=6, ef_construction=40), metric=Metric.COSINE, seed=4)
    arrays = graph_arrays(tmp_path, Metric.COSINE)
    codes, _ = kernel.encode(arrays["vectors"], Metric.COSINE, unit=True, seed=4)
    for bits in WALKS:
        for ef in (1_000, 1_001, 5_000):
            assert_parity(arrays, with_bits(codes, bits) if bits else None, x[:1], 1_000, ef, max_distances=1_300)


def random_graph(rng, n, d, metric, ties):
    """Random links, gaps and parts out of reach included; every upper layer a random subset of the one below."""
    x = rng.integers(-1, 2, (n, d)) if ties else rng.standard_normal((n, d))
    x = x.astype(np.float32) + np.float32(0.01 if metric is Metric.COSINE else 0)
    x = (topk.normalise(x) if metric is Metric.COSINE else x).astype(np.float16)

    def links(first, end, width):
        lists = np.full((end - first, width), 0xFFFFFFFF, dtype=np.uint32)
        for line in lists:
            degree = rng.integers(0, width + 1)
            line[:degree] = rng.integers(first, end, degree)
        return lists

    rows, down, lists, layer_first = [np.arange(n)], [], [np.empty((0, 3), dtype=np.uint32)], [0]
    for layer in range(rng.integers(0, 4)):
        kept = np.sort(rng.choice(len(rows[-1]), size=max(1, len(rows[-1]) // 3), replace=False))
        down.append(kept + (layer_first[-2] if layer else 0))
        rows.append(rows[-1][kept])
        lists.append(links(layer_first[-1], layer_first[-1] + len(kept), 3))
        layer_first.append(layer_first[-1] + len(kept))
    return {
        "vectors": x,
        "neighbors": links(0, n, 5),
        "upper_rows": np.concatenate([[], *rows[1:]]).astype(np.uint32),
        "upper_down": np.concatenate([[], *down]).astype(np.uint32),
        "upper_neighbors": np.concatenate(lists),
        "layer_first": layer_first,
        "entry": int(rng.integers(layer_first[-2], layer_first[-1]) if down else rng.integers(n)),
        "metric": metric,
    }


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_random_graphs_are_walked_as_by_the_reference(data):
    n, d = data.draw(st.integers(1, 200)), data.draw(st.integers(2, 130))
    metric, ties = data.draw(st.sampled_from(list(Metric))), data.draw(st.booleans())
    seed = data.draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    arrays = random_graph(rng, n, d, metric, ties)
    bits = data.draw(st.sampled_from(WALKS))
    codes = None
    if bits:
        unit = metric is Metric.COSINE
        codes = with_bits(kernel.encode(arrays["vectors"], metric, unit=unit, seed=seed)[0], bits)
    options = {"max_distances": data.draw(st.sampled_from([0, 0, 1, 20]))}
    for name in ("allow", "deleted"):
        share = data.draw(st.sampled_from([None, 0.05, 0.5, 0.95]))
        if share is not None:
            options[name] = np.packbits(rng.random(n) < share, bitorder="little")
    kind = data.draw(st.sampled_from(["normal", "ties", "zeros", "tiny", "small", "huge"]))
    xq = rng.integers(-1, 2, (1, d)) if kind == "ties" else rng.standard_normal((1, d))
    xq = (xq * {"zeros": 0.0, "tiny": 1e-42, "small": 1e-25, "huge": 1e30}.get(kind, 1.0)).astype(np.float32)
    k, ef = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 60))
    rows = assert_parity(arrays, codes, xq, k, ef, **options)[0]
    assert reference.eligible(n, options.get("allow"), options.get("deleted"))[rows[rows >= 0]].all()
