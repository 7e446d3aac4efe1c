"""What a server tells about itself: metrics, log lines, request ids, traces, health per type, an orderly end."""

from __future__ import annotations

import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from tiny_store import SPACE, make_store

from retrieval import client as rc
from retrieval.errors import FailedPrecondition, InvalidQuery, MissingDependency
from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb
from retrieval.serving.config import make_settings
from retrieval.serving.engine import Engine
from retrieval.serving.operate import logs, observing
from retrieval.serving.operate.metrics import Metrics, Reading, merge_pages
from retrieval.serving.operate.metrics_http import MetricsServer
from retrieval.serving.operate.observing import CallRecord
from retrieval.serving.operate.tracing import Tracing
from retrieval.serving.server import Server
from retrieval.serving.swap.load import load_store

SERVICE = "retrieval.v1.Retrieval"
QUERY = rc.Vector(values=np.ones(8), space_id=SPACE)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    store = tmp_path_factory.mktemp("store")
    make_store(store, 30, 8, 1)
    make_store(store, 20, 8, 1, "string", entity_type="product")
    return Engine(load_store(make_settings(store=store)))


@pytest.fixture
def running(engine: Engine) -> Iterator[tuple[Server, str]]:
    server = Server(engine, make_settings(store="x", port=0, threads=2, metrics_port=0, log_calls="all"))
    yield server, f"127.0.0.1:{server.start()}"
    server.stop(0).wait()


