"""The frontier without filters: to the 10, 100 and 1,000 best, on real queries and on items, both told apart."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench.data import clustered, clustered_queries
from index_builders import deep, verify
from index_builders.build import BuildReport
from index_builders.queries import query_sets
from index_builders.remeasure import remeasure
from retrieval import topk
from retrieval.indexes import open_index
from retrieval.params import HnswSearch, IvfpqSearch, widened
from retrieval.store import Generation
from retrieval.types import IndexKind, Metric

N, D = 3_000, 16


@pytest.fixture
def real(tmp_path: Path) -> Path:
    np.save(tmp_path / "real.npy", clustered_queries(40, D, seed=4, clusters=30, intrinsic=8))
    return tmp_path / "real.npy"


@pytest.fixture
def built(write: Callable[..., Path], run: Callable[..., BuildReport]) -> Callable[..., BuildReport]:
    def do(kind: IndexKind, **values: object) -> BuildReport:
        source = write(clustered(N, D, seed=4, clusters=30, intrinsic=8))
        return run(source, kind=kind, shards=3, params={"vectors": "float32"}, min_recall=0.0, **values)

    return do


@pytest.mark.parametrize("kind", list(IndexKind))
def test_both_sets_are_measured_and_the_real_one_comes_first(
    built: Callable[..., BuildReport], real: Path, kind: IndexKind
) -> None:
    manifest = built(kind, queries=real).manifest
    plain = [point for point in manifest.frontier if point.filter_band is None]
    ladder = verify.efforts(kind, manifest.shards[0].build_params)
    assert [point.query_kind for point in plain] == ["real"] * len(ladder) + ["items"] * len(ladder)
    assert [point.params for point in plain[: len(ladder)]] == [each.model_dump(mode="json") for each in ladder]
    assert {point.query_kind for point in manifest.frontier if point.filter_band is not None} <= {"real"}
    real_points, items = plain[: len(ladder)], plain[len(ladder) :]
    assert manifest.default_search[kind] in [point.params for point in real_points]
    if kind is IndexKind.IVFPQ:
        assert real_points[0].recall_at_100 != items[0].recall_at_100, "they are measured with other queries"


def test_the_real_set_decides(built: Callable[..., BuildReport], real: Path) -> None:
    report = built(IndexKind.IVFPQ, queries=real)
    measured, against = remeasure(Generation.open(report.path), queries_file=real, count=20)
    assert measured.chosen.query_kind == "real"
    assert against.startswith("20 queries from real.npy")
    assert {point.query_kind for point in measured.frontier if point.filter_band is None} == {"real", "items"}


def test_items_alone_are_named_so(built: Callable[..., BuildReport]) -> None:
    manifest = built(IndexKind.HNSW).manifest
    assert {point.query_kind for point in manifest.frontier} == {"items"}
    again, _ = remeasure(Generation.open(built(IndexKind.HNSW).path), count=20)
    assert {point.query_kind for point in again.frontier} == {"items"}


# measured 1.0 for all three kinds at the dearest effort: 3,000 rows are few
@pytest.mark.parametrize("kind", list(IndexKind))
def test_recall_of_the_1000_best_is_that_of_a_pool_ten_times_as_large(
    built: Callable[..., BuildReport], kind: IndexKind
) -> None:
    report = built(kind)
    parts = [_part(path, kind) for path in sorted(report.path.glob("shard-*"))]
    xq = query_sets(None, [part.exact() for part in parts], Metric.COSINE, 10, seed=2)[0].xq
    ladder = verify.efforts(kind, report.manifest.shards[0].build_params)
    plain = verify.measure(parts, xq, Metric.COSINE, ladder, target_recall=0.9).frontier
    points = deep.with_recall_at_1000(plain, parts, xq, Metric.COSINE, ladder, budget_s=60)
    exact = np.concatenate([np.asarray(part.exact()) for part in parts])
    truth = topk.exact_search(xq, exact, 1_000, Metric.COSINE)[1]
    for point, params in zip(points, ladder, strict=True):
        shards = [open_index(part.kind, part.path) for part in parts]
        found = [index.search(xq, 1_000, widened(params, 10)).scores for index in shards]
        merged = -np.sort(-np.concatenate(found, axis=1), axis=1)[:, :1_000]
        assert point.recall_at_1000 == pytest.approx(topk.recall(merged, truth), abs=1e-3)
    assert points[-1].recall_at_1000 is not None
    assert points[-1].recall_at_1000 >= 0.99, f"{kind}: {points[-1]}"


def test_the_pool_grows_with_k(write: Callable[..., Path], run: Callable[..., BuildReport]) -> None:
    source = write(clustered(N, D, seed=4, clusters=30, intrinsic=8))
    report = run(source, kind=IndexKind.IVFPQ, params={"nlist": 4, "pq_dims": 4}, min_recall=0.0)
    parts = [_part(report.path / "shard-00000", IndexKind.IVFPQ)]
    xq = np.asarray(parts[0].exact())[:20].astype(np.float32)
    ladder = [IvfpqSearch(nprobe=4, rescore=100), IvfpqSearch(nprobe=4, rescore=300)]
    plain = verify.measure(parts, xq, Metric.COSINE, ladder, target_recall=0.9).frontier
    few, all_rows = deep.with_recall_at_1000(plain, parts, xq, Metric.COSINE, ladder, budget_s=60)
    assert all_rows.recall_at_1000 == 1.0, "3,000 candidates are all rows"
    assert few.recall_at_1000 is not None
    assert few.recall_at_1000 < 0.99, "1,000 candidates are what the codes say"


def test_its_time_is_bounded_and_the_cheapest_efforts_come_first(built: Callable[..., BuildReport]) -> None:
    report = built(IndexKind.HNSW)
    parts = [_part(path, IndexKind.HNSW) for path in sorted(report.path.glob("shard-*"))]
    xq = np.asarray(parts[0].exact())[:50].astype(np.float32)
    ladder = verify.efforts(IndexKind.HNSW, {})
    plain = verify.measure(parts, xq[:2], Metric.COSINE, ladder, target_recall=0.9).frontier
    none = deep.with_recall_at_1000(plain, parts, xq, Metric.COSINE, ladder, budget_s=0)
    assert none == plain
    began = time.perf_counter()
    some = deep.with_recall_at_1000(plain, parts, xq, Metric.COSINE, ladder, budget_s=0.05)
    assert time.perf_counter() - began < 5
    known = [point.recall_at_1000 is not None for point in some]
    assert known == sorted(known, reverse=True), "a gap would be an effort that was skipped"


def test_a_build_of_few_rows_is_measured_to_its_last(
    write: Callable[..., Path], run: Callable[..., BuildReport]
) -> None:
    manifest = run(write(120), kind="flat").manifest
    assert manifest.frontier[0].recall_at_1000 == 1.0


def test_an_effort_grows_in_proportion_to_its_limit() -> None:
    assert widened(HnswSearch(ef=150), 10).ef == 1_500  # type: ignore[union-attr]
    assert widened(HnswSearch(ef=15_000), 10).ef == 20_000  # type: ignore[union-attr]
    wide = widened(IvfpqSearch(nprobe=8, rescore=300), 2.5)
    assert isinstance(wide, IvfpqSearch)
    assert (wide.nprobe, wide.rescore) == (8, 750)


def _part(path: Path, kind: IndexKind) -> verify.Part:
    stored = np.load(path / "vectors.npy")
    return verify.Part(
        path=path,
        kind=kind,
        rows=len(stored),
        exact=lambda: stored,
        order=lambda: None,
        ids=lambda: None,  # type: ignore[arg-type, return-value]
    )
