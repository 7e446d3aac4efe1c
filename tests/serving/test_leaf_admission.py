"""A leaf that is full says so at once, its broker goes elsewhere and does not eject it; leaves know who asks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tiny_fleet import LeafProcess, part_of
from tiny_store import SPACE, make_store, make_vectors

from retrieval.errors import Overloaded
from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb
from retrieval.serving import caller
from retrieval.serving.admission import Admission, AdmissionSettings
from retrieval.serving.calls import EntityQuery, Priority, VectorQuery, Wanted
from retrieval.serving.config import make_settings
from retrieval.serving.engine import Engine
from retrieval.serving.fleet.broker import Broker
from retrieval.serving.operate import observing
from retrieval.serving.rankings import Served
from retrieval.serving.server import Server
from retrieval.serving.swap.load import load_store

D, K = 8, Wanted(k=5)
QUERY = VectorQuery(values=make_vectors(1, D, seed=1)[0], space_id=SPACE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Served]:
    root: Path = tmp_path_factory.mktemp("store")
    make_store(root, 200, D, 4)
    return load_store(make_settings(store=root))


class Occupied:
    """An admission of one turn and no queue, held by somebody from `take` until `leave`."""

    def __init__(self) -> None:
        self.admission = Admission(1, AdmissionSettings(max_queue=0))
        self._turns: list[Any] = []

    def take(self) -> None:
        self._turns.append(self.admission.turn())
        self._turns[-1].__enter__()

    def leave(self) -> None:
        self._turns.pop().__exit__(None, None, None)


@pytest.fixture
def full(whole: dict[str, Served]) -> Iterator[tuple[LeafProcess, Occupied]]:
    occupied = Occupied()
    leaf = LeafProcess(whole, admission=occupied.admission)
    yield leaf, occupied
    leaf.stop()


def open_broker(*leaves: LeafProcess, **more: Any) -> tuple[Broker, Engine]:
    targets = ",".join(f"127.0.0.1:{each.port}" for each in leaves)
    broker = Broker(make_settings(role="broker", shards=targets, **more))
    return broker, Engine(broker.load())


def test_a_full_leaf_refuses_within_milliseconds_and_says_when_to_come_again(
    whole: dict[str, Served], full: tuple[LeafProcess, Occupied]
) -> None:
    leaf, occupied = full
    manifest = whole["pin"].about.manifest
    request = pb.SearchShardsRequest(
        part=pb.Part(entity_type="pin", generation=manifest.id, shards=["shard-00000"]),
        vectors=QUERY.values.tobytes(), queries=1, space_id=SPACE, k=5,
    )  # fmt: skip
    with grpc.insecure_channel(f"127.0.0.1:{leaf.port}") as channel:
        call = channel.unary_unary("/retrieval.v1.Shard/SearchShards", pb.SearchShardsRequest.SerializeToString)
        describe = channel.unary_unary("/retrieval.v1.Shard/DescribeShards")
        call(request)
        occupied.take()
        took = []
        for _ in range(5):
            began = time.monotonic()
            with pytest.raises(grpc.RpcError, match="1 calls are at work") as caught:
                call(request, timeout=5)
            took.append(time.monotonic() - began)
            error: Any = caught.value
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert int(dict(error.trailing_metadata())["retry-after-ms"]) >= 1
        assert min(took) < 0.02  # measured 1 ms; others share the machine
        assert describe(b"")  # a broker's looks are never refused
        occupied.leave()
        call(request)


def test_a_replica_answers_for_a_full_leaf_which_stays_trusted(
    whole: dict[str, Served], full: tuple[LeafProcess, Occupied]
) -> None:
    leaf, occupied = full
    other = LeafProcess(whole)
    broker, engine = open_broker(leaf, other, eject_after_failures=1)
    occupied.take()
    for _ in range(6):
        assert engine.search(QUERY, K).sources[0].coverage == 1
    assert [each.ejected for each in broker.leaves] == [False, False]
    broker.close()
    other.stop()


def test_a_full_leaf_without_a_replica_costs_coverage(
    whole: dict[str, Served],
) -> None:
    occupied = Occupied()
    part, rest = LeafProcess(part_of(whole, {0}), admission=occupied.admission), LeafProcess(part_of(whole, {1, 2, 3}))
    broker, engine = open_broker(part, rest, eject_after_failures=1)
    occupied.take()
    (source,) = engine.search(QUERY, K).sources
    assert source.coverage == 1 - whole["pin"].shards[0].rows / 200
    assert f"leaf 127.0.0.1:{part.port}: 1 calls are at work and 0 wait" in source.degraded[0]
    occupied.leave()
    assert engine.search(QUERY, K).sources[0].coverage == 1
    broker.close()
    for each in (part, rest):
        each.stop()


def test_where_every_leaf_is_full_the_caller_is_told_to_wait(full: tuple[LeafProcess, Occupied]) -> None:
    leaf, occupied = full
    broker, engine = open_broker(leaf)
    occupied.take()
    with pytest.raises(Overloaded, match=r"no leaf has room \(leaf 127.0.0.1:\d+: 1 calls are at work") as caught:
        engine.search(QUERY, K)
    assert (caught.value.retry_after_ms or 0) >= 1
    broker.close()


def test_class_and_request_id_of_a_call_reach_the_leaf(whole: dict[str, Served]) -> None:
    seen: list[tuple[Priority, str | None]] = []

    class Watching(Admission):
        def turn(self, priority: Priority = Priority.INTERACTIVE, **more: Any) -> Any:
            record = observing.current()
            seen.append((priority, None if record is None else record.request_id))
            return super().turn(priority, **more)

    leaf = LeafProcess(whole, admission=Watching(4), interceptors=[observing.Gate(None, [])])
    settings = make_settings(role="broker", shards=f"127.0.0.1:{leaf.port}", port=0)
    broker = Broker(settings)
    server = Server(Engine(broker.load()), settings)
    port = server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        search = channel.unary_unary("/retrieval.v1.Retrieval/Search", pb.SearchRequest.SerializeToString)
        explain = channel.unary_unary("/retrieval.v1.Retrieval/Explain", pb.ExplainRequest.SerializeToString)
        query = pb.Query(vector=pb.Vector(values=QUERY.values.tolist(), space_id=SPACE))
        for priority, name in ((pb.BATCH, "later"), (pb.INTERACTIVE, "now")):
            search(pb.SearchRequest(query=query, k=3, priority=priority), metadata=[("x-request-id", name)])
        assert seen == [(Priority.BATCH, "later"), (Priority.INTERACTIVE, "now")]
        seen.clear()
        entity = pb.EntityRef(entity_type="pin", int64_id=4)
        explain(pb.ExplainRequest(query=query, k=3, entity=entity), metadata=[("x-request-id", "why")])
        assert set(seen) == {(Priority.BATCH, "why")}
    server.stop(0).wait()
    broker.close()
    leaf.stop()


class Context:
    """A call whose broker may be gone, or out of time."""

    def __init__(self, *, active: bool, remaining_s: float) -> None:
        self._active, self._remaining_s = active, remaining_s
        self.told = ""

    def is_active(self) -> bool:
        return self._active

    def time_remaining(self) -> float:
        return self._remaining_s

    def abort(self, code: grpc.StatusCode, sentence: str) -> None:
        self.told = f"{code.name} {sentence}"
        raise RuntimeError(self.told)


@pytest.mark.parametrize(
    ("context", "told"),
    [
        (Context(active=False, remaining_s=1.0), "CANCELLED the caller went away before the search began"),
        (Context(active=True, remaining_s=0.0), "DEADLINE_EXCEEDED the deadline passed before the search began"),
    ],
)
def test_work_for_nobody_is_dropped_before_it_starts(whole: dict[str, Served], context: Context, told: str) -> None:
    leaf = LeafProcess(whole, admission=Admission(1))
    handler: Any = leaf.handler("SearchShards")
    with pytest.raises(RuntimeError, match=told):
        handler(b"not even a message", context)
    leaf.stop()


def test_an_explanation_asks_the_leaves_side_by_side(whole: dict[str, Served]) -> None:
    leaves = [LeafProcess(part_of(whole, {number})) for number in range(4)]
    broker, engine = open_broker(*leaves)
    wanted, ids = Wanted(k=5), [int(each) for each in Engine(whole).search(QUERY, Wanted(k=50)).rankings[0].ids]
    try:
        for entity in (ids[0], ids[-1], 5):
            here = Engine(whole).explain(QUERY, EntityQuery(entity_type="pin", id=entity), wanted)
            there = engine.explain(QUERY, EntityQuery(entity_type="pin", id=entity), wanted)
            assert (there.verdict, there.exact_rank, there.score) == (here.verdict, here.exact_rank, here.score)
        for leaf in leaves:
            leaf.explain_delay_s = 0.25
        began = time.monotonic()
        engine.explain(QUERY, EntityQuery(entity_type="pin", id=ids[-1]), wanted)
        assert time.monotonic() - began < 1.75  # two rounds of 0.25 s; one after the other they are eight
    finally:
        broker.close()
        for leaf in leaves:
            leaf.stop()


def test_a_thread_that_answers_nobody_is_interactive() -> None:
    assert caller.priority() is Priority.INTERACTIVE
