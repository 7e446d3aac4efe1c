"""Live recall equals a computation by hand, keeps its bounds, and shows in the description."""

from __future__ import annotations

import threading

import numpy as np
import pyarrow as pa
import pytest
from tiny_store import SPACE, TinyGeneration, make_store, make_vectors

from retrieval.serving import wire
from retrieval.serving.calls import Effort, GenerationDescription, VectorQuery, Wanted
from retrieval.serving.effort.efforts import Efforts
from retrieval.serving.engine import Engine
from retrieval.serving.filtering.filters import UNRESTRICTED, Crowding, Equal, Restriction
from retrieval.serving.live_recall import Answered, LiveRecallMeter, LiveRecallSettings, wilson
from retrieval.serving.rankings import Served
from retrieval.serving.shards import open_shards
from retrieval.store import Generation
from retrieval.topk import exact_search
from retrieval.types import Metric

D, N, K = 32, 3_000, 10
ALL = LiveRecallSettings(share=1.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TinyGeneration:
    colour = pa.array(["rare" if i % 10 == 0 else "common" for i in range(N)])
    return make_store(tmp_path_factory.mktemp("s"), N, D, 2, kind="hnsw", columns={"colour": colour})


def served(made: TinyGeneration) -> Served:
    shards = tuple(open_shards(Generation.open(made.path)))
    about = GenerationDescription(manifest=made.manifest, columns=("colour",))
    return Served(about=about, shards=shards, efforts=Efforts(made.manifest))


def test_it_equals_a_computation_by_hand(made: TinyGeneration) -> None:
    meter = LiveRecallMeter(ALL, start=False)
    engine = Engine({"pin": served(made)}, live=meter)
    queries = make_vectors(20, D, seed=9)
    rare = Restriction(filter=Equal(column="colour", value="rare"))
    hand: dict[str, list[float]] = {"none": [], "10 %": []}
    for xq in queries:
        for band, restriction in (("none", UNRESTRICTED), ("10 %", rare)):
            rows = np.arange(N) if band == "none" else np.arange(0, N, 10)
            query = VectorQuery(values=xq, space_id=SPACE)
            effort = Effort(ef=1)  # hardly more than k, so that something is missed
            (ranking,) = engine.search(query, Wanted(k=K, effort=effort, restriction=restriction)).rankings
            best = set(made.ids[rows][exact_search(xq[None], made.vectors[rows], K, Metric.COSINE)[0][0]].tolist())
            hand[band].append(len(best & set(ranking.ids.tolist())) / K)
    while meter.work():
        pass
    found = {each.filter_band: each for each in meter.measured()}
    assert set(found) == {"none", "10 %"}
    for band, recalls in hand.items():
        each = found[band]
        assert each.recall == pytest.approx(np.mean(recalls))
        assert (each.entity_type, each.k, each.answers, each.effort_json) == ("pin", K, 20, '{"ef": 10}')
        assert (each.low, each.high) == wilson(each.recall, 20)
    assert found["none"].recall < 1, "nothing was missed, so nothing was tested"
    (described,) = [
        each for each in wire.write_description(engine.describe()).live_recall if each.filter_band == "none"
    ]
    assert (described.answers, described.recall) == (20, np.float32(np.mean(hand["none"])))
    engine.close()


def test_the_interval_is_wilsons() -> None:
    low, high = wilson(0.9, 100)  # the textbook's 90 of 100
    assert (low, high) == pytest.approx((0.8256, 0.9448), abs=1e-4)
    assert wilson(1.0, 1)[1] == 1.0
    assert wilson(0.0, 5)[0] == pytest.approx(0)


def test_the_backlog_is_bounded_and_crowding_is_left_out(made: TinyGeneration) -> None:
    meter = LiveRecallMeter(LiveRecallSettings(share=1.0, backlog=2), start=False)
    xq = make_vectors(1, D, seed=1)

    def answered(restriction: Restriction) -> Answered:
        return Answered(
            entity_type="pin",
            shards=served(made).shards,
            xq=xq,
            k=3,
            restriction=restriction,
            scores=np.ones(3, np.float32),
            effort=Effort(),
            share=None,
        )

    meter.offer(answered(Restriction(crowding=Crowding(column="colour", at_most=1))))
    for _ in range(5):
        meter.offer(answered(UNRESTRICTED))
    stats = meter.stats()
    assert (stats.sampled, stats.dropped, stats.measured) == (5, 3, 0)
    assert [meter.work() for _ in range(3)] == [True, True, False]
    assert meter.stats().measured == 2


def test_the_sample_is_its_seed_and_share() -> None:
    def drawn(share: float, seed: int) -> list[bool]:
        meter = LiveRecallMeter(LiveRecallSettings(share=share, seed=seed), start=False)
        return [meter.draw() for _ in range(2_000)]

    assert drawn(0.1, 1) == drawn(0.1, 1) != drawn(0.1, 2)
    assert 120 < sum(drawn(0.1, 1)) < 280
    assert not any(drawn(0.0, 1))


def test_it_works_in_idle_time_only(made: TinyGeneration) -> None:
    idle, measured = threading.Event(), threading.Event()
    meter = LiveRecallMeter(ALL, idle=idle.is_set)
    engine = Engine({"pin": served(made)}, live=meter)
    try:
        engine.search(VectorQuery(values=make_vectors(1, D, seed=2)[0], space_id=SPACE), Wanted(k=K))
        assert not measured.wait(0.1)
        assert meter.stats().measured == 0
        idle.set()
        for _ in range(500):
            if meter.stats().measured:
                break
            measured.wait(0.01)
        assert meter.stats().measured == 1
    finally:
        engine.close()
