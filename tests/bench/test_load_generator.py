"""The sender: latency from the instant a call was due, statuses by name, and what it says of itself."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from bench.load_figures import overload_figures, summarise
from bench.load_generator import Generator
from bench.load_schedule import draw_requests, due_ns
from retrieval.errors import Unavailable
from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb
from retrieval.pb.retrieval.v1 import retrieval_pb2_grpc

STALL_S, GOOD, REFUSED = 0.3, 100, 7


class _Scripted(retrieval_pb2_grpc.RetrievalServicer):
    """k = 7 is refused; the first call after `stall` is set holds the only thread for a while."""

    stall = False

    def Search(self, request: pb.SearchRequest, context: grpc.ServicerContext) -> pb.SearchResponse:  # noqa: N802
        if self.stall:
            self.stall = False
            time.sleep(STALL_S)
        if request.k == REFUSED:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        source = pb.Source(coverage=0.5, effort=pb.Effort(ef=64), recall_at_100=0.96)
        return pb.SearchResponse(sources=[source], timings=pb.Timings(search_ns=2_000, total_ns=3_000))

    def SearchBatch(self, request: pb.SearchBatchRequest, context: grpc.ServicerContext) -> pb.SearchBatchResponse:  # noqa: N802
        answers = [pb.SearchResponse(sources=[pb.Source(coverage=share)]) for share in (0.75, 0.25, 1.0)]
        return pb.SearchBatchResponse(responses=answers)


@pytest.fixture(scope="module")
def servicer() -> _Scripted:
    return _Scripted()


@pytest.fixture(scope="module")
def target(servicer: _Scripted) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1))
    retrieval_pb2_grpc.add_RetrievalServicer_to_server(servicer, server)  # type: ignore[no-untyped-call, unused-ignore]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.fixture(scope="module")
def sender(target: str) -> Iterator[Generator]:
    requests = [pb.SearchRequest(k=k).SerializeToString() for k in (GOOD, REFUSED)]
    made = Generator(target, requests, connections=2)
    yield made
    made.close()


def test_statuses_coverage_and_stages_are_told(sender: Generator) -> None:
    due = due_ns(100, 0.4, "constant", 1)
    outcome = sender.send(due, np.arange(len(due)) % 4 // 3, 5.0)
    assert (outcome.status == "RESOURCE_EXHAUSTED").sum() == 10
    assert (outcome.status == "OK").sum() == 30
    assert np.nanmin(outcome.coverage) == np.nanmax(outcome.coverage) == 0.5
    assert set(outcome.stage_ns["search"].tolist()) == {2_000}
    assert outcome.effort == "ef: 64"
    assert outcome.recall_at_100 == pytest.approx(0.96)
    assert (outcome.latency_ns >= outcome.lag_ns).all()
    assert outcome.cpu_s > 0
    point = summarise(outcome, what="test", arrivals="constant", rate=100, seconds=0.4)
    assert point.errors == {"RESOURCE_EXHAUSTED": 10}
    assert overload_figures(outcome, deadline_s=5, seconds=0.4, peak=75)["goodput"] == 75
    assert overload_figures(outcome, deadline_s=5, seconds=0.4, peak=75)["goodput_share"] == 1.0


def test_a_stall_counts_for_every_call_that_was_due_meanwhile(sender: Generator, servicer: _Scripted) -> None:
    """A closed loop would see one slow call; 200 calls a second meet 0.3 s of stall 60 times, 150 ms on the average."""
    servicer.stall = True
    due = due_ns(200, 0.6, "constant", 1)
    outcome = sender.send(due, np.zeros(len(due), np.int64), 5.0)
    waited = outcome.latency_ns[due < STALL_S * 1e9]
    assert len(waited) == 60
    expected = STALL_S * 1e9 - due[:60]  # until the stall ends, each from its own instant
    assert (waited >= expected - 2e6).all()


def test_a_deadline_that_passes_is_a_status(sender: Generator, servicer: _Scripted) -> None:
    servicer.stall = True
    outcome = sender.send(due_ns(10, 0.1, "constant", 1), np.zeros(1, np.int64), 0.05)
    assert outcome.status.tolist() == ["DEADLINE_EXCEEDED"]
    assert np.isnan(outcome.coverage).all()
    time.sleep(STALL_S)


def test_a_batch_is_worth_the_least_of_its_answers(target: str) -> None:
    made = Generator(target, [pb.SearchBatchRequest().SerializeToString()], connections=1, batches=True)
    try:
        outcome = made.send(due_ns(100, 0.1, "constant", 1), np.zeros(10, np.int64), 5.0)
    finally:
        made.close()
    assert set(outcome.status.tolist()) == {"OK"}
    assert np.nanmax(outcome.coverage) == 0.25


def test_no_server_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match=r"no server answers at 127\.0\.0\.1:9 within .*give its host:port"):
        Generator("127.0.0.1:9", [b""], connections=1, patience_s=0.2)


def test_what_is_asked_follows_zipf() -> None:
    drawn = np.bincount(draw_requests(200_000, 50, 1.0, 3), minlength=50)
    assert drawn[0] / drawn[9] == pytest.approx(10, rel=0.1)
    assert np.bincount(draw_requests(50_000, 10, 0.0, 3)).min() > 4_600
