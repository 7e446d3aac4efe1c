"""The same calls in process and over the wire: equal answers, and for bad input equal errors with their status."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_store import make_store, make_vectors
from tiny_tower import make_tiny_checkpoint

from retrieval import client as rc
from retrieval import errors
from retrieval.errors import (
    FailedPrecondition,
    InvalidArgument,
    InvalidParams,
    InvalidQuery,
    SpaceMismatch,
    Unavailable,
)
from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb
from retrieval.serving.calls import Effort, EntityQuery, Grouping, SearchAnswer, TextQuery, VectorQuery, Wanted
from retrieval.serving.config import make_settings
from retrieval.serving.engine import Engine
from retrieval.serving.server import Server, open_engine
from retrieval.serving.status import STATUS
from retrieval.towers.query import QueryTower

D = 16
MESSAGE_LIMIT = 100_000


class Running:
    """An engine, its server and a client of it."""

    def __init__(self, engine: Engine, server: Server, port: int) -> None:
        self.engine, self.server, self.target = engine, server, f"127.0.0.1:{port}"
        self.client = rc.RetrievalClient(self.target)
        self.channel = grpc.insecure_channel(self.target)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("wire")
    checkpoint = make_tiny_checkpoint(root / "checkpoint", d=D)
    space = QueryTower.load(checkpoint).space_id
    store = root / "store"
    make_store(store, 300, D, 3, "int64", "hnsw", space_id=space, canaries=True)
    make_store(store, 200, D, 2, "string", entity_type="product", space_id=space, canaries=True)
    yield from serve(store, checkpoint)


@pytest.fixture(scope="module")
def without_tower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    store = tmp_path_factory.mktemp("vectors") / "store"
    make_store(store, 50, D, 1)
    yield from serve(store, None)


def serve(store: Path, checkpoint: Path | None) -> Iterator[Running]:
    chosen = make_settings(
        store=store, checkpoint=checkpoint, port=0, max_batch=20, max_message_bytes=MESSAGE_LIMIT, torch_threads=1
    )
    engine = open_engine(chosen)
    server = Server(engine, chosen)
    running = Running(engine, server, server.start())
    yield running
    running.client.close()
    running.channel.close()
    server.stop(0).wait()


# queries as the engine's and as the client's, from one draw
QUERIES = st.one_of(
    st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=20),
    st.integers(0, 1 << 30),
    st.integers(0, 299).map(lambda place: ("pin", place)),
)


def both(running: Running, drawn: Any) -> tuple[Any, Any]:
    space = running.engine.describe().query_space_id
    assert space is not None
    if isinstance(drawn, str):
        return TextQuery(text=drawn), drawn
    if isinstance(drawn, int):
        values = make_vectors(1, D, seed=drawn)[0]
        return VectorQuery(values=values, space_id=space), rc.Vector(values=values, space_id=space)
    numbers = np.random.default_rng(11).permutation(300) * 7 - 3  # the ids of the tiny store
    entity = int(numbers[drawn[1]])
    return EntityQuery(entity_type="pin", id=entity), rc.Entity(entity_type="pin", id=entity)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    drawn=st.lists(QUERIES, min_size=1, max_size=4),
    k=st.one_of(st.integers(1, 30), st.integers(200, 10_000)),
    types=st.sampled_from([(), ("pin",), ("product",), ("product", "pin"), ("pin", "pin")]),
    grouped=st.booleans(),
    ef=st.one_of(st.none(), st.integers(1, 300)),
    titled=st.booleans(),
)
def test_in_process_and_over_the_wire_are_the_same(
    running: Running, drawn: list[Any], k: int, types: tuple[str, ...], grouped: bool, ef: int | None, titled: bool
) -> None:
    pairs = [both(running, each) for each in drawn]
    attributes = ("title",) if titled else ()
    wanted = Wanted(
        entity_types=types,
        k=k,
        effort=Effort(ef=ef),
        grouping=Grouping.BY_ENTITY_TYPE if grouped else Grouping.MERGED,
        attributes=attributes,
    )
    asked: dict[str, Any] = {"entity_types": types, "k": k, "grouped": grouped, "attributes": attributes}
    inside = running.engine.search_batch([pair[0] for pair in pairs], wanted)
    outside = running.client.search_batch([pair[1] for pair in pairs], effort=rc.Effort(ef=ef), **asked)
    for answer, result in zip(inside, outside, strict=True):
        assert_same(answer, result)
    if len(pairs) == 1:
        assert_same(inside[0], running.client.search(pairs[0][1], effort=rc.Effort(ef=ef), **asked))


def assert_same(answer: SearchAnswer, result: rc.SearchResult) -> None:
    assert result.query_space_id == answer.query_space_id
    for source, held in zip(result.sources, answer.sources, strict=True):
        assert (source.entity_type, source.generation, source.space_id) == (
            held.entity_type,
            held.generation,
            held.space_id,
        )
        assert (source.rows, source.degraded) == (held.rows, held.degraded)
        assert source.coverage == pytest.approx(held.coverage)
        assert (source.effort.ef, source.recall_at_100) == (held.effort.ef, held.recall_at_100)
    for ranking, expected in zip(result.candidates, answer.rankings, strict=True):
        assert ranking.entity_type == expected.entity_type
        assert list(ranking.ids) == expected.ids.tolist()
        assert ranking.scores.tolist() == expected.scores.tolist()
        names = [answer.sources[place].entity_type for place in expected.source_index]
        assert ranking.entity_types == names
        assert ranking.attributes == {name: values.to_pylist() for name, values in expected.attributes.items()}
        assert [each.rank for each in ranking] == list(range(1, len(ranking) + 1))


def test_score_and_embed_are_the_same(running: Running) -> None:
    for name, ids in (("pin", [-3, 4, 10**9]), ("product", ["e4", "nobody"])):
        answer = running.engine.score(TextQuery(text="blue"), name, ids)
        result = running.client.score("blue", name, ids)
        assert result.scores.tolist() == answer.scores.tolist()
        assert result.found.tolist() == answer.found.tolist() == [each not in (10**9, "nobody") for each in ids]
        assert result.source.generation == answer.source.generation
    vectors, space = running.client.embed(["red", "a blue chair"])
    embedding = running.engine.embed(["red", "a blue chair"])
    assert (vectors == embedding.vectors).all()
    assert space == embedding.space_id


def test_describe_tells_what_is_served(running: Running) -> None:
    described = running.client.describe()
    assert described.query_space_id == running.engine.describe().query_space_id
    assert [each.entity_type for each in described.generations] == ["pin", "product"]
    pin = described.generations[0]
    assert (pin.rows, pin.d, pin.id_type, pin.metric) == (300, D, "int64", "cosine")
    assert [shard.kind for shard in pin.shards] == ["hnsw"] * 3
    assert sum(shard.rows for shard in pin.shards) == 300
    assert list(pin.attributes) == ["title"]
    limits = described.limits
    assert (limits.max_k, limits.max_text_characters, limits.max_batch) == (10_000, 9_999, 20)
    assert limits.max_message_bytes == MESSAGE_LIMIT


def test_fewer_rows_than_k_are_said(running: Running) -> None:
    result = running.client.search("red", entity_types=["product"], k=201)
    assert len(result.candidates[0]) == 200
    assert result.sources[0].degraded == ("201 candidates were asked for, the generation has 200 rows",)


def ones() -> np.ndarray:
    return np.ones(D, np.float32)


def with_value(value: float) -> np.ndarray:
    values = ones()
    values[3] = value
    return values


Bad = tuple[dict[str, Any], type[errors.RetrievalError], str]
BAD: dict[str, Bad] = {
    "wrong dimension": ({"values": np.ones(3)}, InvalidQuery, "the query vector has 3 dimensions, space .* has 16"),
    "nan": ({"values": with_value(np.nan)}, InvalidQuery, "the query vector holds nan at position 3"),
    "inf": ({"values": with_value(np.inf)}, InvalidQuery, "the query vector holds inf at position 3"),
    "zero": ({"values": np.zeros(D)}, InvalidQuery, "the query vector has zero norm"),
    "beyond float32": ({"values": np.full(D, 1e30)}, InvalidQuery, "has a norm beyond the range of float32"),
    "no values": ({"values": np.zeros(0)}, InvalidQuery, r"the query vector has shape \[0\]"),
    "foreign space": (
        {"values": ones(), "space_id": "elsewhere"},
        SpaceMismatch,
        "space elsewhere cannot search .* sp1-",
    ),
    "no space": ({"values": ones(), "space_id": ""}, InvalidQuery, "the query vector has no space id"),
    "empty text": ({"text": ""}, InvalidQuery, "the query text is empty"),
    "blank text": ({"text": " \n "}, InvalidQuery, "the query text is empty"),
    "long text": ({"text": "a" * 10_000}, InvalidQuery, "the query text has 10,000 characters, the limit is 9,999"),
    "k = 0": ({"text": "red", "k": 0}, InvalidQuery, "k = 0 is not acceptable: ask for 1 to 10,000"),
    "k too large": ({"text": "red", "k": 10_001}, InvalidQuery, "k = 10,001 is not acceptable: ask for 1 to 10,000"),
    "unknown type": (
        {"text": "red", "entity_types": ("cat",)},
        InvalidQuery,
        "entity type 'cat' is not served; these are: pin, product",
    ),
    "ef 0": ({"text": "red", "ef": 0}, InvalidParams, "ef = 0 is not acceptable: .*greater than or equal to 1"),
    "ef too large": ({"text": "red", "ef": 20_001}, InvalidParams, "ef = 20001 is not acceptable: .*equal to 20000"),
    "nprobe 0": ({"text": "red", "nprobe": 0}, InvalidParams, "nprobe = 0 is not acceptable"),
    "rescore": ({"text": "red", "rescore": 200_001}, InvalidParams, "rescore = 200001 is not acceptable"),
    "attribute": ({"text": "red", "attributes": ("price",)}, InvalidQuery, "no attribute 'price'; there are: title"),
    "coverage": ({"text": "red", "minimum_coverage": 1.5}, InvalidQuery, "minimum coverage 1.5 is not acceptable"),
    "no such entity": ({"entity": ("pin", 5)}, InvalidQuery, "there is no pin 5 in generation"),
    "entity of no type": ({"entity": ("cat", 5)}, InvalidQuery, "entity type 'cat' is not served"),
    "entity id type": ({"entity": ("product", 5)}, InvalidQuery, "ids of product are of type string"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_in_process_and_over_the_wire(running: Running, name: str) -> None:
    asked, kind, sentence = BAD[name]
    space = asked.get("space_id", running.engine.describe().query_space_id)
    if "text" in asked:
        inside, outside = TextQuery(text=asked["text"]), asked["text"]
    elif "entity" in asked:
        entity_type, entity = asked["entity"]
        inside = EntityQuery(entity_type=entity_type, id=entity)
        outside = rc.Entity(entity_type=entity_type, id=entity)
    else:
        inside = VectorQuery(values=asked["values"], space_id=space)
        outside = rc.Vector(values=asked["values"], space_id=space)
    effort = {key: asked[key] for key in ("ef", "nprobe", "rescore") if key in asked}
    shared = {key: asked[key] for key in ("k", "entity_types", "attributes", "minimum_coverage") if key in asked}
    with pytest.raises(kind, match=sentence) as here:
        running.engine.search(inside, Wanted(effort=Effort(**effort), **shared))
    with pytest.raises(kind, match=sentence) as there:
        running.client.search(outside, effort=rc.Effort(**effort), **shared)
    assert type(here.value) is type(there.value) is kind
    assert str(here.value) == str(there.value)
    assert "\n" not in str(here.value)


def raw(running: Running, method: str, data: bytes) -> grpc.RpcError:
    call = running.channel.unary_unary(f"/retrieval.v1.Retrieval/{method}")
    with pytest.raises(grpc.RpcError) as caught:
        call(data, timeout=10)
    return caught.value


@pytest.mark.parametrize(
    ("asked", "code", "sentence"),
    [
        (pb.SearchRequest(k=5), "INVALID_ARGUMENT", "the query is empty: set its text, its vector or its entity"),
        (
            pb.SearchRequest(k=5, query=pb.Query(entity=pb.EntityRef(entity_type="pin"))),
            "INVALID_ARGUMENT",
            "the query names an entity without an id: set string_id or int64_id",
        ),
        (
            pb.SearchRequest(k=5, query=pb.Query(text="red"), grouping=7),
            "INVALID_ARGUMENT",
            "grouping 7 does not exist: use MERGED (0) or BY_ENTITY_TYPE (1)",
        ),
        (
            pb.SearchRequest(k=5, query=pb.Query(vector=pb.Vector(values=[1.0] * D, space_id="elsewhere"))),
            "FAILED_PRECONDITION",
            "a query of space elsewhere cannot search an index of space sp1-",
        ),
    ],
    ids=["empty query", "no id", "grouping", "foreign space"],
)
def test_status_of_messages_that_the_client_does_not_write(
    running: Running, asked: pb.SearchRequest, code: str, sentence: str
) -> None:
    error: Any = raw(running, "Search", asked.SerializeToString())
    assert error.code().name == code
    assert error.details().startswith(sentence)


@pytest.mark.parametrize("method", ["Search", "SearchBatch", "Embed", "Score"])
def test_malformed_bytes_are_an_invalid_argument(running: Running, method: str) -> None:
    error: Any = raw(running, method, b"\x0a\xff\xff\xff\xff\xff\xff\xff")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (
        error.details()
        == f"the message is not a retrieval.v1.{method}Request: encode it with this service's .proto file"
    )


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), method=st.sampled_from(["Search", "SearchBatch", "Embed", "Score"]))
def test_random_bytes_do_no_harm(running: Running, data: bytes, method: str) -> None:
    error: Any = raw(running, method, data)
    assert error.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION}


def test_messages_over_the_limit(running: Running) -> None:
    over = pb.EmbedRequest(texts=["a" * 9_000] * 12)
    error: Any = raw(running, "Embed", over.SerializeToString())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "the message has 108,036 bytes, the limit is 100,000: send fewer queries in one call"
    far_over: Any = raw(running, "Embed", b"\x0a" * (3 * MESSAGE_LIMIT))
    assert far_over.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(InvalidQuery, match=r"over the server's size limit .*larger than max.*: send less in one call"):
        running.client.embed(["a" * 9_000] * 40)


def test_batches_over_the_limits(running: Running) -> None:
    with pytest.raises(InvalidQuery, match=r"the batch has 21 queries, the limits are 1 and 20"):
        running.client.search_batch(["red"] * 21)
    with pytest.raises(InvalidQuery, match=r"the batch has 0 queries"):
        running.client.search_batch([])
    with pytest.raises(InvalidQuery, match=r"the batch has 21 texts"):
        running.client.embed(["red"] * 21)
    with pytest.raises(InvalidQuery, match=r"query 1 of the batch: the query text is empty"):
        running.client.search_batch(["red", ""])
    tight = Engine({}, limits=running.engine.limits)
    assert tight.limits.max_candidates == 1_000_000


def test_answers_over_the_limit(tmp_path: Path) -> None:
    make_store(tmp_path / "store", 200, D, 1)
    chosen = make_settings(store=tmp_path / "store", port=0, max_answer_bytes=1_024)
    server = Server(open_engine(chosen), chosen)
    with rc.RetrievalClient(f"127.0.0.1:{server.start()}") as client:
        query = rc.Vector(values=ones(), space_id="tiny-space")
        with pytest.raises(
            InvalidQuery, match=r"the answer would have [\d,]+ bytes, the limit is 1,024: ask for fewer"
        ):
            client.search(query, k=200)
        assert len(client.search(query, k=10).candidates[0]) == 10
    server.stop(0).wait()


def test_texts_need_a_tower(without_tower: Running) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: without_tower.client.search("red"),
        lambda: without_tower.client.embed(["red"]),
    ]
    for call in calls:
        with pytest.raises(
            FailedPrecondition, match=r"no query tower, .*: start it with --checkpoint, or send a vector"
        ):
            call()
    assert without_tower.client.describe().query_space_id == ""


def test_the_client_refuses_what_no_message_holds(running: Running) -> None:
    for call in (
        lambda: running.client.search("red", k=-1),
        lambda: running.client.search("red", k=1 << 40),
        lambda: running.client.search(rc.Entity(entity_type="pin", id=1 << 70)),
        lambda: running.client.score("red", "pin", [1, "a"]),
        lambda: running.client.search(rc.Vector(values=[[1.0]], space_id="x")),
        lambda: running.client.search(rc.Vector(values=["a"], space_id="x")),  # type: ignore[list-item]
        lambda: running.client.search("\ud800"),
    ):
        with pytest.raises(
            InvalidQuery,
            match=r"cannot be written as a message|does not consist of numbers|has shape|a number from 1 up|give a",
        ):
            call()


def test_deadlines_and_absent_servers_are_unavailable(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    called_off = threading.Event()
    describe = running.engine.describe

    def stall() -> Any:
        called_off.wait(30)
        return describe()

    with monkeypatch.context() as patched:
        patched.setattr(running.engine, "describe", stall)
        with (
            rc.RetrievalClient(running.target, timeout_s=0.2) as hurried,
            pytest.raises(Unavailable, match=r"no answer within 0.2 s: try again, or allow more time"),
        ):
            hurried.describe()
        called_off.set()
    with (
        rc.RetrievalClient("127.0.0.1:1", timeout_s=2) as nobody,
        pytest.raises(Unavailable, match=r"UNAVAILABLE|no answer within 2 s"),
    ):
        nobody.describe()


def test_an_unexpected_error_is_internal_with_an_id(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def explode() -> None:
        raise ZeroDivisionError("secret path /etc/x")

    monkeypatch.setattr(running.engine, "describe", explode)
    error: Any = raw(running, "Describe", b"")
    assert error.code() is grpc.StatusCode.INTERNAL
    sentence, _, request_id = error.details().rpartition(" ")
    assert sentence == "the server failed; its log has the reason under"
    assert f"request {request_id} failed" in caplog.text
    assert "secret path" in caplog.text


def test_every_error_has_a_status() -> None:
    classes = {
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.RetrievalError)
    }
    assert set(STATUS) == classes
    for kind in classes:
        if issubclass(kind, InvalidArgument):
            assert STATUS[kind] is grpc.StatusCode.INVALID_ARGUMENT
        if issubclass(kind, FailedPrecondition):
            assert STATUS[kind] is grpc.StatusCode.FAILED_PRECONDITION


def test_health_and_reflection_answer(running: Running) -> None:
    health = health_pb2_grpc.HealthStub(running.channel)
    for service in ("", "retrieval.v1.Retrieval"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (listed,) = reflection_pb2_grpc.ServerReflectionStub(running.channel).ServerReflectionInfo(
        iter([request]), timeout=5
    )
    assert "retrieval.v1.Retrieval" in {service.name for service in listed.list_services_response.service}
