"""Every verdict of Explain, each in a situation made for it, and exact ranks against all rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_store import SPACE, TinyGeneration, make_store, make_vectors

from retrieval.errors import InvalidQuery
from retrieval.kernel import reference
from retrieval.params import SearchParams
from retrieval.serving.calls import Effort, EntityQuery, GenerationDescription, VectorQuery, Wanted
from retrieval.serving.effort.efforts import Efforts
from retrieval.serving.engine import Engine
from retrieval.serving.explaining.verdict import Explanation, Verdict
from retrieval.serving.filtering.filters import UNRESTRICTED, Crowding, Equal, Range, Restriction
from retrieval.serving.rankings import Served
from retrieval.serving.shards import Hits, Shard, ShardExplanation, open_shards
from retrieval.store import Generation
from retrieval.store.manifest import Quarantine
from retrieval.types import Metric

D, N = 8, 300
BRANDS = ["acme", "bolt", "crux", None]


def served(made: TinyGeneration) -> Served:
    shards = tuple(open_shards(Generation.open(made.path)))
    return Served(about=GenerationDescription(manifest=made.manifest), shards=shards, efforts=Efforts(made.manifest))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TinyGeneration:
    columns = {
        "brand": pa.array([BRANDS[i % 4] for i in range(N)], pa.string()),
        "price": pa.array(range(N), pa.int64()),
    }
    vectors = make_vectors(N, D, distinct=60)  # ties, so that ranks go by id
    return make_store(tmp_path_factory.mktemp("explain"), N, D, 3, vectors=vectors, columns=columns)


@pytest.fixture(scope="module")
def pins(made: TinyGeneration) -> Served:
    return served(made)


def vector(values: np.ndarray) -> VectorQuery:
    return VectorQuery(values=np.asarray(values, np.float32), space_id=SPACE)


def explained(of: Served, xq: np.ndarray, entity: Any, **wanted: Any) -> Explanation:
    asked = EntityQuery(entity_type="pin", id=entity if isinstance(entity, str) else int(entity))
    return Engine({"pin": of}).explain(vector(xq), asked, Wanted(**wanted))


def best_first(made: TinyGeneration, xq: np.ndarray) -> np.ndarray:
    """Places of all rows in the tie order, in the kernel's arithmetic."""
    every = np.arange(len(made.ids), dtype=np.int32)[None]
    scores = reference.score(made.vectors, xq[None], every, Metric.COSINE)[0]
    return np.lexsort((made.ids, -scores))


XQ = make_vectors(1, D, seed=77)[0]


def test_returned_tells_both_ranks(made: TinyGeneration, pins: Served) -> None:
    order = best_first(made, XQ)
    found = explained(pins, XQ, made.ids[order[3]], k=5)
    assert (found.verdict, found.rank, found.exact_rank) == (Verdict.RETURNED, 4, 4)
    assert found.reason.endswith("is in the answer at rank 4; its exact rank is 4")


def test_below_k_tells_the_k_that_would_do(made: TinyGeneration, pins: Served) -> None:
    order = best_first(made, XQ)
    found = explained(pins, XQ, made.ids[order[120]], k=5)
    assert (found.verdict, found.rank, found.exact_rank) == (Verdict.BELOW_K, None, 121)
    assert "exact rank 121, k is 5: raise k" in found.reason
    assert explained(pins, XQ, made.ids[order[120]], k=121).verdict is Verdict.RETURNED


