"""Leaves and their broker: the same candidates as in process, exact coverage, ejection and return, completeness."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_fleet import LeafProcess, part_of
from tiny_store import SPACE, make_store, make_vectors

from retrieval.errors import FailedPrecondition, InvalidParams, SpaceMismatch, Unavailable
from retrieval.serving.calls import EntityQuery, Grouping, VectorQuery, Wanted
from retrieval.serving.config import make_settings
from retrieval.serving.engine import Engine
from retrieval.serving.fleet.broker import Broker
from retrieval.serving.fleet.completeness import shard_k
from retrieval.serving.fleet.leaf import LeafService
from retrieval.serving.fleet.leaves import Hedging
from retrieval.serving.fleet.targets import Target, Targets
from retrieval.serving.rankings import Served
from retrieval.serving.swap.load import load_store

D = 8


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Served]:
    root: Path = tmp_path_factory.mktemp("fleet")
    x = make_vectors(400, D, distinct=60)
    make_store(root, 400, D, 4, "int64", vectors=x)
    make_store(root, 400, D, 4, "string", entity_type="product", vectors=x)
    return load_store(make_settings(store=root))


@pytest.fixture
def leaves(whole: dict[str, Served]) -> Iterator[list[LeafProcess]]:
    made = [LeafProcess(part_of(whole, {0, 1})), LeafProcess(part_of(whole, {2})), LeafProcess(part_of(whole, {3}))]
    yield made
    for each in made:
        each.stop()


@pytest.fixture
def broker(leaves: list[LeafProcess]) -> Iterator[tuple[Broker, Engine]]:
    made, engine = open_broker(leaves)
    yield made, engine
    made.close()


def open_broker(leaves: list[LeafProcess], **more: object) -> tuple[Broker, Engine]:
    targets = ",".join(f"127.0.0.1:{each.port}" for each in leaves)
    broker = Broker(make_settings(role="broker", shards=targets, probe_interval_seconds=0.2, **more))
    return broker, Engine(broker.load())


def vector(seed: int) -> VectorQuery:
    return VectorQuery(values=make_vectors(1, D, seed=seed)[0], space_id=SPACE)


@pytest.mark.parametrize("grouping", list(Grouping))
def test_a_broker_finds_what_one_process_finds(
    whole: dict[str, Served], broker: tuple[Broker, Engine], grouping: Grouping
) -> None:
    alone = Engine(whole)
    columns = tuple(whole["pin"].about.columns[:2])
    for seed, k in [(1, 1), (2, 10), (3, 100), (4, 500)]:
        wanted = Wanted(k=k, grouping=grouping, attributes=columns)
        here, there = alone.search(vector(seed), wanted), broker[1].search(vector(seed), wanted)
        for ours, theirs in zip(here.rankings, there.rankings, strict=True):
            assert theirs.ids.tolist() == ours.ids.tolist()
            assert theirs.scores.tolist() == ours.scores.tolist()
            assert {n: v.to_pylist() for n, v in theirs.attributes.items()} == {
                n: v.to_pylist() for n, v in ours.attributes.items()
            }
        assert [each.coverage for each in there.sources] == [1.0, 1.0]


def test_stored_vectors_and_scores_come_over_the_wire(whole: dict[str, Served], broker: tuple[Broker, Engine]) -> None:
    alone, ids = Engine(whole), Engine(whole).search(vector(9), Wanted(entity_types=("pin",), k=5)).rankings[0].ids
    query = EntityQuery(entity_type="pin", id=int(ids[0]))
    here, there = alone.score(query, "pin", ids), broker[1].score(query, "pin", ids)
    assert here.scores.tolist() == there.scores.tolist()
    assert there.found.all()


@pytest.mark.parametrize("fault", ["dead", "slow", "garbling"])
def test_a_bad_leaf_costs_its_rows_is_ejected_and_comes_back(
    whole: dict[str, Served], leaves: list[LeafProcess], fault: str
) -> None:
    broker, engine = open_broker(leaves, leaf_timeout_seconds=0.4)
    broker.watch(lambda served: None)
    bad = leaves[1]
    wanted = Wanted(entity_types=("pin",), k=20, minimum_coverage=0.5)
    try:
        if fault == "dead":
            bad.stop()
        elif fault == "slow":
            bad.delay_s = 1.0
        else:
            bad.garbles = True
        began = time.monotonic()
        while not broker.leaves[1].ejected:
            (source,) = engine.search(vector(1), wanted).sources
            assert time.monotonic() - began < 5
        assert source.coverage == 1 - whole["pin"].shards[2].rows / 400
        assert f"127.0.0.1:{bad.port}" in source.degraded[0]
        with pytest.raises(Unavailable, match=r"coverage of pin is 0\.\d+, 1\.000 were asked for"):
            engine.search(vector(1), Wanted(entity_types=("pin",), k=20, minimum_coverage=1.0))
        bad.delay_s, bad.garbles = 0.0, False
        if fault == "dead":
            leaves[1] = LeafProcess(part_of(whole, {2}), bad.port)
        began = time.monotonic()
        while engine.search(vector(1), wanted).sources[0].coverage < 1:
            assert time.monotonic() - began < 10
            time.sleep(0.05)
    finally:
        broker.close()


def test_a_replica_answers_for_a_dead_leaf(whole: dict[str, Served]) -> None:
    leaves = [LeafProcess(whole), LeafProcess(whole)]
    broker, engine = open_broker(leaves)
    leaves[0].stop()
    for seed in range(6):
        assert engine.search(vector(seed), Wanted(k=5)).sources[0].coverage == 1
    broker.close()
    leaves[1].stop()


def test_a_slow_replica_is_hedged_within_the_budget(whole: dict[str, Served]) -> None:
    leaves = [LeafProcess(whole), LeafProcess(whole)]
    broker, engine = open_broker(leaves)
    for seed in range(200):
        # which replica is asked first is not ours to say, but of two calls in a row one asks the slow one
        leaves[0].delay_s = 0.2 if seed % 50 >= 48 else 0.0
        began = time.monotonic()
        engine.search(vector(seed), Wanted(entity_types=("pin",), k=5))
        assert time.monotonic() - began < 1
    assert 0 < broker.hedging.extra <= 0.05 * broker.hedging.calls
    broker.close()
    for each in leaves:
        each.stop()


def test_another_generation_is_refused_by_name(whole: dict[str, Served]) -> None:
    from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb

    leaf = LeafService(whole, max_message_bytes=1 << 20)
    part = pb.Part(entity_type="pin", generation="000009-00000000", shards=["shard-00000"])
    with pytest.raises(FailedPrecondition, match=r"for generation 000009-00000000 of pin, this leaf serves 0000"):
        leaf.search(pb.SearchShardsRequest(part=part))


def test_a_mixed_fleet_serves_the_newest_whole_generation_and_never_a_mixture(tmp_path: Path) -> None:
    held = []
    for seed, space in [(1, "old-space"), (2, "new-space")]:
        make_store(tmp_path, 200, D, 4, seed=seed, space_id=space, vectors=make_vectors(200, D, seed=seed))
        held.append(load_store(make_settings(store=tmp_path)))
    old, new = held
    halves = [{0, 1}, {2, 3}, {0, 1}, {2, 3}]
    leaves = [LeafProcess(part_of(old, numbers)) for numbers in halves]
    broker, engine = open_broker(leaves)
    engine.follow(broker)
    values, wanted = make_vectors(1, D, seed=7)[0], Wanted(k=20, minimum_coverage=1.0)

    def check(space: str, served: dict[str, Served], other: str) -> None:
        there = engine.search(VectorQuery(values=values, space_id=space), wanted)
        here = Engine(served).search(VectorQuery(values=values, space_id=space), wanted)
        assert there.rankings[0].ids.tolist() == here.rankings[0].ids.tolist()
        assert (there.sources[0].generation, there.sources[0].coverage) == (here.sources[0].generation, 1.0)
        with pytest.raises(SpaceMismatch, match=other):
            engine.search(VectorQuery(values=values, space_id=other), wanted)

    def move(number: int) -> None:
        leaves[number].stop()
        leaves[number] = LeafProcess(part_of(new, halves[number]), leaves[number].port)

    try:
        check("old-space", old, "new-space")
        move(2)
        deadline = time.monotonic() + 20
        while ("pin", new["pin"].about.manifest.id) not in broker.leaves[2].parts:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        check("old-space", old, "new-space")  # of the new one only half is there
        move(3)
        deadline = time.monotonic() + 20
        while engine.describe().generations[0].manifest.id != new["pin"].about.manifest.id:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        check("new-space", new, "old-space")
    finally:
        engine.close()
        for each in leaves:
            each.stop()


@given(k=st.integers(1, 150) | st.integers(1, 2_000), shards=st.integers(2, 64), p=st.sampled_from([0.9, 0.99, 0.9999]))
@settings(max_examples=30, deadline=None)
def test_a_shards_share_of_k_is_enough_as_often_as_wanted(k: int, shards: int, p: float) -> None:
    cut = shard_k(k, 1 / shards, shards, p)
    assert 1 <= cut <= k
    assert shard_k(k, 1 / shards, shards, 1.0) == k
    drawn = np.random.default_rng(k).multinomial(k, [1 / shards] * shards, size=4_000)
    missed = int((drawn.max(axis=1) > cut).sum())
    mean = 4_000 * (1 - p)
    assert missed <= mean + 5 * mean**0.5 + 5, (k, shards, p, cut, missed)
    if k <= 150:  # and no more than enough, by whole numbers
        ways = [math.comb(k, n) * (shards - 1) ** (k - n) for n in range(k + 1)]
        tails = [Fraction(sum(ways[least + 1 :]), shards**k) for least in (cut - 1, cut)]
        limit = Fraction(1 - p) / shards
        assert tails[1] <= limit * (1 + Fraction(1, 10**9))
        assert cut == 1 or tails[0] > limit * (1 - Fraction(1, 10**9))


def test_targets() -> None:
    assert Targets("a:1,b:2; a:1").known() == [Target("a:1"), Target("b:2")]
    with pytest.raises(InvalidParams, match="leaf 'a' has no host and port: write host:port"):
        Targets("a")
    assert Hedging(0.05).take() is False


def test_leaves_and_a_broker_as_servers(whole: dict[str, Served], tmp_path: Path) -> None:
    from retrieval import client as rc
    from retrieval.serving.server import Server, open_engine

    make_store(tmp_path, 200, D, 2, "int64")
    servers, ports, engines = [], [], []
    for chosen in ("pin:0", "pin:1"):
        leaf = make_settings(store=tmp_path, role="shard", shards=chosen, port=0)
        engines.append(open_engine(leaf))
        servers.append(Server(engines[-1], leaf))
        ports.append(servers[-1].start())
    front = make_settings(role="broker", shards=",".join(f"127.0.0.1:{port}" for port in ports), port=0)
    engines.append(open_engine(front))
    servers.append(Server(engines[-1], front))
    with rc.RetrievalClient(f"127.0.0.1:{servers[-1].start()}") as client:
        found = client.search(rc.Vector(values=vector(3).values, space_id=SPACE), k=20)
    alone = Engine(load_store(make_settings(store=tmp_path))).search(vector(3), Wanted(k=20))
    assert [each.coverage for each in found.sources] == [1.0]
    assert list(found.candidates[0].ids) == alone.rankings[0].ids.tolist()
    assert [leaf.state for leaf in engines[-1].describe().leaves] == ["serving", "serving"]
    for server in reversed(servers):
        server.stop(0).wait()
    for each in reversed(engines):
        each.close()
