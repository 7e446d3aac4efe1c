"""The engine in process: exactness under ties, grouping, ids of both types, attributes, coverage, an answer's worth."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_store import SPACE, TinyGeneration, make_store, make_vectors

from retrieval.errors import FailedPrecondition, InvalidQuery, SpaceMismatch, Unavailable
from retrieval.kernel import reference
from retrieval.serving import wire
from retrieval.serving.calls import (
    Effort,
    EntityQuery,
    GenerationDescription,
    Grouping,
    SearchAnswer,
    VectorQuery,
    Wanted,
)
from retrieval.serving.effort.efforts import Efforts
from retrieval.serving.engine import Engine
from retrieval.serving.fanout import merge_order
from retrieval.serving.rankings import Served
from retrieval.serving.shards import Hits, LocalShard, open_shards
from retrieval.store import Generation
from retrieval.store.manifest import FrontierPoint
from retrieval.topk import merge, normalise, scores, top_k
from retrieval.types import Metric

D = 8


def open_served(made: TinyGeneration) -> Served:
    shards = open_shards(Generation.open(made.path))
    columns = tuple(dict.fromkeys(name for shard in shards for name in shard.columns))
    return Served(
        about=GenerationDescription(manifest=made.manifest, columns=columns),
        shards=tuple(shards),
        efforts=Efforts(made.manifest),
    )


def vector(values: Sequence[float] | np.ndarray, space_id: str = SPACE) -> VectorQuery:
    return VectorQuery(values=np.asarray(values, np.float32), space_id=space_id)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TinyGeneration]:
    """Three types, a third of whose rows have a twin: int64, string and int64 ids."""
    root = tmp_path_factory.mktemp("tied")
    x = make_vectors(300, D, distinct=40)
    return {
        "pin": make_store(root, 300, D, 4, "int64", vectors=x),
        "product": make_store(root, 300, D, 3, "string", entity_type="product", vectors=x),
        "board": make_store(root, 50, D, 1, "int64", entity_type="board", vectors=make_vectors(50, D, distinct=5)),
    }


@pytest.fixture(scope="module")
def engine(tied: dict[str, TinyGeneration]) -> Engine:
    return Engine({name: open_served(made) for name, made in tied.items()})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(k=st.integers(1, 400), entity_type=st.sampled_from(["pin", "product", "board"]), seed=st.integers(0, 1 << 30))
def test_shards_merged_equal_exact_search_over_the_whole(
    engine: Engine, tied: dict[str, TinyGeneration], k: int, entity_type: str, seed: int
) -> None:
    made = tied[entity_type]
    xq = make_vectors(1, D, seed=seed)
    answer = engine.search(vector(xq[0]), Wanted(entity_types=(entity_type,), k=k))
    (ranking,) = answer.rankings
    # the kernel's reference sums in the kernel's order: its ties are exactly the engine's; BLAS checks its values
    unit, every_row = normalise(xq), np.arange(len(made.ids), dtype=np.int32)[None, :]
    table = reference.score(made.vectors, unit, every_row, Metric.COSINE)
    np.testing.assert_allclose(table, scores(unit, made.vectors, Metric.COSINE), atol=2e-6)
    expected, expected_scores = top_k(table, k, made.ids)
    assert ranking.scores.tolist() == expected_scores[0].tolist()
    assert ranking.ids.tolist() == expected[0].tolist()
    assert bool(answer.sources[0].degraded) == (k > len(made.ids))


@given(
    ids=st.lists(st.integers(-5, 40), min_size=0, max_size=60),
    strings=st.booleans(),
    k=st.integers(1, 30),
    data=st.data(),
)
def test_merge_order_is_the_law(ids: list[int], strings: bool, k: int, data: st.DataObject) -> None:
    values = np.array(
        data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=len(ids), max_size=len(ids))), np.float32
    )
    array = np.array([str(each) for each in ids], object) if strings else np.array(ids, np.int64)
    order = merge_order(array, values, k)
    expected_ids, expected_values = merge(array, values, k)
    assert array[order].tolist() == expected_ids.tolist()
    assert values[order].tolist() == expected_values.tolist()


def test_types_merged_are_one_ranking_in_the_tie_order(engine: Engine) -> None:
    query = vector(make_vectors(1, D, seed=5)[0])
    merged = engine.search(query, Wanted(k=90))
    grouped = engine.search(query, Wanted(k=90, grouping=Grouping.BY_ENTITY_TYPE))
    assert [ranking.entity_type for ranking in grouped.rankings] == ["pin", "product", "board"]
    everything = [
        (-float(score), str(entity), number)
        for number, ranking in enumerate(grouped.rankings)
        for score, entity in zip(ranking.scores, ranking.ids, strict=True)
    ]
    (ranking,) = merged.rankings
    found = zip((-ranking.scores).tolist(), ranking.ids.tolist(), ranking.source_index.tolist(), strict=True)
    assert list(found) == sorted(everything)[:90]
    assert ranking.entity_type is None


def test_types_of_int64_ids_merge_as_numbers(engine: Engine) -> None:
    wanted = Wanted(entity_types=("pin", "board"), k=60)
    (ranking,) = engine.search(vector(make_vectors(1, D, seed=6)[0]), wanted).rankings
    assert ranking.ids.dtype == np.int64
    keys = list(zip((-ranking.scores).tolist(), ranking.ids.tolist(), ranking.source_index.tolist(), strict=True))
    assert keys == sorted(keys)


def test_a_batch_is_its_queries_one_by_one(engine: Engine, tied: dict[str, TinyGeneration]) -> None:
    queries = [
        vector(make_vectors(1, D, seed=1)[0]),
        EntityQuery(entity_type="pin", id=int(tied["pin"].ids[3])),
        EntityQuery(entity_type="product", id=str(tied["product"].ids[4])),
        vector(make_vectors(1, D, seed=2)[0]),
    ]
    wanted = Wanted(k=25, attributes=("title",))
    for query, answer in zip(queries, engine.search_batch(queries, wanted), strict=True):
        assert_same(engine.search(query, wanted), answer)


def test_concurrent_searches_equal_sequential_ones(tied: dict[str, TinyGeneration]) -> None:
    served = {name: open_served(made) for name, made in tied.items()}
    queries = [vector(each) for each in make_vectors(40, D, seed=9)]
    wanted = Wanted(k=30)
    alone = [Engine(served).search(query, wanted) for query in queries]
    pooled = Engine(served, shard_threads=2)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda query: pooled.search(query, wanted), queries))
    pooled.close()
    for one, other in zip(alone, together, strict=True):
        assert_same(one, other)


def test_more_like_this_finds_the_entity_itself(engine: Engine, tied: dict[str, TinyGeneration]) -> None:
    made = tied["product"]
    answer = engine.search(EntityQuery(entity_type="product", id=made.ids[17]), Wanted(entity_types=("product",), k=50))
    assert made.ids[17] in answer.rankings[0].ids.tolist()
    assert answer.rankings[0].scores[0] == pytest.approx(1.0, abs=1e-3)


def test_attributes_belong_to_their_candidates(engine: Engine) -> None:
    answer = engine.search(vector(make_vectors(1, D, seed=3)[0]), Wanted(k=70, attributes=("title",)))
    (ranking,) = answer.rankings
    names = ["pin", "product", "board"]
    expected = [f"{names[source]} {each}" for source, each in zip(ranking.source_index, ranking.ids, strict=True)]
    assert ranking.attributes["title"].to_pylist() == expected


def test_scores_of_given_ids_are_exact(engine: Engine, tied: dict[str, TinyGeneration]) -> None:
    xq = make_vectors(1, D, seed=4)
    for name in ("pin", "product"):
        made = tied[name]
        absent = 10**12 if name == "pin" else "nobody"
        ids = [made.ids[5], absent, made.ids[250], made.ids[5]]
        answer = engine.score(vector(xq[0]), name, ids)
        assert answer.found.tolist() == [True, False, True, True]
        expected = scores(normalise(xq), made.vectors[[5, 0, 250, 5]], Metric.COSINE)[0]
        np.testing.assert_allclose(answer.scores, np.where(answer.found, expected, 0), atol=1e-5)


def test_metrics_do_not_mix_in_one_ranking(tmp_path: Path) -> None:
    served = {
        name: open_served(make_store(tmp_path, 20, D, 1, entity_type=name, metric=metric))
        for name, metric in (("pin", "cosine"), ("product", "l2"))
    }
    engine = Engine(served)
    query = vector(np.ones(D))
    with pytest.raises(
        FailedPrecondition, match=r"different metrics .pin by cosine, product by l2.*group by entity type"
    ):
        engine.search(query, Wanted(k=3))
    assert len(engine.search(query, Wanted(k=3, grouping=Grouping.BY_ENTITY_TYPE)).rankings) == 2


def test_a_foreign_space_is_refused_by_both_names(tmp_path: Path) -> None:
    engine = Engine({"pin": open_served(make_store(tmp_path, 20, D, 1))})
    with pytest.raises(SpaceMismatch, match=r"space elsewhere cannot search an index of space tiny-space"):
        engine.search(vector(np.ones(D), "elsewhere"), Wanted(k=3))


class BrokenShard:
    """A shard whose every call fails."""

    def __init__(self, shard: LocalShard) -> None:
        self.name, self.rows, self.kind = shard.name, shard.rows, shard.kind

    def search(self, *_: object, **__: object) -> Hits:
        raise OSError("the disk is gone")

    score = vectors = attributes = search


def test_a_failing_shard_costs_coverage_and_is_named(tied: dict[str, TinyGeneration]) -> None:
    served = open_served(tied["pin"])
    broken = BrokenShard(served.shards[1])
    engine = Engine({"pin": replace(served, shards=(served.shards[0], broken, *served.shards[2:]))})
    query = vector(make_vectors(1, D, seed=8)[0])
    answer = engine.search(query, Wanted(k=5))
    (source,) = answer.sources
    assert source.coverage == pytest.approx(1 - broken.rows / 300)
    assert source.degraded == (f"shard-00001 ({broken.rows} rows) failed with OSError",)
    assert len(answer.rankings[0].ids) == 5
    with pytest.raises(Unavailable, match=r"coverage of pin is 0\.\d+, 0.950 were asked for: shard-00001"):
        engine.search(query, Wanted(k=5, minimum_coverage=0.95))
    all_broken = Engine({"pin": replace(served, shards=(broken,))})
    with pytest.raises(Unavailable, match=r"coverage of pin is 0.000, nothing was searched"):
        all_broken.search(query, Wanted(k=5))


def test_recall_is_stated_for_the_measured_effort_only(tmp_path: Path) -> None:
    point = {"recall_at_10": 0.99, "recall_at_100": 0.97, "p50_ms": 1, "p95_ms": 2, "queries": 100}
    frontier = [
        FrontierPoint(params={"ef": 64, "max_distances": 0}, **point),
        FrontierPoint(params={"ef": 200, "max_distances": 0}, **{**point, "recall_at_100": 0.995}),
    ]
    made = make_store(tmp_path, 400, D, 2, kind="hnsw", frontier=frontier)
    engine = Engine({"pin": open_served(made)})
    query = vector(np.ones(D))

    def worth(k: int, **effort: int) -> tuple[int | None, float | None]:
        (source,) = engine.search(query, Wanted(k=k, effort=Effort(**effort))).sources
        return source.effort.ef, source.recall_at_100

    assert worth(100) == (100, 0.97)  # measured at k = 100, where a pool of 64 becomes one of 100
    assert worth(10, ef=200) == (200, 0.995)
    assert worth(10, ef=199) == (199, None)
    assert worth(10) == (64, None)


def test_every_answer_says_who_gave_it(engine: Engine, tied: dict[str, TinyGeneration]) -> None:
    answer = engine.search(vector(np.ones(D)), Wanted(k=5))
    assert [source.generation for source in answer.sources] == [made.manifest.id for made in tied.values()]
    assert {source.space_id for source in answer.sources} == {SPACE}
    assert answer.timings.total_ns >= answer.timings.search_ns > 0


@pytest.mark.parametrize("gone_at", [1, 2])
def test_gone_callers_cost_no_search(tied: dict[str, TinyGeneration], gone_at: int) -> None:
    """The first check stands before the encoding, the second before the search."""
    served = open_served(tied["pin"])
    engine = Engine({"pin": replace(served, shards=(BrokenShard(served.shards[0]),))})
    calls = []

    def gone() -> None:
        calls.append(1)
        if len(calls) == gone_at:
            raise TimeoutError("gone")

    with pytest.raises(TimeoutError, match="gone"):
        engine.search(vector(np.ones(D)), Wanted(k=5), check_alive=gone)
    assert len(calls) == gone_at


def test_score_wants_ids_of_the_right_type(engine: Engine) -> None:
    with pytest.raises(InvalidQuery, match=r"ids of product are of type string"):
        engine.score(vector(np.ones(D)), "product", [1, 2])
    with pytest.raises(InvalidQuery, match=r"ids of pin are of type int64"):
        engine.score(vector(np.ones(D)), "pin", ["a"])
    with pytest.raises(InvalidQuery, match=r"0 ids were sent to be scored"):
        engine.score(vector(np.ones(D)), "pin", [])


def assert_same(one: SearchAnswer, other: SearchAnswer) -> None:
    assert one.sources == other.sources
    assert one.query_space_id == other.query_space_id
    for left, right in zip(one.rankings, other.rankings, strict=True):
        assert left.entity_type == right.entity_type
        assert left.ids.tolist() == right.ids.tolist()
        assert left.source_index.tolist() == right.source_index.tolist()
        assert left.scores.tolist() == right.scores.tolist()
        assert left.attributes == right.attributes


@pytest.mark.parametrize("id_type", ["int64", "string"])
@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_an_answer_is_a_prefix_of_every_longer_one_whatever_the_ties(tmp_path: Path, kind: str, id_type: str) -> None:
    vectors = make_vectors(400, D, distinct=12)
    made = make_store(tmp_path, 400, D, 3, id_type=id_type, kind=kind, vectors=vectors)
    engine = Engine({"pin": open_served(made)})
    xq = made.vectors[:1]
    table = reference.score(made.vectors, normalise(xq), np.arange(400, dtype=np.int32)[None, :], Metric.COSINE)
    expected, _ = top_k(table, 400, made.ids)
    for k in (1, 2, 5, 30, 31, 150):
        wanted = Wanted(entity_types=("pin",), k=k, effort=Effort(ef=400) if kind == "hnsw" else Effort())
        (ranking,) = engine.search(vector(xq[0]), wanted).rankings
        assert ranking.ids.tolist() == expected[0][:k].tolist()


def test_attributes_are_json_at_any_depth() -> None:
    values = pa.array([[1.0, float("nan")], [float("inf")], None])
    assert wire._json_values(values) == ["[1.0, null]", "[null]", "null"]