@settings(max_examples=40, deadline=None)
@given(place=st.integers(0, N - 1), k=st.integers(1, 60), least=st.none() | st.integers(0, N), crowd=st.booleans())
def test_the_verdict_agrees_with_the_search_and_the_rank_with_all_rows(
    made: TinyGeneration, pins: Served, place: int, k: int, least: int | None, crowd: bool
) -> None:
    restriction = Restriction(
        filter=None if least is None else Range(column="price", at_least=least),
        crowding=Crowding(column="brand", at_most=2) if crowd else None,
    )
    engine = Engine({"pin": pins})
    wanted = Wanted(k=k, restriction=restriction)
    ids = engine.search(vector(XQ), wanted).rankings[0].ids.tolist()
    entity = int(made.ids[place])
    found = engine.explain(vector(XQ), EntityQuery(entity_type="pin", id=entity), wanted)
    assert (found.verdict is Verdict.RETURNED) == (entity in ids)
    assert found.rank == (ids.index(entity) + 1 if entity in ids else None)
    allowed = [each for each in best_first(made, XQ) if least is None or each >= least]
    assert found.exact_rank == (allowed.index(place) + 1 if place in allowed else None)
    if place not in allowed:
        assert found.verdict is Verdict.FILTERED_OUT
    elif entity not in ids:  # nothing is lost by an exact index
        assert found.verdict in (Verdict.CROWDED_OUT, Verdict.BELOW_K)
        brand = BRANDS[place % 4]
        better = [each for each in allowed[: allowed.index(place)] if BRANDS[each % 4] == brand]
        assert (found.verdict is Verdict.CROWDED_OUT) == (crowd and brand is not None and len(better) >= 2)


def test_filtered_out_tells_how_many_the_filter_allows(made: TinyGeneration, pins: Served) -> None:
    place = int(best_first(made, XQ)[0])
    brand = "bolt" if BRANDS[place % 4] != "bolt" else "acme"
    found = explained(pins, XQ, made.ids[place], restriction=Restriction(filter=Equal(column="brand", value=brand)))
    assert (found.verdict, found.exact_rank) == (Verdict.FILTERED_OUT, None)
    assert found.score == pytest.approx(float(XQ @ made.vectors[place]), abs=1e-3)
    assert "does not fulfil the filter, which allows 75 of 300 rows" in found.reason


def test_crowded_out_counts_those_ahead(made: TinyGeneration, pins: Served) -> None:
    acme = [place for place in best_first(made, XQ) if BRANDS[place % 4] == "acme"]
    crowding = Restriction(crowding=Crowding(column="brand", at_most=2))
    found = explained(pins, XQ, made.ids[acme[3]], k=50, restriction=crowding)
    assert found.verdict is Verdict.CROWDED_OUT
    assert "has 3 better ones of its 'brand', 2 are let through" in found.reason


def test_absent_and_quarantined_say_no_more_than_the_manifest_knows(pins: Served) -> None:
    found = explained(pins, XQ, 999_999)
    assert (found.verdict, found.score, found.shard) == (Verdict.ABSENT, None, None)
    assert "is not in generation" in found.reason
    assert "quarantined no row" in found.reason
    quarantine = Quarantine(counts={"not finite": 7}, examples={"not finite": ["999999", "5555555"]})
    manifest = pins.about.manifest.model_copy(update={"quarantine": quarantine})
    held = replace(pins, about=replace(pins.about, manifest=manifest))
    found = explained(held, XQ, 999_999)
    assert found.verdict is Verdict.QUARANTINED
    assert "(not finite)" in found.reason
    found = explained(held, XQ, 888_888)
    assert found.verdict is Verdict.ABSENT
    assert "not among the 2 that its manifest names of 7 quarantined rows" in found.reason


class Wrapped:
    """A shard that answers as another one does, unless it is told otherwise."""

    def __init__(self, shard: Shard, *, broken: bool = False, deaf: bool = False, most: int | None = None) -> None:
        self._shard, self._broken, self._deaf, self._most = shard, broken, deaf, most
        self.name, self.rows, self.kind, self.schema = shard.name, shard.rows, shard.kind, shard.schema

    def search(self, xq: Any, k: int, params: SearchParams, *, restriction: Restriction = UNRESTRICTED) -> Hits:
        self._fail()
        if self._deaf:
            raise OSError("too slow")
        return self._shard.search(xq, min(k, self._most or k), params, restriction=restriction)

    def explain(
        self,
        xq: Any,
        ids: Any,
        k: int,
        params: SearchParams,
        *,
        restriction: Restriction = UNRESTRICTED,
        score: float | None = None,
    ) -> ShardExplanation:
        self._fail()
        k = min(k, self._most or k)
        return self._shard.explain(xq, ids, k, params, restriction=restriction, score=score)

    def score(self, xq: Any, ids: Any) -> Any:
        self._fail()
        return self._shard.score(xq, ids)

    def vectors(self, ids: Any) -> Any:
        return self._shard.vectors(ids)

    def attributes(self, rows: Any, columns: Any) -> Any:
        return self._shard.attributes(rows, columns)

    def _fail(self) -> None:
        if self._broken:
            raise OSError("the disk is gone")