def values(page: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(page.decode())
    return {(each.name, tuple(sorted(each.labels.items()))): each.value for f in families for each in f.samples}


def labels(**given: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(given.items()))


def test_calls_are_counted_by_what_became_of_them(running: tuple[Server, str]) -> None:
    server, target = running
    with rc.RetrievalClient(target) as client:
        for _ in range(3):
            client.search(QUERY, k=3)
        client.search(QUERY, k=3, entity_types=["pin"])
        with pytest.raises(InvalidQuery, match="k = 0 is not acceptable"):
            client.search(QUERY, k=0)
        client.describe()
    found = values(server.operations.metrics.page())
    requests = {key[1]: value for key, value in found.items() if key[0] == "retrieval_requests_total"}
    assert requests == {
        labels(method="Search", status="OK", entity_type="pin+product", caller=""): 3,
        labels(method="Search", status="OK", entity_type="pin", caller=""): 1,
        labels(method="Search", status="INVALID_ARGUMENT", entity_type="", caller=""): 1,
        labels(method="Describe", status="OK", entity_type="", caller=""): 1,
    }
    assert found["retrieval_stage_seconds_count", labels(stage="search")] == 4
    assert found["retrieval_stage_seconds_count", labels(stage="queue")] == 6
    assert found["retrieval_request_seconds_count", labels(method="Search")] == 5
    assert found["retrieval_coverage_sum", labels(entity_type="pin")] == 4
    assert found["retrieval_rows", labels(entity_type="product")] == 20
    assert found["retrieval_resident_bytes", ()] > 2**20
    # parts that are off are absent
    assert not [key for key in found if key[0].startswith(("retrieval_texts", "retrieval_certificate"))]


def test_providers_are_read_and_one_that_fails_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    metrics.add(lambda: [Reading(name="queue_length", help="h", value=3)])
    metrics.add(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    metrics.add(lambda: [Reading(name="taken_total", help="h", kind="counter", value=7, labels={"leaf": "a"})])
    found = values(metrics.page())
    assert (found["queue_length", ()], found["taken_total", labels(leaf="a")]) == (3, 7)
    assert "a provider of metrics failed" in caplog.text


@given(st.lists(st.lists(st.tuples(st.sampled_from(["A", 'B"{ \\', "ö"]), st.floats(0, 20)), max_size=5), max_size=4))
def test_merged_pages_hold_every_sample_of_every_worker(calls: list[list[tuple[str, float]]]) -> None:
    pages: dict[str, bytes] = {}
    for number, of_worker in enumerate(calls):
        metrics = Metrics()
        for method, seconds in of_worker:
            metrics.observe(
                CallRecord(service="s", method=method, request_id="r", total_ns=int(seconds * 1e9), coverage={"pin": 1})
            )
        pages[str(number)] = metrics.page()
    merged = values(merge_pages(pages)) if pages else {}
    single = {
        (name, tuple(sorted((*key, ("worker", worker))))): value
        for worker, page in pages.items()
        for (name, key), value in values(page).items()
    }
    assert merged == single


def test_request_ids_go_through_and_odd_ones_are_replaced(running: tuple[Server, str]) -> None:
    _, target = running
    with grpc.insecure_channel(target) as channel:
        describe = channel.unary_unary(f"/{SERVICE}/Describe")
        search = channel.unary_unary(f"/{SERVICE}/Search")

        def answered(given: str | None) -> str:
            metadata = () if given is None else (("x-request-id", given),)
            _, call = describe.with_call(b"", timeout=5, metadata=metadata)
            return str(dict(call.trailing_metadata())["x-request-id"])

        assert answered("abc-1") == "abc-1"
        assert len(answered(None)) == 32
        assert len(answered("x" * 129)) == 32
        with pytest.raises(grpc.RpcError) as caught:
            search(b"", timeout=5, metadata=(("x-request-id", "mine"),))
        error: Any = caught.value
        assert dict(error.trailing_metadata()) == {"x-request-id": "mine", "retrieval-error": "InvalidQuery"}


def test_calls_leave_lines_that_a_collector_reads(
    running: tuple[Server, str], caplog: pytest.LogCaptureFixture
) -> None:
    _, target = running
    caplog.set_level(logging.INFO)
    with rc.RetrievalClient(target) as client:
        client.search(QUERY, k=3)
        with pytest.raises(InvalidQuery, match="k = 0 is not acceptable"):
            client.search(QUERY, k=0)
    deadline = time.monotonic() + 20  # the answer is out before its line is written
    while len(lines := [each for each in caplog.records if each.name == "retrieval.calls"]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    good, bad = (json.loads(logs.JsonLines().format(each)) for each in lines)
    assert (good["level"], good["method"], good["status"]) == ("info", "Search", "OK")
    assert good["coverage"] == {"pin": 1.0, "product": 1.0}
    assert good["total_ms"] >= good["search_ms"] > 0
    assert (bad["level"], bad["status"]) == ("warning", "INVALID_ARGUMENT")
    assert "k = 0 is not acceptable" in bad["message"]
    assert bad["request_id"] in bad["message"]


def test_under_overload_few_refusals_have_a_line_and_the_rest_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = 100.0
    write = logs.call_log("all", clock=lambda: now)
    assert write is not None
    for status in ["RESOURCE_EXHAUSTED"] * 500 + ["INTERNAL"] * 2 + ["OK"] * 30:
        write(CallRecord(service="s", method="m", request_id="x", status=status))
    lines = [each.getMessage() for each in caplog.records]
    assert [sum(status in line for line in lines) for status in ("RESOURCE_EXHAUSTED", "INTERNAL", "OK")] == [10, 2, 30]
    now += 1
    write(CallRecord(service="s", method="m", request_id="x", status="RESOURCE_EXHAUSTED"))
    assert "490 more calls ended so before this one" in caplog.records[-1].getMessage()


def test_lines_written_during_a_call_carry_its_id() -> None:
    record = CallRecord(service="s", method="m", request_id="here")
    token = observing._current.set(record)
    try:
        event = logging.LogRecord("n", logging.ERROR, "f", 1, 'odd "%s"\n', ("ö",), None)
        assert json.loads(logs.JsonLines().format(event))["request_id"] == "here"
        assert observing.outgoing_metadata() == (("x-request-id", "here"),)
    finally:
        observing._current.reset(token)
    assert json.loads(logs.JsonLines().format(event))["message"] == 'odd "ö"\n'
    assert observing.outgoing_metadata() == ()
    assert logs.call_log("none") is None


def test_spans_follow_the_record() -> None:
    pytest.importorskip("opentelemetry.sdk", reason="the extra `traces` is not installed")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    tracing = Tracing("http://localhost:1", share=0.0, processor=SimpleSpanProcessor(exporter))
    record = CallRecord(
        service=SERVICE, method="Search", request_id="r", began_ns=10_000, queue_ns=1_000, total_ns=9_000,
        stages={"encode": 2_000, "search": 5_000, "merge": 500}, coverage={"pin": 0.5},
    )  # fmt: skip
    tracing.observe(record)
    assert exporter.get_finished_spans() == ()  # not sampled
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    record.trace_parent = f"00-{trace}-00f067aa0ba902b7-01"
    tracing.observe(record)
    *stages, call = exporter.get_finished_spans()
    assert [(each.name, each.start_time, each.end_time) for each in stages] == [
        ("queue", 9_000, 10_000),
        ("encode", 10_000, 12_000),
        ("search", 12_000, 17_000),
        ("merge", 17_000, 17_500),
    ]
    assert (call.name, call.start_time, call.end_time) == (f"{SERVICE}/Search", 9_000, 19_000)
    assert call.context is not None
    assert f"{call.context.trace_id:032x}" == trace
    assert {each.parent.span_id for each in stages if each.parent} == {call.context.span_id}
    tracing.close()


def test_traces_without_the_library_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(MissingDependency, match=r"traces_endpoint is set, but .* pip install 'retrieval\[traces\]'"):
        Tracing("http://localhost:1", share=1.0)


def test_the_metrics_port(engine: Engine) -> None:
    ready = threading.Event()
    served = MetricsServer("127.0.0.1", 0, lambda: b"page", ready.is_set)

    def get(path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{served.port}{path}", timeout=5) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    try:
        assert get("/metrics") == (200, b"page")
        assert get("/healthz") == (200, b"alive\n")
        assert get("/readyz") == (503, b"not serving\n")
        ready.set()
        assert get("/readyz?x=1") == (200, b"serving\n")
        assert get("/nothing")[0] == 404
        with pytest.raises(FailedPrecondition, match=r"for metrics: address already in use; choose another metrics_p"):
            MetricsServer("127.0.0.1", served.port, lambda: b"", ready.is_set)
    finally:
        served.close()


def test_health_is_per_type_and_a_watch_hears_of_the_end(running: tuple[Server, str]) -> None:
    server, target = running
    with grpc.insecure_channel(target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE, f"{SERVICE}/pin", f"{SERVICE}/product"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            health.Check(health_pb2.HealthCheckRequest(service=f"{SERVICE}/nothing"), timeout=5)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=f"{SERVICE}/pin"), timeout=20)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        began = time.monotonic()
        stopped = server.stop(1.0)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert stopped.wait(5)  # an open watch holds nobody up for longer than the drain
        assert time.monotonic() - began < 4
        assert not server.operations.is_ready


def test_a_service_that_is_not_there_is_no_crash(running: tuple[Server, str]) -> None:
    _, target = running
    with grpc.insecure_channel(target) as channel, pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
        channel.unary_unary("/retrieval.v1.Retrieval/Nothing")(pb.DescribeRequest().SerializeToString(), timeout=5)
