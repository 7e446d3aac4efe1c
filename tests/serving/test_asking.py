"""Filters, crowding and explanations asked of a real server: the client's builders, JSON and the commands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_store import make_store, make_vectors
from tiny_tower import make_tiny_checkpoint

from retrieval import client as rc
from retrieval.cli import explain as explain_command
from retrieval.cli import search as search_command
from retrieval.cli import server_options
from retrieval.errors import InvalidParams, InvalidQuery
from retrieval.serving.calls import EntityQuery, VectorQuery, Wanted
from retrieval.serving.config import make_settings
from retrieval.serving.engine import Engine
from retrieval.serving.explaining.verdict import Verdict
from retrieval.serving.filtering import filters as fs
from retrieval.serving.filtering.wire import read_filter, write_filter
from retrieval.serving.server import Server, open_engine
from retrieval.towers.query import QueryTower

D, N = 16, 120
BRANDS = ["acme", "bolt", "crux", None]


class Running:
    """An engine, and a client of the server in front of it."""

    def __init__(self, engine: Engine, target: str) -> None:
        self.engine, self.target, self.client = engine, target, rc.RetrievalClient(target)
        self.space = str(engine.describe().query_space_id)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("asking")
    checkpoint = make_tiny_checkpoint(root / "checkpoint", d=D)
    columns = {
        "brand": pa.array([BRANDS[i % 4] for i in range(N)], pa.string()),
        "price": pa.array(range(N), pa.int64()),
        "tags": pa.array([["a", "b"][: i % 3] for i in range(N)], pa.list_(pa.string())),
    }
    make_store(root / "store", N, D, 2, space_id=QueryTower.load(checkpoint).space_id, columns=columns)
    chosen = make_settings(store=root / "store", checkpoint=checkpoint, port=0, torch_threads=1)
    engine = open_engine(chosen)
    server = Server(engine, chosen)
    running = Running(engine, f"127.0.0.1:{server.start()}")
    yield running
    running.client.close()
    server.stop(0).wait()


WANTED = fs.AllOf(
    filters=(
        fs.In(column="brand", values=("acme", "bolt")),
        fs.Range(column="price", at_least=10, below=90.5),
        fs.Not(filter=fs.AnyOf(filters=(fs.Equal(column="tags", value="b"), fs.Equal(column="price", value=12)))),
    )
)
BUILT = rc.all_of(
    rc.is_in("brand", ["acme", "bolt"]),
    rc.between("price", at_least=np.int64(10), below=90.5),
    rc.negated(rc.any_of(rc.equal("tags", "b"), rc.equal("price", 12))),
)
TEXT = """{"all_of": {"filters": [
    {"in": {"column": "brand", "values": ["acme", "bolt"]}},
    {"range": {"column": "price", "at_least": 10, "below": 90.5}},
    {"negated": {"any_of": {"filters": [
        {"equal": {"column": "tags", "value": "b"}}, {"equal": {"column": "price", "value": {"int_value": 12}}}]}}}
]}}"""


def test_builders_json_and_the_engine_mean_the_same_filter(running: Running) -> None:
    assert read_filter(BUILT.message()) == WANTED
    assert rc.filter_from_json(TEXT) == BUILT
    xq = make_vectors(1, D, seed=3)[0]
    crowding = rc.Crowding(column="brand", at_most=3)
    there = running.client.search(
        rc.Vector(values=xq, space_id=running.space), k=50, filter=BUILT, crowding=crowding, batch_priority=True
    )
    restriction = fs.Restriction(filter=WANTED, crowding=fs.Crowding(column="brand", at_most=3))
    here = running.engine.search(VectorQuery(values=xq, space_id=running.space), Wanted(k=50, restriction=restriction))
    assert list(there.candidates[0].ids) == here.rankings[0].ids.tolist()
    assert len(there.candidates[0]) == 6
    assert there.sources[0].matches == here.sources[0].matches is not None
    assert there.sources[0].degraded == here.sources[0].degraded


VALUES = st.text(max_size=5) | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.booleans()
BOUNDS = st.dictionaries(st.sampled_from(["at_least", "above", "at_most", "below"]), VALUES)
COLUMNS = st.text(min_size=1, max_size=5)
FILTERS = st.recursive(
    st.builds(lambda column, value: fs.Equal(column=column, value=value), COLUMNS, VALUES)
    | st.builds(lambda column, values: fs.In(column=column, values=tuple(values)), COLUMNS, st.lists(VALUES))
    | st.builds(lambda column, bounds: fs.Range(column=column, **bounds), COLUMNS, BOUNDS),
    lambda inner: (
        st.builds(lambda each: fs.AllOf(filters=tuple(each)), st.lists(inner, max_size=3))
        | st.builds(lambda each: fs.AnyOf(filters=tuple(each)), st.lists(inner, max_size=3))
        | st.builds(lambda each: fs.Not(filter=each), inner)
    ),
    max_leaves=6,
)


def built(wanted: fs.Filter) -> rc.Filter:
    if isinstance(wanted, fs.Equal):
        return rc.equal(wanted.column, wanted.value)
    if isinstance(wanted, fs.In):
        return rc.is_in(wanted.column, wanted.values)
    if isinstance(wanted, fs.Range):
        names = ("at_least", "above", "at_most", "below")
        return rc.between(wanted.column, **{name: getattr(wanted, name) for name in names})
    if isinstance(wanted, fs.AllOf):
        return rc.all_of(*map(built, wanted.filters))
    if isinstance(wanted, fs.AnyOf):
        return rc.any_of(*map(built, wanted.filters))
    return rc.negated(built(wanted.filter))


@settings(deadline=None)
@given(wanted=FILTERS)
def test_a_filter_comes_over_the_wire_as_it_was_built(wanted: fs.Filter) -> None:
    message = built(wanted).message()
    assert repr(read_filter(message)) == repr(wanted)  # 1, 1.0 and True are equal, but not the same
    assert write_filter(wanted) == message
    assert hash(built(wanted)) == hash(built(wanted))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("brand=acme", r"^the filter is not JSON \(Expecting value.*write it like \{\"equal\""),
        ('{"equals": {}}', r"^the filter cannot be read: .*equals.*write it like"),
        ('{"equal": {"column": "brand", "value": [1]}}', r"^the filter cannot be read: "),
        ('["a"]', r"^the filter cannot be read: "),
        ("3", r"^the filter cannot be read: "),
        ('{"equal": {"column": "price", "value": 99999999999999999999}}', r"^the filter cannot be read: "),
        ('{"negated": ' * 500 + "{}" + "}" * 500, r"^the filter is nested too deeply: flatten"),
    ],
)
def test_json_that_is_no_filter_is_refused_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(InvalidQuery, match=sentence) as caught:
        rc.filter_from_json(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: rc.equal("price", 2**63), r"^the filter on 'price' compares with 9223372036854775808, which no"),
        (lambda: rc.equal("price", None), r"^the filter on 'price' compares with a NoneType: send a string"),
        (lambda: rc.is_in("brand", "acme"), r"^the values of 'brand' are one string: give a list, \['acme'\]"),
        (lambda: rc.equal("brand", "\ud800"), r"^the filter on 'brand' compares with .* which no message can carry"),
        (lambda: server_options.read_crowding("brand"), r"^--crowd 'brand' is not COLUMN=M"),
        (lambda: server_options.read_crowding("brand=-1"), r"^--crowd 'brand=-1' is not COLUMN=M"),
        (lambda: server_options.read_crowding("=2"), r"^--crowd '=2' is not COLUMN=M"),
    ],
)
def test_what_no_message_can_carry_is_refused_in_one_sentence(make: Any, sentence: str) -> None:
    with pytest.raises(InvalidQuery, match=sentence):
        make()


def test_a_filter_must_be_built(running: Running) -> None:
    with pytest.raises(InvalidQuery, match=r"^the filter is a dict: make it with equal, is_in, between"):
        running.client.search("red", filter={"brand": "acme"})
    with pytest.raises(InvalidQuery, match=r"^at_most = -1 is not acceptable: it is a number from 1 up"):
        running.client.search("red", crowding=rc.Crowding(column="brand", at_most=-1))


def test_the_server_names_columns_and_types(running: Running) -> None:
    with pytest.raises(InvalidQuery, match=r"^the filter names column 'size'; there are: brand, price, tags"):
        running.client.search("red", filter=rc.equal("size", 3))
    with pytest.raises(InvalidQuery, match=r"^column 'price' is int64 and cannot be compared with 'x'"):
        running.client.explain("red", rc.Entity(entity_type="pin", id=4), filter=rc.equal("price", "x"))


def test_an_explanation_is_the_same_over_the_wire(running: Running) -> None:
    xq = make_vectors(1, D, seed=3)[0]
    everything = running.engine.search(VectorQuery(values=xq, space_id=running.space), Wanted(k=N)).rankings[0].ids
    for entity in (*everything[[0, 30, 90]].tolist(), 5_555):
        asked = EntityQuery(entity_type="pin", id=entity)
        restriction = fs.Restriction(filter=WANTED)
        here = running.engine.explain(
            VectorQuery(values=xq, space_id=running.space), asked, Wanted(k=5, restriction=restriction)
        )
        there = running.client.explain(
            rc.Vector(values=xq, space_id=running.space), rc.Entity(entity_type="pin", id=entity), k=5, filter=BUILT
        )
        assert (there.verdict, there.reason) == (str(here.verdict), here.reason)
        assert (there.exact_rank, there.rank) == (here.exact_rank, here.rank)
        assert there.source.matches == here.source.matches
        assert (there.shard is None) == (here.shard is None)
        if there.shard is not None and here.shard is not None:
            assert there.score == pytest.approx(here.score)
            assert (there.shard.shard, there.shard.rank) == (here.shard.shard, here.shard.rank)
            assert there.shard.allowed == here.shard.allowed


def test_the_search_command_filters_and_crowds(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    search_command.search("red", target=running.target, k=50, filter_json=TEXT, crowd="brand=1", as_json=True)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(found["candidates"][0]["ranking"]) == 2
    assert found["sources"][0]["matches"] == sum(
        BRANDS[i % 4] in ("acme", "bolt") and 10 <= i < 90.5 and i % 3 != 2 and i != 12 for i in range(N)
    )
    search_command.search("red", target=running.target, filter_json=TEXT)
    assert f"the filter allows {found['sources'][0]['matches']}" in " ".join(capsys.readouterr().out.split())


def test_the_explain_command_tells_verdict_sentence_and_figures(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    best, *_, worst = running.client.search("red", k=N).candidates[0].ids.tolist()
    explain_command.explain("red", str(best), target=running.target)
    told = capsys.readouterr().out
    assert told.startswith(f"RETURNED: pin {best} is in the answer at rank 1; its exact rank is 1\n")
    assert "· exact rank 1 · rank 1 · rank in shard-0000" in told
    explain_command.explain("red", str(worst), entity_type="pin", target=running.target, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["exact_rank"], found["rank"]) == ("BELOW_K", N, None)
    with pytest.raises(InvalidQuery, match=r"^'x7' is not a number, and ids of pin are: give its number"):
        explain_command.explain("red", "x7", target=running.target)
    with pytest.raises(InvalidQuery, match=r"^entity type 'board' is not served: choose one with --entity-type: pin"):
        explain_command.explain("red", "7", entity_type="board", target=running.target)


def test_a_token_file_must_hold_a_token(tmp_path: Path) -> None:
    empty = tmp_path / "token"
    empty.write_text("\n")
    with pytest.raises(InvalidParams, match=r"holds no token: put one line of printable text into it"):
        server_options.connect("127.0.0.1:1", 1.0, None, None, None, empty)


def test_the_filters_page_shows_what_works() -> None:
    page = (Path(__file__).parents[2] / "docs" / "filters.md").read_text(encoding="utf-8")
    pairs = re.findall(r"^\| [^|]+ \| `([a-z_]+\(\".*?\))` \| `(\{.*\})` \|$", page, re.MULTILINE)
    assert len(pairs) == 3
    for expression, text in pairs:
        assert eval(expression, {"__builtins__": {}}, vars(rc)) == rc.filter_from_json(text)
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE)) == {str(each) for each in Verdict}


def test_filters_beyond_the_limits_are_refused_in_one_sentence(running: Running) -> None:
    deep = rc.equal("price", 1)
    for _ in range(15):
        deep = rc.negated(deep)
    running.client.search("red", filter=deep)
    with pytest.raises(InvalidQuery, match=r"^the filter is nested more than 16 deep: flatten its and, or and not"):
        running.client.search("red", filter=rc.negated(deep))
    with pytest.raises(InvalidQuery, match=r"^`in` on 'price' lists 10,001 values, the limit is 10,000"):
        running.client.search("red", filter=rc.is_in("price", range(10_001)))
    with pytest.raises(InvalidQuery, match=r"^the filter has more than 1,000 conditions: use `in` for lists"):
        running.client.search("red", filter=rc.any_of(*[rc.equal("price", each) for each in range(1_000)]))