def holder(of: Served, entity: int) -> int:
    ids = np.array([entity], np.int64)
    return next(number for number, shard in enumerate(of.shards) if shard.vectors(ids)[1][0])


def test_not_covered_when_its_shard_does_not_answer(made: TinyGeneration, pins: Served) -> None:
    entity = int(made.ids[best_first(made, XQ)[0]])
    number = holder(pins, entity)
    shards = list(pins.shards)
    shards[number] = Wrapped(shards[number], broken=True)
    found = explained(replace(pins, shards=tuple(shards)), XQ, entity)
    assert found.verdict is Verdict.NOT_COVERED
    assert f"{shards[number].name} ({shards[number].rows} rows) failed with OSError" in found.reason


def test_not_covered_when_its_shard_did_not_answer_the_search_alone(made: TinyGeneration, pins: Served) -> None:
    entity = int(made.ids[best_first(made, XQ)[0]])
    number = holder(pins, entity)
    shards = list(pins.shards)
    shards[number] = Wrapped(shards[number], deaf=True)
    found = explained(replace(pins, shards=tuple(shards)), XQ, entity)
    assert (found.verdict, found.exact_rank) == (Verdict.NOT_COVERED, 1)
    assert f"is in {shards[number].name}, which did not answer the search: try again" in found.reason


def test_below_shard_k_when_a_shard_is_asked_for_less(made: TinyGeneration, pins: Served) -> None:
    order = best_first(made, XQ)
    number = holder(pins, int(made.ids[order[0]]))
    inside = [place for place in order if holder(pins, int(made.ids[place])) == number]
    shards = list(pins.shards)
    shards[number] = Wrapped(shards[number], most=1)
    # a shard answers with all that tie with its last
    cut = next(i for i, place in enumerate(inside) if (made.vectors[place] != made.vectors[inside[0]]).any())
    found = explained(replace(pins, shards=tuple(shards)), XQ, made.ids[inside[cut]], k=50)
    assert found.verdict is Verdict.BELOW_SHARD_K
    assert f"pin {made.ids[inside[cut]]} has exact rank" in found.reason
    assert f"rank {cut + 1} in {shards[number].name}, which was asked for 1" in found.reason
    assert found.shard is not None
    assert not found.shard.returned


def test_duplicate_when_two_shards_hold_it(made: TinyGeneration, pins: Served) -> None:
    entity = int(made.ids[best_first(made, XQ)[0]])
    number = holder(pins, entity)
    found = explained(replace(pins, shards=(*pins.shards, pins.shards[number])), XQ, entity)
    assert (found.verdict, found.rank) == (Verdict.DUPLICATE, 1)
    assert "the answer has one copy, at rank 1" in found.reason


def test_not_reached_when_the_walk_misses_it(tmp_path: Path) -> None:
    made = make_store(tmp_path, 3_000, 16, 1, kind="hnsw", vectors=make_vectors(3_000, 16, seed=4))
    of = served(made)
    engine = Engine({"pin": of})
    for xq in make_vectors(200, 16, seed=5):
        wanted = Wanted(k=1, effort=Effort(ef=1))
        best = int(made.ids[best_first(made, xq)[0]])
        if engine.search(vector(xq), wanted).rankings[0].ids[0] != best:
            found = explained(of, xq, best, k=1, effort=Effort(ef=1))
            assert (found.verdict, found.exact_rank, found.rank) == (Verdict.NOT_REACHED, 1, None)
            assert "has exact rank 1 but the search of shard-00000 at ef 1 does not meet it" in found.reason
            assert explained(of, xq, best, k=1, effort=Effort(ef=2_000)).verdict is Verdict.RETURNED
            return
    pytest.fail("a walk with a pool of one row missed no best row of 200 queries: seed 5")


def test_an_id_of_the_wrong_type_is_refused(pins: Served) -> None:
    with pytest.raises(InvalidQuery, match=r"ids of pin are of type int64: send ids of that type"):
        explained(pins, XQ, "seven")
