"""Filters and crowding against an oracle over all rows: ties, several shards and types, both groupings, bad input."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_store import SPACE, TinyGeneration, make_store, make_vectors

from retrieval import kernel
from retrieval.errors import InvalidQuery
from retrieval.serving.calls import GenerationDescription, Grouping, SearchAnswer, VectorQuery, Wanted
from retrieval.serving.effort.efforts import Efforts
from retrieval.serving.engine import Engine
from retrieval.serving.filtering.bitmaps import RowFilters
from retrieval.serving.filtering.filters import AllOf, AnyOf, Crowding, Equal, Filter, In, Not, Range, Restriction
from retrieval.serving.rankings import Served
from retrieval.serving.shards import open_shards
from retrieval.store import Generation
from retrieval.types import Metric

D, N = 8, 240


def open_served(made: TinyGeneration) -> Served:
    about = GenerationDescription(manifest=made.manifest)
    return Served(about=about, shards=tuple(open_shards(Generation.open(made.path))), efforts=Efforts(made.manifest))


def vector(values: np.ndarray) -> VectorQuery:
    return VectorQuery(values=np.asarray(values, np.float32), space_id=SPACE)


def columns(n: int, seed: int) -> dict[str, list[Any]]:
    rng = np.random.default_rng(seed)

    def some(values: list[Any]) -> list[Any]:
        return [None if rng.random() < 0.15 else values[rng.integers(len(values))] for _ in range(n)]

    return {
        "brand": some(["acme", "bolt", "crux", "dune"]),
        "colour": some(["red", "blue"]),
        "price": some([-5, 0, 1, 2, 3, 2**62]),
        "weight": some([0.1, 0.5, 2.0, -1.0]),
        "new": some([True, False]),
        "tags": [
            None if rng.random() < 0.1 else list(rng.choice(["a", "b", "c"], rng.integers(0, 3))) for _ in range(n)
        ],
    }


TYPES = {"brand": pa.string(), "colour": pa.dictionary(pa.int8(), pa.string()), "price": pa.int64(),
         "weight": pa.float32(), "new": pa.bool_(), "tags": pa.list_(pa.string())}  # fmt: skip


def arrow(values: dict[str, list[Any]]) -> dict[str, pa.Array]:
    return {name: pa.array(each, TYPES[name]) for name, each in values.items()}


MADE: dict[str, tuple[TinyGeneration, dict[str, list[Any]]]] = {}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    root = tmp_path_factory.mktemp("filtered")
    for number, (entity_type, id_type, shards) in enumerate((("pin", "int64", 4), ("product", "int64", 3))):
        values = columns(N, number)
        x = make_vectors(N, D, distinct=25)  # heavy ties
        made = make_store(root, N, D, shards, id_type, entity_type=entity_type, vectors=x, columns=arrow(values))
        MADE[entity_type] = (made, values)
    return Engine({name: open_served(made) for name, (made, _) in MADE.items()})


def fulfils(row: dict[str, Any], wanted: Filter) -> bool:
    """The plainest reading of a filter."""
    if isinstance(wanted, AllOf):
        return all(fulfils(row, each) for each in wanted.filters)
    if isinstance(wanted, AnyOf):
        return any(fulfils(row, each) for each in wanted.filters)
    if isinstance(wanted, Not):
        return not fulfils(row, wanted.filter)
    value = row[wanted.column]
    if value is None:
        return False
    values = value if isinstance(value, list) else [value]
    if wanted.column == "weight":
        values = [float(np.float32(each)) for each in values]
    near = (lambda each: float(np.float32(min(each, 1e30)))) if wanted.column == "weight" else (lambda each: each)
    if isinstance(wanted, Equal):
        return near(wanted.value) in values
    if isinstance(wanted, In):
        return any(near(each) in values for each in wanted.values)
    (only,) = values
    return (
        (wanted.at_least is None or only >= near(wanted.at_least))
        and (wanted.above is None or only > near(wanted.above))
        and (wanted.at_most is None or only <= near(wanted.at_most))
        and (wanted.below is None or only < near(wanted.below))
    )


NUMBERS = st.sampled_from([-5, 0, 1, 2, 3, 2**62, 2**70, -(2**70), 0.5, 2.0, 2.5, -0.5, 1e300])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "brand": st.sampled_from(["acme", "bolt", "crux", "none"]),
    "colour": st.sampled_from(["red", "blue", "none"]),
    "price": NUMBERS,
    "weight": st.sampled_from([0.1, 0.5, 2, -1, 10**400]),
    "new": st.booleans(),
    "tags": st.sampled_from(["a", "b", "z"]),
}


@st.composite
def conditions(draw: st.DrawFn) -> Filter:
    column = draw(st.sampled_from(list(VALUES)))
    value = VALUES[column]
    form = draw(st.integers(0, 2 if column not in ("new", "tags") else 1))
    if form == 0:
        return Equal(column=column, value=draw(value))
    if form == 1:
        return In(column=column, values=tuple(draw(st.lists(value, max_size=3))))
    bounds = {name: draw(value) for name in draw(st.sets(st.sampled_from(["at_least", "above", "at_most", "below"])))}
    return Range(column=column, **bounds)


FILTERS = st.recursive(
    conditions(),
    lambda inner: (
        st.builds(lambda each: AllOf(filters=tuple(each)), st.lists(inner, max_size=3))
        | st.builds(lambda each: AnyOf(filters=tuple(each)), st.lists(inner, max_size=3))
        | st.builds(lambda each: Not(filter=each), inner)
    ),
    max_leaves=5,
)


def oracle(types: list[str], xq: np.ndarray, k: int, restriction: Restriction) -> list[tuple[Any, float, str]]:
    """Every row of the types scored, sorted, filtered, crowded and cut, one at a time."""
    rows = []
    for place, name in enumerate(types):
        made, values = MADE[name]
        exact = kernel.score(made.vectors, xq, np.arange(N, dtype=np.int32)[None], Metric.COSINE)[0]
        for i in range(N):
            row = {column: values[column][i] for column in values}
            if restriction.filter is None or fulfils(row, restriction.filter):
                rows.append((-float(exact[i]), made.ids[i], place, row))
    rows.sort(key=lambda each: each[:3])
    seen: Counter[Any] = Counter()
    kept = []
    for score, key, place, row in rows:
        crowd = None if restriction.crowding is None else row[restriction.crowding.column]
        if crowd is not None and seen[crowd] >= restriction.crowding.at_most:  # type: ignore[union-attr]
            continue
        seen[crowd] += 1
        kept.append((key, -score, types[place]))
    return kept[:k]


def found(answer: SearchAnswer, number: int = 0) -> list[Any]:
    return answer.rankings[number].ids.tolist()


@settings(max_examples=80, deadline=None)
@given(
    wanted=st.none() | FILTERS,
    crowd=st.none() | st.builds(Crowding, column=st.sampled_from(["brand", "colour", "price", "weight", "new"]),
                                at_most=st.integers(1, 5)),
    k=st.sampled_from([1, 5, 20, 300]),
    seed=st.integers(0, 1 << 20),
    grouping=st.sampled_from(Grouping),
)  # fmt: skip
def test_what_is_found_is_what_the_oracle_finds(
    engine: Engine, wanted: Filter | None, crowd: Crowding | None, k: int, seed: int, grouping: Grouping
) -> None:
    xq = make_vectors(1, D, seed=seed)
    restriction = Restriction(filter=wanted, crowding=crowd)
    answer = engine.search(vector(xq[0]), Wanted(k=k, restriction=restriction, grouping=grouping))
    if grouping is Grouping.MERGED:
        expected = oracle(["pin", "product"], xq, k, restriction)
        assert found(answer) == [key for key, _, _ in expected]
    else:
        for number, name in enumerate(("pin", "product")):
            assert found(answer, number) == [key for key, _, _ in oracle([name], xq, k, restriction)]
    for source in answer.sources:
        _, values = MADE[source.entity_type]
        rows = [{column: values[column][i] for column in values} for i in range(N)]
        assert source.matches == (None if wanted is None else sum(fulfils(row, wanted) for row in rows))
        assert not any("raise the effort" in reason for reason in source.degraded)


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        (Equal(column="size", value=1), r"^the filter names column 'size'; there are: brand, colour, price"),
        (Equal(column="brand", value=1), r"^column 'brand' is string and cannot be compared with 1: send strings"),
        (Equal(column="price", value="1"), r"^column 'price' is int64 and cannot be compared with '1': send whole"),
        (Equal(column="price", value=True), r"^column 'price' is int64 and cannot be compared with True"),
        (Equal(column="new", value=1), r"^column 'new' is bool and cannot be compared with 1: send true or false"),
        (Range(column="new", below=True), r"^column 'new' is bool, which has no range"),
        (Range(column="tags", below="b"), r"^column 'tags' is list<.*string>, which has no range: send strings"),
        (Range(column="price", above=float("nan")), r"^the filter on 'price' compares with NaN"),
        (Not(filter=AnyOf(filters=(In(column="tags", values=(3,)),))), r"^column 'tags' is list.* compared with 3"),
    ],
)
def test_a_filter_that_does_not_fit_is_refused_in_one_sentence(engine: Engine, wanted: Filter, sentence: str) -> None:
    with pytest.raises(InvalidQuery, match=sentence):
        engine.search(vector(np.ones(D)), Wanted(restriction=Restriction(filter=wanted)))


@pytest.mark.parametrize(
    ("crowding", "sentence"),
    [
        (Crowding(column="size", at_most=1), r"^crowding names column 'size'; there are: brand"),
        (Crowding(column="tags", at_most=1), r"^crowding by 'tags' \(list<.*>\) is not possible"),
        (Crowding(column="brand", at_most=0), r"^crowding to at most 0 per value leaves nothing"),
    ],
)
def test_crowding_that_does_not_fit_is_refused_in_one_sentence(
    engine: Engine, crowding: Crowding, sentence: str
) -> None:
    with pytest.raises(InvalidQuery, match=sentence):
        engine.search(vector(np.ones(D)), Wanted(restriction=Restriction(crowding=crowding)))


def test_a_short_answer_says_what_kept_the_others_away(engine: Engine) -> None:
    few = Restriction(filter=Equal(column="price", value=2**62))
    (source,) = engine.search(vector(np.ones(D)), Wanted(entity_types=("pin",), k=200, restriction=few)).sources
    assert source.degraded == (f"200 candidates were asked for, the filter allows {source.matches} rows",)
    crowded = Restriction(crowding=Crowding(column="brand", at_most=1))
    answer = engine.search(vector(np.ones(D)), Wanted(entity_types=("pin",), k=200, restriction=crowded))
    assert answer.sources[0].degraded[0].startswith("200 candidates were asked for, at most 1 for each 'brand' leave")


def test_bitmaps_stay_within_their_bytes() -> None:
    filters = RowFilters({"price": pa.array(range(8_000))}, 8_000, cache_bytes=20_000)
    kept = [filters.allowed(Range(column="price", below=bound)) for bound in range(100)]
    assert [each.count for each in kept] == list(range(100))
    assert 0 < filters._cache.currsize <= 20_000
    assert filters.allowed(Range(column="price", below=99)) is kept[99]
