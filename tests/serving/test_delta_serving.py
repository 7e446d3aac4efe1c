"""Fresh entities over the wire: seen at once, ahead of the shards, filtered alike, gone when deleted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tiny_store import SPACE, make_store, make_vectors

from index_builders.build import build
from index_builders.settings import make_settings as build_settings
from retrieval import client as rc
from retrieval.delta import Entry, LiveDelta, fold
from retrieval.errors import FailedPrecondition, InvalidQuery, Overloaded, SpaceMismatch
from retrieval.serving.config import make_settings
from retrieval.serving.server import Server, open_engine
from retrieval.store import Store
from retrieval.topk import normalise
from retrieval.types import F32, AnyArray, VectorDtype

N, D = 1_500, 16


@contextmanager
def serving(store: Path, **more: Any) -> Iterator[rc.RetrievalClient]:
    settings = make_settings(store=store, port=0, **more)
    engine = open_engine(settings)
    server = Server(engine, settings)
    try:
        with rc.RetrievalClient(f"localhost:{server.start()}") as client:
            yield client
    finally:
        server.stop(0).wait()
        server.operations.close()
        engine.close()


def soon(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 1  # within a second, as promised
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def applied(client: rc.RetrievalClient, position: int) -> bool:
    return client.describe().delta[0].position >= position


def store_of(path: Path, kind: str) -> tuple[AnyArray, F32]:
    """A store of N rows; ids [N] and vectors [N, D]."""
    if kind != "ivfpq":
        made = make_store(path, N, D, 2, kind=kind)
        return made.ids, made.vectors
    ids, x = np.arange(N) * 3, make_vectors(N, D)
    np.save(path / "x.npy", x)
    np.save(path / "ids.npy", ids)
    build(
        build_settings(
            source=path / "x.npy", ids=path / "ids.npy", store=path / "store", entity_type="pin", space_id=SPACE,
            shards=2, kind=kind, params={"nlist": 8}, workers=0,
        )
    )  # fmt: skip
    for made_file in (path / "store").iterdir():
        made_file.rename(path / made_file.name)
    return ids, x


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivfpq"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.05])
def test_answers_are_those_of_brute_force(tmp_path: Path, kind: str, share: float) -> None:
    if kind == "ivfpq":
        pytest.importorskip("faiss")
    all_ids, all_vectors = store_of(tmp_path, kind)
    rng = np.random.default_rng(4)
    changed = rng.choice(N, int(share * N), replace=False)
    fresh = normalise(np.random.default_rng(9).standard_normal((len(changed), D)).astype(np.float32))
    vectors = {int(id_): row for id_, row in zip(all_ids, all_vectors, strict=True)}
    with serving(tmp_path) as client:
        if len(changed):
            half = len(changed) // 2
            position = client.upsert("pin", all_ids[changed[:half]], fresh[:half], space_id=SPACE)
            position = client.delete("pin", all_ids[changed[half:]])
            vectors |= {int(all_ids[row]): fresh[number] for number, row in enumerate(changed[:half])}
            for row in changed[half:]:
                del vectors[int(all_ids[row])]
            soon(lambda: applied(client, position))
        efforts = {"flat": None, "hnsw": rc.Effort(ef=400), "ivfpq": rc.Effort(nprobe=8, rescore=1_000)}
        ids, base = np.array(list(vectors)), np.stack(list(vectors.values()))
        hits = 0
        for query in normalise(make_vectors(20, D, seed=77)):
            answer = client.search(rc.Vector(values=query, space_id=SPACE), k=50, effort=efforts[kind])
            found = [each.id for each in answer.candidates[0]]
            assert len(set(found)) == 50
            assert set(found) <= set(vectors)
            truth = ids[np.argsort(-(base @ query))[:50]]
            hits += len(set(truth.tolist()) & set(found))
            assert answer.sources[0].coverage == 1
        assert hits / (20 * 50) >= 0.98


def test_a_write_is_ahead_of_the_shards_and_stays_over_a_restart(tmp_path: Path) -> None:
    made = make_store(tmp_path, 200, D, 2, columns={"price": pa.array(range(200), pa.int32())})
    query = rc.Vector(values=make_vectors(1, D, seed=5)[0], space_id=SPACE)
    opposite = -np.asarray(query.values)[None]
    with serving(tmp_path) as client:
        best, second = (each.id for each in client.search(query, k=2).candidates[0])
        client.delete("pin", [best])
        position = client.upsert("pin", [second], opposite, space_id=SPACE, attributes=[{"price": 1_000}])
        soon(lambda: applied(client, position))
        found = [each.id for each in client.search(query, k=199).candidates[0]]
        assert best not in found
        assert found[-1] == second
        assert len(found) == 199
        dear = client.search(query, k=5, filter=rc.between("price", above=150), attributes=["price"])
        assert (
            dear.sources[0].matches == len([row for row in range(151, 200) if made.ids[row] not in (best, second)]) + 1
        )
        (only,) = client.search(query, k=5, filter=rc.between("price", above=500), attributes=["price"]).candidates[0]
        assert (only.id, only.attributes) == (second, {"price": 1_000})
        crowded = client.search(query, k=199, crowding=rc.Crowding(column="price", at_most=1)).candidates[0]
        assert len(crowded) == 199
        assert client.score(query, "pin", [best, second]).found.tolist() == [False, True]
        assert client.score(query, "pin", [second]).scores[0] == pytest.approx(-1, abs=1e-2)
        assert client.explain(query, rc.Entity(entity_type="pin", id=second), k=3).verdict
        gone = client.explain(query, rc.Entity(entity_type="pin", id=best), k=3)
        assert (gone.verdict, "was deleted since generation" in gone.reason) == ("DELETED", True)
        state = client.describe().delta[0]
        assert (state.rows, state.hidden, state.position, state.folded) == (1, 2, 2, 0)
        assert 0 < state.oldest_age_s < 60
        with pytest.raises(InvalidQuery, match=f"there is no pin {best}"):
            client.search(rc.Entity(entity_type="pin", id=best), k=1)
        (itself,) = client.search(rc.Entity(entity_type="pin", id=second), k=1).candidates[0]
        assert itself.id == second
        with pytest.raises(InvalidQuery, match="there is no attribute 'nowhere'"):
            client.upsert("pin", [1], opposite, space_id=SPACE, attributes=[{"nowhere": 1}])
        with pytest.raises(InvalidQuery, match="attribute 'price' is int32: one of 'dear' is not"):
            client.upsert("pin", [1], opposite, space_id=SPACE, attributes=[{"price": "dear"}])
    with serving(tmp_path) as client:
        assert [each.id for each in client.search(query, k=199).candidates[0]] == found


def test_bad_writes_are_one_sentence_and_leave_nothing(tmp_path: Path) -> None:
    make_store(tmp_path, 100, D, 1)
    x = np.ones((1, D), np.float32)
    with serving(tmp_path, delta={"max_entities": 2}) as client:
        with pytest.raises(SpaceMismatch, match="the vectors are of space 'other'"):
            client.upsert("pin", [1], x, space_id="other")
        with pytest.raises(InvalidQuery, match=r"vectors have shape \[1, 3\] for 1 ids"):
            client.upsert("pin", [1], x[:, :3], space_id=SPACE)
        with pytest.raises(InvalidQuery, match="the vector of 1 is not finite or has zero norm"):
            client.upsert("pin", [1], x * np.nan, space_id=SPACE)
        with pytest.raises(InvalidQuery, match="id 'a' is not acceptable: pin has int ids"):
            client.upsert("pin", ["a"], x, space_id=SPACE)
        with pytest.raises(InvalidQuery, match="entity type 'shop' is not served"):
            client.delete("shop", [1])
        with pytest.raises(InvalidQuery, match="0 entities in one call"):
            client.delete("pin", [])
        with pytest.raises(Overloaded, match="exceed the limit of 2: rebuild, which folds them in"):
            client.upsert("pin", [1, 2, 3], np.ones((3, D)), space_id=SPACE)
        assert client.describe().delta[0].position == 0
    with (
        serving(tmp_path, delta={"enabled": False}) as client,
        pytest.raises(FailedPrecondition, match=r"takes no upserts and deletes: delta\.enabled is off"),
    ):
        client.delete("pin", [1])


def test_a_write_to_one_process_is_found_in_the_others(tmp_path: Path) -> None:
    make_store(tmp_path, 100, D, 1)
    x = make_vectors(1, D, seed=5)
    query = rc.Vector(values=x[0], space_id=SPACE)
    with serving(tmp_path) as one, serving(tmp_path) as other:
        for number in range(4):  # both write, in turn
            writer, reader = (one, other) if number % 2 else (other, one)
            id_ = 10**9 + number
            position = writer.upsert("pin", [id_], x, space_id=SPACE)
            assert position == number + 1
            soon(lambda: applied(reader, position))  # noqa: B023 - called before the loop goes on
            assert id_ in [each.id for each in reader.search(query, k=10).candidates[0]]


def test_a_write_that_could_not_be_taken_in_is_taken_in_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store(tmp_path, 100, D, 1)
    x, applying, failed = make_vectors(1, D, seed=5), LiveDelta.apply, []

    def short_of_memory(live: LiveDelta, entry: Entry) -> None:
        if not failed:
            failed.append(entry.first)
            raise MemoryError("no room")
        applying(live, entry)

    with serving(tmp_path) as client:
        monkeypatch.setattr(LiveDelta, "apply", short_of_memory)
        position = client.upsert("pin", [10**9], x, space_id=SPACE)
        soon(lambda: applied(client, position))
        assert failed == [1]
        found = client.search(rc.Vector(values=x[0], space_id=SPACE), k=1).candidates[0]
        assert [each.id for each in found] == [10**9]
        assert client.describe().delta[0].trouble == ""


def test_what_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path, 100, D, 1, metric="ip")
    x = np.ones((2, D), np.float32)
    x[1, 3] = -70_000
    with serving(tmp_path) as client:
        manifest = Store(tmp_path).manifest("pin", Store(tmp_path).current("pin"))
        assert manifest.vector_dtype is VectorDtype.FLOAT16
        with pytest.raises(InvalidQuery, match=r"the vector of 2 has a component of 70000, .* hold at most 65,504"):
            client.upsert("pin", [1, 2], x, space_id=SPACE)
        assert client.upsert("pin", [1], x[:1], space_id=SPACE) == 1


def test_a_rebuild_that_took_the_log_in_needs_it_no_more(tmp_path: Path) -> None:
    """A generation that says up to which write it has them is searched with the later ones only."""
    made = make_store(tmp_path, 100, D, 1)
    x = make_vectors(2, D, seed=5)
    with serving(tmp_path) as client:
        client.upsert("pin", [10**9], x[:1], space_id=SPACE)
        client.delete("pin", [int(made.ids[0])])
        client.upsert("pin", [10**9 + 1], x[1:], space_id=SPACE)
    folded = fold(tmp_path / "pin" / "delta", upto=2)
    assert (folded.ids, folded.deleted, folded.position) == ([10**9], {int(made.ids[0])}, 2)
    kept = made.ids[1:].tolist() + folded.ids
    make_store(
        tmp_path, 100, D, 1, ids=np.array(kept), seed=1, vectors=np.concatenate([made.vectors[1:], folded.vectors]),
        delta_position=2,
    )  # fmt: skip
    with serving(tmp_path) as client:
        state = client.describe().delta[0]
        assert (state.rows, state.hidden, state.position, state.folded) == (1, 0, 3, 2)
        found = client.search(rc.Vector(values=x[0], space_id=SPACE), k=101).candidates[0]
        assert sorted(each.id for each in found) == sorted([*kept, 10**9 + 1])
