"""Effort as a promise: what is picked from a measured frontier, what gives way, and what an answer says about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_store import SPACE, TinyGeneration, make_store, make_vectors

from retrieval.errors import InvalidQuery
from retrieval.params import HnswSearch, IvfpqSearch
from retrieval.serving import wire
from retrieval.serving.calls import Effort, GenerationDescription, VectorQuery, Wanted
from retrieval.serving.effort.efforts import Efforts
from retrieval.serving.effort.frontier import Frontier, Point, band_name
from retrieval.serving.effort.promise import DEADLINE, RECALL, lowered, pick
from retrieval.serving.engine import Engine
from retrieval.serving.filtering.filters import Equal, Restriction
from retrieval.serving.rankings import Served
from retrieval.serving.shards import LocalShard, open_shards
from retrieval.store import Generation
from retrieval.store.manifest import FrontierPoint

D = 8


def graph(ef: int, at_10: float, at_100: float, p95_ms: float) -> Point:
    return Point(params=HnswSearch(ef=ef), recall_at_10=at_10, recall_at_100=at_100, p50_ms=p95_ms / 2, p95_ms=p95_ms)


TABLE = [graph(100, 0.95, 0.90, 1.0), graph(200, 0.98, 0.95, 2.0), graph(400, 0.995, 0.99, 4.0)]


@pytest.mark.parametrize(
    ("min_recall", "k", "time_ms", "ef", "gave_way"),
    [
        (0.90, 100, None, 100, ""),
        (0.91, 100, None, 200, ""),
        (0.95, 10, None, 100, ""),  # k to 10 is held to recall@10
        (0.95, 11, None, 200, ""),
        (0.99, 100, 4.0, 400, ""),
        (0.99, 100, 3.9, 200, RECALL),  # the deadline forces less
        (0.999, 100, None, 400, RECALL),  # nothing measured reaches it
        (0.999, 100, 1.5, 100, RECALL),
        (0.90, 100, 0.5, 100, DEADLINE),
        (0.99, 100, -1.0, 100, DEADLINE),
        (0.95, 1_000, 20.0, 2_000, ""),  # beyond the measured k effort and time grow in proportion
        (0.95, 1_000, 19.0, 1_000, RECALL),
    ],
)
def test_the_cheapest_effort_that_keeps_both_bounds(
    min_recall: float, k: int, time_ms: float | None, ef: int, gave_way: str
) -> None:
    picked = pick(TABLE, min_recall, k, time_ms=time_ms)
    assert picked is not None
    assert (picked.params, picked.gave_way) == (HnswSearch(ef=ef), gave_way)
    assert (picked.recall is None) == (k > 100)
    assert bool(picked.reasons) == (gave_way != "" or k > 100)


def test_the_reason_names_both_figures() -> None:
    late = pick(TABLE, 0.99, 100, time_ms=3)
    assert late is not None
    assert late.reasons == (
        "recall 0.99 was asked for, which takes 4 ms (95th percentile), and 3 ms were left: recall 0.9500 is expected",
    )
    hopeless = pick(TABLE, 0.9, 100, time_ms=0.5)
    assert hopeless is not None
    assert "0.5 ms were left: no measured effort fits, the cheapest takes 1 ms" in hopeless.reasons[0]


shares = st.floats(0, 1, allow_nan=False)


@given(
    figures=st.lists(st.tuples(shares, shares, st.floats(0.01, 100)), min_size=1, max_size=8),
    min_recall=shares,
    k=st.integers(1, 100),
    time_ms=st.none() | st.floats(0.01, 100),
)
def test_a_promise_is_kept_or_said_to_be_broken(
    figures: list[tuple[float, float, float]], min_recall: float, k: int, time_ms: float | None
) -> None:
    points = [graph(10 + i, *figure) for i, figure in enumerate(figures)]
    picked = pick(points, min_recall, k, time_ms=time_ms)
    assert picked is not None
    assert picked.recall is not None
    (chosen,) = (point for point in points if point.params == picked.params)
    assert picked.recall == chosen.recall(k)
    assert picked.recall >= min_recall or picked.gave_way
    assert time_ms is None or chosen.p95_ms <= time_ms or picked.gave_way == DEADLINE
    assert bool(picked.gave_way) == bool(picked.reasons)
    if not picked.gave_way:
        good = [p.p95_ms for p in points if (p.recall(k) or 0) >= min_recall and p.p95_ms <= (time_ms or 1e9)]
        assert chosen.p95_ms == min(good)


def test_nothing_measured_promises_nothing() -> None:
    assert pick([], 0.5, 10) is None


def test_a_step_lowers_to_what_was_measured_and_not_below_its_floor() -> None:
    dear = HnswSearch(ef=400)
    assert lowered(TABLE, dear, 100, floor=0.8, rescore_only=False) == TABLE[0]
    assert lowered(TABLE, dear, 100, floor=0.93, rescore_only=False) == TABLE[1]
    assert lowered(TABLE, dear, 100, floor=0.999, rescore_only=False) is None
    assert lowered(TABLE, dear, 100, floor=0.8, rescore_only=True) is None  # graphs rescore nothing
    assert lowered(TABLE, HnswSearch(ef=150), 100, floor=0, rescore_only=False) is None  # no price is known
    lists = [
        Point(
            params=IvfpqSearch(nprobe=n, rescore=r),
            recall_at_10=0.99,
            recall_at_100=0.9 + r / 1e4,
            p50_ms=n + r / 100,
            p95_ms=n + r / 100,
        )
        for n, r in ((32, 400), (64, 400), (64, 800))
    ]
    found = lowered(lists, IvfpqSearch(nprobe=64, rescore=800), 100, floor=0.8, rescore_only=True)
    assert found == lists[1]


def measured(
    ef: int, recall: float, p95_ms: float, band: float | None = None, shards: int | None = None
) -> FrontierPoint:
    return FrontierPoint(
        params={"ef": ef, "max_distances": 0},
        recall_at_10=recall,
        recall_at_100=recall,
        p50_ms=p95_ms / 2,
        p95_ms=p95_ms,
        queries=50,
        filter_band=band,
        shards=shards,
    )


FRONTIER = [
    measured(100, 0.90, 0.01),
    measured(200, 0.99, 0.02),
    measured(100, 0.80, 0.015, 0.5, 1),
    measured(200, 0.97, 0.03, 0.5, 1),
    measured(100, 0.95, 0.02, 0.1, 1),
    measured(200, 0.96, 0.01, 0.1, 1),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TinyGeneration:
    colour = pa.array(["rare" if i % 10 == 0 else "common" for i in range(400)])
    columns = {"colour": colour}
    return make_store(tmp_path_factory.mktemp("s"), 400, D, 2, kind="hnsw", frontier=FRONTIER, columns=columns)


@pytest.fixture(scope="module")
def engine(made: TinyGeneration) -> Engine:
    shards = open_shards(Generation.open(made.path))
    about = GenerationDescription(manifest=made.manifest, columns=("colour",))
    return Engine({"pin": Served(about=about, shards=tuple(shards), efforts=Efforts(made.manifest))})


QUERY = VectorQuery(values=make_vectors(1, D, seed=3)[0], space_id=SPACE)


def test_between_two_bands_the_worse_figures_hold(made: TinyGeneration) -> None:
    frontier = Frontier(made.manifest)

    def figures(share: float | None) -> list[tuple[int, float, float]]:
        found = frontier.points(share)
        return [(p.params.ef, p.recall_at_100, p.p95_ms) for p in found if isinstance(p.params, HnswSearch)]

    assert figures(None) == [(100, 0.90, 0.01), (200, 0.99, 0.02)]
    assert figures(0.5) == [(100, 0.80, 0.03), (200, 0.97, 0.06)]  # one of two shards was measured
    assert figures(0.3) == [(100, 0.80, 0.04), (200, 0.96, 0.06)]
    assert figures(0.7) == [(100, 0.80, 0.03), (200, 0.97, 0.06)]
    assert figures(0.001) == [(200, 0.96, 0.02), (100, 0.95, 0.04)]
    assert [band_name(share) for share in (None, 1.0, 0.3, 0.1, 0.02, 0.0)] == [
        "none",
        "100 %",
        "50 %",
        "10 %",
        "1 %",
        "0.1 %",
    ]


def test_an_answer_says_what_was_promised(engine: Engine) -> None:
    (source,) = engine.search(QUERY, Wanted(k=10, min_recall=0.95)).sources
    assert (source.effort.ef, source.expected_recall, source.gave_way, source.degraded) == (200, 0.99, "", ())
    (source,) = engine.search(QUERY, Wanted(k=10, min_recall=0.999)).sources
    assert (source.effort.ef, source.expected_recall, source.gave_way) == (200, 0.99, RECALL)
    assert source.degraded == (
        "recall 0.999 was asked for: recall 0.9900 is the most that an effort in time was measured to reach",
    )
    (source,) = engine.search(QUERY, Wanted(k=10, min_recall=0.5), remaining_s=lambda: 1e-6).sources
    assert (source.effort.ef, source.gave_way) == (100, DEADLINE)
    (source,) = engine.search(QUERY, Wanted(k=10, effort=Effort(ef=100))).sources
    assert (source.effort.ef, source.expected_recall) == (100, 0.90)


def test_the_filter_chooses_the_band(engine: Engine) -> None:
    def ask(colour: str, **more: Any) -> tuple[int | None, float | None, int | None]:
        restriction = Restriction(filter=Equal(column="colour", value=colour))
        (source,) = engine.search(QUERY, Wanted(k=10, restriction=restriction, **more)).sources
        return source.effort.ef, source.expected_recall, source.matches

    assert ask("rare", min_recall=0.96) == (200, 0.96, 40)
    assert ask("rare", effort=Effort(ef=100)) == (100, 0.95, 40)
    assert ask("common", min_recall=0.85) == (200, 0.97, 360)


class Elsewhere:
    """A shard that searches, but cannot say how many rows a filter allows."""

    def __init__(self, shard: LocalShard, fault: bool) -> None:
        self._shard = shard
        if fault:
            self.matches = lambda condition: 1 // 0

    def __getattr__(self, name: str) -> Any:
        if name == "matches":
            raise AttributeError(name)
        return getattr(self._shard, name)


@pytest.mark.parametrize("fault", [False, True])
def test_an_unknown_share_is_said(made: TinyGeneration, fault: bool) -> None:
    shards: Any = tuple(Elsewhere(shard, fault) for shard in open_shards(Generation.open(made.path)))
    about = GenerationDescription(manifest=made.manifest, columns=("colour",))
    engine = Engine({"pin": Served(about=about, shards=shards, efforts=Efforts(made.manifest))})
    restriction = Restriction(filter=Equal(column="colour", value="rare"))
    (source,) = engine.search(QUERY, Wanted(k=10, restriction=restriction, min_recall=0.9)).sources
    assert (source.effort.ef, source.expected_recall) == (100, None)
    assert source.degraded == (
        "how many rows the filter allows is not known, so the effort is that measured without a filter",
    )


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        (Wanted(min_recall=1.5), r"min_recall 1.5 is not acceptable: it is a share, 0 to 1"),
        (Wanted(min_recall=float("nan")), r"min_recall nan is not acceptable"),
        (Wanted(min_recall=0.9, effort=Effort(ef=50)), r"min_recall 0.9 and an explicit effort exclude each other"),
    ],
)
def test_bad_promises_are_refused(engine: Engine, wanted: Wanted, sentence: str) -> None:
    with pytest.raises(InvalidQuery, match=sentence):
        engine.search(QUERY, wanted)


def test_without_measurements_the_default_is_used_and_said(tmp_path: Path) -> None:
    for kind, gave_way, recall in (("hnsw", RECALL, None), ("flat", "", 1.0)):
        chosen = Efforts(make_store(tmp_path / kind, 60, D, 1, kind=kind).manifest).keep(
            0.9, 10, share=None, time_ms=None
        )
        assert (chosen.gave_way, chosen.expected_recall) == (gave_way, recall)


def test_the_wire_keeps_what_was_promised(engine: Engine) -> None:
    answer = engine.search(QUERY, Wanted(k=10, min_recall=0.999))
    source = wire.write_search(answer).sources[0]
    assert (source.gave_way, list(source.degraded)) == (RECALL, list(answer.sources[0].degraded))
    assert source.expected_recall == np.float32(0.99)
    described = wire.write_description(engine.describe())
    bands = [p.filter_band if p.HasField("filter_band") else None for p in described.generations[0].frontier]
    assert bands == [None, None, 0.5, 0.5, np.float32(0.1), np.float32(0.1)]
    assert described.pressure == "none"
