"""The frontier under filters: what is measured, for how long, and that it is a build's and a verification's part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.data import clustered
from index_builders import bands, verify
from index_builders.build import BuildReport
from index_builders.remeasure import remeasure
from retrieval import topk
from retrieval.indexes import open_index
from retrieval.params import IvfpqSearch
from retrieval.store import Generation
from retrieval.store.manifest import FILTER_BANDS, Manifest
from retrieval.types import IndexKind, Metric


@pytest.fixture
def built(write: Callable[..., Path], run: Callable[..., BuildReport]) -> Callable[[IndexKind], BuildReport]:
    def do(kind: IndexKind) -> BuildReport:
        source = write(clustered(3_000, 16, seed=4, clusters=30, intrinsic=8))
        return run(source, kind=kind, shards=3, params={"vectors": "float32"}, min_recall=0.0)

    return do


@pytest.mark.parametrize("kind", [IndexKind.HNSW, IndexKind.IVFPQ, IndexKind.FLAT])
def test_a_build_measures_every_effort_in_every_band(
    built: Callable[[IndexKind], BuildReport], kind: IndexKind
) -> None:
    manifest = built(kind).manifest
    plain = [point for point in manifest.frontier if point.filter_band is None]
    assert manifest.frontier[: len(plain)] == plain, "the figures without a filter come first"
    found = {band: [p for p in manifest.frontier if p.filter_band == band] for band in FILTER_BANDS}
    for band, points in found.items():
        assert [point.params for point in points] == [point.params for point in plain], band
        assert {(point.shards, point.queries) for point in points} == {(2, 20)}
        # measured 1.0 in all bands: 3,000 rows are few, and a handful of allowed ones is scanned
        assert min(point.recall_at_100 for point in points[-1:]) >= 0.95, f"{kind}, band {band}: {points[-1]}"
        assert all(0 < point.p50_ms <= point.p95_ms for point in points)
    assert Manifest.from_bytes(manifest.to_bytes(), where="here") == manifest


def test_the_recall_is_that_of_the_allowed_rows(built: Callable[[IndexKind], BuildReport]) -> None:
    report = built(IndexKind.IVFPQ)
    parts = _parts(Generation.open(report.path))
    xq = np.concatenate([np.asarray(part.exact())[:10] for part in parts]).astype(np.float32)
    ladder = [IvfpqSearch(nprobe=1, rescore=100)]
    points = bands.measure_bands(parts, xq, Metric.COSINE, ladder, budget_s=60, seed=5)
    band = points[0].filter_band
    assert band == 0.5
    largest = sorted(parts, key=lambda part: -part.rows)[: bands.SHARDS]
    rng = np.random.default_rng([5, 3, 0])
    allowed = [rng.choice(part.rows, round(band * part.rows), replace=False, shuffle=False) for part in largest]
    exact = np.concatenate([np.asarray(part.exact())[rows] for part, rows in zip(largest, allowed, strict=True)])
    truth = topk.exact_search(xq, exact, 100, Metric.COSINE)[1]
    everything = []
    for part, rows in zip(largest, allowed, strict=True):
        bits = np.packbits(np.isin(np.arange(part.rows), rows), bitorder="little")
        everything.append(open_index(part.kind, part.path).search(xq, 100, ladder[0], allow=bits).scores)
    found = -np.sort(-np.concatenate(everything, axis=1), axis=1)[:, :100]
    assert points[0].recall_at_100 == pytest.approx(topk.recall(found, truth))
    assert points[0].recall_at_100 < 1, "one list is not all of them: something has to be missed"


def test_its_time_is_bounded_and_leaves_whole_points(built: Callable[[IndexKind], BuildReport]) -> None:
    parts = _parts(Generation.open(built(IndexKind.HNSW).path))
    xq = np.asarray(parts[0].exact())[:50].astype(np.float32)
    ladder = verify.efforts(IndexKind.HNSW, {})
    assert bands.measure_bands(parts, xq, Metric.COSINE, ladder, budget_s=0, seed=0) == []
    points = bands.measure_bands(parts, xq, Metric.COSINE, ladder, budget_s=0.03, seed=0)
    assert len(points) < len(FILTER_BANDS) * len(ladder)
    assert {point.queries for point in points} <= {50}


def test_verify_measures_the_bands_again(built: Callable[[IndexKind], BuildReport]) -> None:
    report = built(IndexKind.IVFPQ)
    measured, _ = remeasure(Generation.open(report.path), count=20)
    again = [(point.filter_band, point.params) for point in measured.frontier]
    assert again == [(point.filter_band, point.params) for point in report.manifest.frontier]


def _parts(generation: Generation) -> list[verify.Part]:
    from index_builders import remeasure as module

    part: Any = module._part
    return [part(shard) for shard in generation.shards]
