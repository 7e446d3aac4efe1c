"""The crossover from scan to walk: measured by the build for graphs of some thousand rows, kept in the manifest."""

import json

import numpy as np
import pytest

from bench.data import clustered, clustered_queries
from index_builders import crossover, hnsw
from retrieval import kernel
from retrieval.indexes.hnsw import HnswIndex
from retrieval.params import HnswBuild, HnswSearch
from retrieval.store.manifest import Manifest
from retrieval.types import IndexKind, Metric


@pytest.mark.parametrize(("rows", "kind"), [(crossover.MIN_ROWS - 1, "hnsw"), (5_000, "flat"), (5_000, "hnsw")])
def test_the_manifest_holds_the_crossover_of_graphs_alone(write, run, rows, kind):
    manifest = run(write(rows), kind=kind).manifest
    if (rows, kind) != (5_000, "hnsw"):
        assert manifest.scan_crossover == {}
        return
    found = manifest.scan_crossover[IndexKind.HNSW]
    assert found.params == manifest.default_search[IndexKind.HNSW]
    assert (found.k, found.shard_rows) == (100, rows)
    assert 1 <= found.eligible_rows <= rows
    pool = max(found.k, found.params["ef"])
    assert kernel.scan_is_cheaper(rows, found.rule_rows, pool)
    assert not kernel.scan_is_cheaper(rows, found.rule_rows + 1, pool)
    assert Manifest.from_bytes(manifest.to_bytes(), where="here") == manifest


def test_a_manifest_without_a_crossover_is_read(write, run):
    manifest = run(write(60)).manifest
    assert manifest.scan_crossover == {}
    assert json.loads(manifest.to_bytes())["scan_crossover"] == {}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crossover")
    x = clustered(6_000, 24, seed=3, clusters=50)
    hnsw.build_shard(x, folder, params=HnswBuild(m=8), metric=Metric.COSINE, seed=1, threads=2)
    return HnswIndex.open(folder)


@pytest.mark.parametrize("true", [40, 900, 3_000, 20_000])
def test_the_measured_crossover_is_that_of_the_times(index, true, monkeypatch):
    """With times that cross at `true` by construction; 20,000: the scan always wins, 40: almost never."""

    def times(index, xq, k, params, allow, ends):
        eligible = kernel.count_rows(index.n, allow=allow)
        return (true / eligible) ** 0.8, eligible / true

    monkeypatch.setattr(crossover, "_times", times)
    xq = clustered_queries(4, 24, seed=3, clusters=50)
    found = crossover.measure_crossover(index, xq, 100, HnswSearch(), seed=1)
    wanted = min(true, index.n)
    assert wanted / 1.2 <= found.eligible_rows <= wanted * 1.2, found
    assert found.scan_over_walk == pytest.approx((found.eligible_rows / true) ** 1.8, rel=0.01)


def test_the_time_is_bounded(index, monkeypatch):
    monkeypatch.setattr(crossover, "BUDGET_S", 0.0)
    seen = []

    class Slow:
        def search(self, xq, *rest, **options):
            seen.append(len(xq))

        scan = search

    monkeypatch.setattr(index, "graph", Slow())
    assert crossover.measure_crossover(index, np.ones((9, 24), dtype=np.float32), 10, HnswSearch(), seed=1)
    assert seen == [1] * 6, "one query: three turns of a walk and a scan"
