"""The delta in memory against a dictionary and brute force, with and without a graph."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from retrieval.delta import Deletes, Entry, Header, LiveDelta, Upserts
from retrieval.delta.search import DeltaIndex
from retrieval.params import FlatSearch
from retrieval.topk import normalise
from retrieval.types import F32, IdType, IndexKind, Metric, VectorDtype

D = 16
HEADER = Header(space_id="a-space", d=D, id_type=IdType.INT64)


def table(attributes: list[dict[str, Any]]) -> pa.Table:
    return pa.table({"n": pa.array([given.get("n") for given in attributes], pa.int64())})


def delta(**more: Any) -> LiveDelta:
    return LiveDelta(HEADER, Metric.COSINE, VectorDtype.FLOAT32, table, **more)


def vectors(n: int, seed: int) -> F32:
    return np.random.default_rng(seed).standard_normal((n, D)).astype(np.float32)


def found(live: LiveDelta, xq: F32, k: int) -> tuple[list[list[int]], F32]:
    snapshot = live.snapshot()
    answer = DeltaIndex(snapshot, Metric.COSINE, IndexKind.FLAT).search(xq, k, FlatSearch())
    ids = [[int(snapshot.ids[row]) for row in rows if row >= 0] for rows in answer.rows]
    return ids, answer.scores


@pytest.mark.parametrize("graph_rows", [100, 10**6])
def test_searches_find_the_latest_of_what_is_not_deleted(graph_rows: int) -> None:
    rng, live, expected, first = np.random.default_rng(3), delta(graph_rows=graph_rows), {}, 1
    for step in range(60):
        ids = rng.choice(1_500, 50, replace=False).tolist()
        x = vectors(50, step)
        if step % 5 == 4:
            live.apply(Entry(first=first, write=Deletes(ids=ids), header=HEADER))
            for id_ in ids:
                expected.pop(id_, None)
        else:
            live.apply(Entry(first=first, write=Upserts(ids=ids, vectors=x, attributes=[{}] * 50), header=HEADER))
            expected |= dict(zip(ids, normalise(x), strict=True))
        first += 50
        live.snapshot()
    if graph_rows == 100:
        deadline = time.monotonic() + 20
        while live.snapshot().graph is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    snapshot = live.snapshot()
    assert snapshot.live == len(expected)
    assert snapshot.position == 3_000
    xq = normalise(vectors(20, 999))
    base_ids, base = np.array(list(expected)), np.stack(list(expected.values()))
    truth = [set(base_ids[np.argsort(-(base @ query))[:10]].tolist()) for query in xq]
    ids, scores = found(live, xq, 10)
    assert all(len(set(each)) == 10 for each in ids)
    assert np.mean([len(truth[number] & set(each)) / 10 for number, each in enumerate(ids)]) >= 0.99
    assert (np.diff(scores, axis=1) <= 0).all()


def test_a_snapshot_does_not_change() -> None:
    live = delta()
    live.apply(Entry(first=1, write=Upserts(ids=[1], vectors=vectors(1, 1), attributes=[{"n": 1}]), header=HEADER))
    before = live.snapshot()
    many = Upserts(ids=list(range(5_000)), vectors=vectors(5_000, 2), attributes=[{"n": 2}] * 5_000)
    live.apply(Entry(first=2, write=many, header=HEADER))
    live.apply(Entry(first=5_002, write=Deletes(ids=[1]), header=HEADER))
    assert (before.live, before.position, before.touched) == (1, 1, {1})
    assert before.table.column("n").to_pylist() == [1]
    assert (before.vectors[0] == normalise(vectors(1, 1))[0]).all()
    after = live.snapshot()
    assert after.live == 4_999
    assert after.touched == set(range(5_000))


def test_an_id_twice_in_one_write_counts_once_and_the_last() -> None:
    live = delta()
    x = vectors(2, 5)
    live.apply(Entry(first=1, write=Upserts(ids=[7, 7], vectors=x, attributes=[{"n": 1}, {"n": 2}]), header=HEADER))
    snapshot = live.snapshot()
    assert snapshot.live == 1
    assert snapshot.table.column("n").to_pylist() == [2]
    assert found(live, normalise(x[1:]), 3)[1][0, 0] == pytest.approx(1)


def test_writes_of_another_space_only_hide() -> None:
    live = delta()
    other = Header(space_id="b-space", d=D, id_type=IdType.INT64)
    live.apply(Entry(first=1, write=Upserts(ids=[7], vectors=vectors(1, 1), attributes=[{}]), header=other))
    snapshot = live.snapshot()
    assert (snapshot.live, snapshot.touched) == (0, {7})


def test_older_versions_do_not_pile_up() -> None:
    live = delta(graph_rows=10**6)
    first = 1
    for step in range(40):
        x = vectors(200, step)
        write = Upserts(ids=list(range(200)), vectors=x, attributes=[{"n": step}] * 200)
        live.apply(Entry(first=first, write=write, header=HEADER))
        first += 200
    snapshot = live.snapshot()
    assert (live.size, snapshot.live) == (200, 200)
    assert len(snapshot.ids) < 2_000
    alive = ~snapshot.dead
    assert set(snapshot.table.column("n").to_numpy()[alive].tolist()) == {39}
    ids, scores = found(live, normalise(x), 1)
    assert [each[0] for each in ids] == list(range(200))
    assert scores[:, 0] == pytest.approx(1)
    live.apply(Entry(first=first, write=Deletes(ids=list(range(200))), header=HEADER))
    assert (live.size, live.snapshot().live) == (200, 0)
