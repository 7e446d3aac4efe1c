"""Filters, crowding and explanations through a broker and its leaves: what one process says, word for word."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_store import SPACE, make_store, make_vectors

from retrieval.errors import InvalidQuery
from retrieval.serving.calls import EntityQuery, Grouping, VectorQuery, Wanted
from retrieval.serving.config import make_settings
from retrieval.serving.engine import Engine
from retrieval.serving.filtering.filters import AllOf, Crowding, Equal, In, Not, Range, Restriction
from retrieval.serving.fleet.broker import Broker
from retrieval.serving.fleet.leaf import LeafService
from retrieval.serving.rankings import Served
from retrieval.serving.swap.load import load_store

D, N = 8, 300


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Engine]]:
    """An engine over all shards, and one over three leaves that share them."""
    root = tmp_path_factory.mktemp("restricted")
    columns = {
        "brand": pa.array([["acme", "bolt", "crux", None][i % 4] for i in range(N)], pa.string()),
        "price": pa.array(range(N), pa.int64()),
        "tags": pa.array([["a", "b"][: i % 3] for i in range(N)], pa.list_(pa.string())),
    }
    x = make_vectors(N, D, distinct=50)
    make_store(root, N, D, 4, "int64", vectors=x, columns=columns)
    make_store(root, N, D, 3, "string", entity_type="product", vectors=x, columns=columns)
    whole = load_store(make_settings(store=root))
    leaves = [leaf(whole, numbers) for numbers in ({0, 1}, {2}, {3})]
    broker = Broker(make_settings(role="broker", shards=",".join(f"127.0.0.1:{port}" for _, port in leaves)))
    yield Engine(whole), Engine(broker.load())
    broker.close()
    for server, _ in leaves:
        server.stop(0).wait()


def leaf(whole: dict[str, Served], numbers: set[int]) -> tuple[grpc.Server, int]:
    """A server of some of the shards in this process, and its port."""
    served = {
        name: replace(each, shards=tuple(shard for number, shard in enumerate(each.shards) if number in numbers))
        for name, each in whole.items()
        if any(number in numbers for number in range(len(each.shards)))
    }
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((LeafService(served, max_message_bytes=1 << 24).generic_handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


FILTERS = st.sampled_from(
    [
        None,
        Equal(column="brand", value="acme"),
        In(column="tags", values=("b",)),
        Not(filter=Equal(column="brand", value="acme")),
        AllOf(filters=(Range(column="price", at_least=20, below=200.5), Not(filter=Equal(column="tags", value="b")))),
        Range(column="price", below=3),
        Range(column="price", below=0),
    ]
)
RESTRICTIONS = st.builds(
    lambda wanted, at_most: Restriction(
        filter=wanted, crowding=None if at_most is None else Crowding(column="brand", at_most=at_most)
    ),
    FILTERS,
    st.none() | st.integers(1, 3),
)


@settings(max_examples=40, deadline=None)
@given(
    restriction=RESTRICTIONS,
    k=st.sampled_from([1, 7, 50, 400]),
    seed=st.integers(0, 99),
    grouping=st.sampled_from(Grouping),
)
def test_a_broker_narrows_as_one_process_does(
    both: tuple[Engine, Engine], restriction: Restriction, k: int, seed: int, grouping: Grouping
) -> None:
    xq = VectorQuery(values=make_vectors(1, D, seed=seed)[0], space_id=SPACE)
    wanted = Wanted(k=k, restriction=restriction, grouping=grouping, attributes=("brand",))
    here, there = (engine.search(xq, wanted) for engine in both)
    for ours, theirs in zip(here.rankings, there.rankings, strict=True):
        assert theirs.ids.tolist() == ours.ids.tolist()
        assert theirs.scores.tolist() == ours.scores.tolist()
        assert theirs.attributes["brand"].to_pylist() == ours.attributes["brand"].to_pylist()
    assert [each.matches for each in there.sources] == [each.matches for each in here.sources]
    assert [each.degraded for each in there.sources] == [each.degraded for each in here.sources]


@settings(max_examples=30, deadline=None)
@given(restriction=RESTRICTIONS, k=st.sampled_from([1, 7, 50]), place=st.integers(0, N))
def test_a_broker_explains_as_one_process_does(
    both: tuple[Engine, Engine], restriction: Restriction, k: int, place: int
) -> None:
    xq = VectorQuery(values=make_vectors(1, D, seed=5)[0], space_id=SPACE)
    ids = np.random.default_rng(11).permutation(N) * 7 - 3  # of the tiny store
    entity = EntityQuery(entity_type="pin", id=int(ids[place]) if place < N else 10**9)
    here, there = (engine.explain(xq, entity, Wanted(k=k, restriction=restriction)) for engine in both)
    ours, theirs = (None if each.shard is None else replace(each.shard, score=0.0) for each in (here, there))
    assert theirs == ours
    assert (there.verdict, there.reason, there.exact_rank, there.rank) == (
        here.verdict,
        here.reason,
        here.exact_rank,
        here.rank,
    )


@pytest.mark.parametrize(
    "restriction",
    [
        Restriction(filter=Equal(column="size", value=3)),
        Restriction(filter=Equal(column="price", value="3")),
        Restriction(filter=Range(column="tags", below="b")),
        Restriction(crowding=Crowding(column="tags", at_most=1)),
        Restriction(crowding=Crowding(column="size", at_most=1)),
    ],
)
def test_a_broker_refuses_with_the_sentence_of_one_process(
    both: tuple[Engine, Engine], restriction: Restriction
) -> None:
    sentences = []
    for engine in both:
        with pytest.raises(InvalidQuery, match=r"size|price|tags") as caught:
            engine.search(VectorQuery(values=np.ones(D, np.float32), space_id=SPACE), Wanted(restriction=restriction))
        sentences.append(str(caught.value))
    assert sentences[0] == sentences[1]
