"""Which measured points a server picks from: real queries before items, band by band, and how far k is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_store import make_store

from retrieval.params import HnswSearch
from retrieval.serving.calls import Effort
from retrieval.serving.effort.efforts import Efforts
from retrieval.serving.effort.frontier import Frontier, Point, preferred
from retrieval.serving.effort.promise import RECALL, pick
from retrieval.store.manifest import FrontierPoint


def point(ef: int, recall: float, **values: Any) -> FrontierPoint:
    found = {"recall_at_10": recall, "recall_at_100": recall, "p50_ms": ef / 100, "p95_ms": ef / 50, "queries": 20}
    return FrontierPoint(params={"ef": ef, "max_distances": 0}, **{**found, **values})


REAL = [point(100, 0.80, query_kind="real", recall_at_1000=0.7), point(200, 0.90, query_kind="real")]
ITEMS = [point(100, 0.95, query_kind="items", recall_at_1000=0.9), point(200, 0.99, query_kind="items")]
BAND = [point(100, 0.97, query_kind="items", filter_band=0.1)]
OLD = [point(100, 0.91), point(200, 0.96)]


def test_real_points_stand_before_items_in_every_band() -> None:
    assert preferred([*ITEMS, *REAL, *BAND]) == [*REAL, *BAND]
    assert preferred([*ITEMS, *BAND]) == [*ITEMS, *BAND]
    assert preferred(OLD) == OLD, "older manifests do not say what their queries were"


@given(st.lists(st.sampled_from([*REAL, *ITEMS, *BAND, *OLD])))
def test_what_is_preferred_is_never_empty_and_never_mixed(points: list[FrontierPoint]) -> None:
    found = preferred(points)
    assert {p.filter_band for p in found} == {p.filter_band for p in points}
    for band in {p.filter_band for p in found}:
        kinds = {p.query_kind for p in found if p.filter_band == band}
        assert "real" not in kinds or kinds == {"real"}


def test_a_server_picks_from_the_real_points(tmp_path: Path) -> None:
    made = make_store(tmp_path, 400, 8, 1, kind="hnsw", frontier=[*ITEMS, *REAL, *BAND])
    frontier = Frontier(made.manifest)
    assert [p.recall_at_100 for p in frontier.points()] == [0.80, 0.90]
    efforts = Efforts(made.manifest)
    kept = efforts.keep(0.9, 100, share=None, time_ms=None)
    assert (kept.used.ef, kept.expected_recall, kept.gave_way) == (200, 0.90, "")
    assert efforts.keep(0.95, 100, share=None, time_ms=None).gave_way == RECALL, "items reach it, real queries do not"
    assert efforts.choose(Effort(ef=100), 100).recall_at_100 == 0.80


@pytest.mark.parametrize(
    ("k", "recall"),
    [(10, 0.95), (100, 0.9), (101, 0.85), (1_000, 0.85), (1_001, None)],
)
def test_the_recall_that_stands_for_k(k: int, recall: float | None) -> None:
    found = Point(
        params=HnswSearch(ef=100),
        recall_at_10=0.95,
        recall_at_100=0.9,
        p50_ms=1,
        p95_ms=2,
        recall_at_1000=0.85,
    )
    assert found.recall(k) == recall


def test_a_larger_k_is_promised_what_was_measured_for_it(tmp_path: Path) -> None:
    made = make_store(tmp_path, 400, 8, 1, kind="hnsw", frontier=REAL)
    efforts = Efforts(made.manifest)
    kept = efforts.keep(0.7, 1_000, share=None, time_ms=None)
    assert (kept.used.ef, kept.expected_recall, kept.gave_way) == (1_000, 0.7, "")
    assert kept.reasons == ("recall was measured for some efforts only: for k = 1,000 the effort grew in proportion",)
    # an effort asked for by name spends as much as the measured one does on so many
    assert efforts.choose(Effort(ef=1_000), 1_000).expected_recall == 0.7
    assert efforts.choose(Effort(ef=2_000), 1_000).expected_recall is None
    assert efforts.keep(0.7, 2_000, share=None, time_ms=None).expected_recall is None


def test_where_every_effort_is_measured_nothing_is_to_be_said() -> None:
    points = [
        Point(params=HnswSearch(ef=ef), recall_at_10=r, recall_at_100=r, p50_ms=ef, p95_ms=ef, recall_at_1000=r - 0.05)
        for ef, r in ((100, 0.9), (200, 0.99))
    ]
    picked = pick(points, 0.9, 1_000)
    assert picked is not None
    assert (picked.params, picked.recall, picked.reasons) == (HnswSearch(ef=2_000), pytest.approx(0.94), ())
