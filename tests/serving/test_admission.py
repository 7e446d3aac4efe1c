"""Admission and the brown-out ladder: bounds, order, expiry, quick refusals, steps by a clock of our own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_store import SPACE, TinyGeneration, make_store, make_vectors

from retrieval.errors import Overloaded
from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb
from retrieval.serving.admission import Admission, AdmissionSettings
from retrieval.serving.calls import Effort, GenerationDescription, Priority, TextQuery, VectorQuery, Wanted
from retrieval.serving.config import make_settings
from retrieval.serving.effort.efforts import Efforts
from retrieval.serving.engine import Engine
from retrieval.serving.pressure import Ladder, PressureSettings, Step
from retrieval.serving.rankings import Served
from retrieval.serving.server import Server
from retrieval.serving.shards import open_shards
from retrieval.store import Generation
from retrieval.store.manifest import FrontierPoint

D = 8


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def wait_until_waiting(admission: Admission, calls: int) -> None:
    end = time.monotonic() + 10
    while admission.stats().waiting != calls:
        assert time.monotonic() < end, f"{admission.stats()}, not {calls} waiting"
        time.sleep(0.001)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as made:
        yield made


def run(pool: ThreadPoolExecutor, admission: Admission, priority: Priority, done: list[Priority]) -> Future[None]:
    def work() -> None:
        with admission.turn(priority):
            done.append(priority)

    return pool.submit(work)


def test_no_more_work_than_the_limit_and_all_of_it_ends(pool: ThreadPoolExecutor) -> None:
    admission = Admission(3, AdmissionSettings(max_queue=64))
    at_once, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal at_once, most
        with admission.turn():
            with lock:
                at_once += 1
                most = max(most, at_once)
            time.sleep(0.001)
            with lock:
                at_once -= 1

    for future in [pool.submit(work) for _ in range(60)]:
        future.result(10)
    stats = admission.stats()
    assert (most, stats.at_work, stats.waiting, stats.admitted, stats.refused) == (3, 0, 0, 60, 0)


def test_a_full_queue_refuses_within_five_milliseconds(pool: ThreadPoolExecutor) -> None:
    admission = Admission(1, AdmissionSettings(max_queue=2))
    done: list[Priority] = []
    with admission.turn():
        waiting = [run(pool, admission, Priority.INTERACTIVE, done) for _ in range(2)]
        wait_until_waiting(admission, 2)
        took = []
        for _ in range(20):
            began = time.perf_counter()
            with pytest.raises(Overloaded, match=r"1 calls are at work and 2 wait, which is the most") as refused:
                admission.turn().__enter__()
            with pytest.raises(Overloaded, match="come again in"):
                admission.check_room()
            took.append(time.perf_counter() - began)
            assert 1 <= (refused.value.retry_after_ms or 0) <= 10_000
        assert sorted(took)[10] < 0.005
    for future in waiting:
        future.result(10)


def test_batch_calls_have_half_of_the_queue(pool: ThreadPoolExecutor) -> None:
    admission = Admission(1, AdmissionSettings(max_queue=4))
    done: list[Priority] = []
    with admission.turn():
        waiting = [run(pool, admission, Priority.BATCH, done) for _ in range(2)]
        wait_until_waiting(admission, 2)
        with pytest.raises(Overloaded, match="which is the most"):
            admission.turn(Priority.BATCH).__enter__()
        admission.check_room()  # for interactive calls there is room
        waiting.append(run(pool, admission, Priority.INTERACTIVE, done))
        wait_until_waiting(admission, 3)
    for future in waiting:
        future.result(10)
    assert done == [Priority.INTERACTIVE, Priority.BATCH, Priority.BATCH]


@settings(max_examples=10, deadline=None)
@given(interactive=st.integers(0, 12), batch=st.integers(0, 4), every=st.integers(2, 5))
def test_interactive_calls_go_first_and_batch_calls_do_not_starve(interactive: int, batch: int, every: int) -> None:
    admission = Admission(1, AdmissionSettings(max_queue=32, batch_every=every))
    done: list[Priority] = []
    with ThreadPoolExecutor(20) as pool:
        with admission.turn():
            calls = [run(pool, admission, Priority.BATCH, done) for _ in range(batch)]
            calls += [run(pool, admission, Priority.INTERACTIVE, done) for _ in range(interactive)]
            wait_until_waiting(admission, interactive + batch)
        for call in calls:
            call.result(10)
    expected, left, turn = [], [interactive, batch], 0
    while any(left):
        turn += 1
        is_batch = bool(left[1]) and (not left[0] or turn % every == 0)
        left[is_batch] -= 1
        expected.append(Priority.BATCH if is_batch else Priority.INTERACTIVE)
    assert done == expected


def test_who_has_no_time_left_is_not_started(pool: ThreadPoolExecutor) -> None:
    admission = Admission(1)
    deadline = time.monotonic() + 0.03

    def check_alive() -> None:
        if time.monotonic() >= deadline:
            raise TimeoutError("too late")

    def late() -> None:
        with admission.turn(remaining_s=lambda: deadline - time.monotonic(), check_alive=check_alive):
            raise AssertionError("it was started")

    with admission.turn():
        future = pool.submit(late)
        with pytest.raises(TimeoutError, match="too late"):
            future.result(10)
        assert admission.stats().waiting == 0
    assert (admission.stats().at_work, admission.stats().expired) == (0, 1)
    assert admission.is_idle()


def test_a_turn_that_comes_too_late_is_handed_on(pool: ThreadPoolExecutor) -> None:
    admission = Admission(1, AdmissionSettings(max_queue=8))
    gone = threading.Event()

    def check_alive() -> None:
        if gone.is_set():
            raise TimeoutError("gone")

    def leaves() -> None:
        with admission.turn(check_alive=check_alive):
            raise AssertionError("it was started")

    done: list[Priority] = []
    with admission.turn():
        first = pool.submit(leaves)
        wait_until_waiting(admission, 1)
        second = run(pool, admission, Priority.INTERACTIVE, done)
        wait_until_waiting(admission, 2)
        gone.set()
    second.result(10)
    with pytest.raises(TimeoutError, match="gone"):
        first.result(10)
    assert admission.stats().at_work == 0


def climb(ladder: Ladder, clock: Clock, wait_s: float, seconds: float) -> list[Step]:
    steps = [ladder.step]
    for _ in range(round(seconds / 0.1)):
        clock.now += 0.1
        ladder.waited(wait_s)
        if ladder.step is not steps[-1]:
            steps.append(ladder.step)
    return steps


def test_the_ladder_goes_up_step_by_step_and_down_again() -> None:
    clock = Clock()
    ladder = Ladder(PressureSettings(up_ms=20, down_ms=5, hold_seconds=0.5, calm_seconds=1), clock)
    assert climb(ladder, clock, 0.001, 5) == [Step.NONE]
    assert climb(ladder, clock, 0.05, 0.8) == [Step.NONE]  # a burst shorter than the window and the hold
    assert climb(ladder, clock, 0.05, 10) == list(Step)
    assert climb(ladder, clock, 0.01, 10) == [Step.SHED_BATCH]  # between the bounds it stays
    assert climb(ladder, clock, 0.001, 10) == list(reversed(Step))
    climb(ladder, clock, 0.05, 10)
    steps = []
    for _ in range(100):  # no calls at all
        clock.now += 0.1
        steps.append(ladder.step)
    assert steps[-1] is Step.NONE
    assert steps.index(Step.NONE) < 60, "back to normal takes longer than 6 s"


def test_the_last_step_sheds_batch_calls_only() -> None:
    clock = Clock()
    ladder = Ladder(clock=clock)
    admission = Admission(2, ladder=ladder, clock=clock)
    climb(ladder, clock, 1.0, 10)
    with pytest.raises(Overloaded, match="batch calls are shed while the server is under pressure: come again in"):
        admission.turn(Priority.BATCH).__enter__()
    with admission.turn(Priority.INTERACTIVE):
        pass


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TinyGeneration:
    frontier = [
        FrontierPoint(
            params={"ef": ef, "max_distances": 0}, recall_at_10=r, recall_at_100=r, p50_ms=t, p95_ms=t, queries=9
        )
        for ef, r, t in ((100, 0.91, 0.1), (200, 0.99, 0.2))
    ]
    return make_store(tmp_path_factory.mktemp("s"), 300, D, 1, kind="hnsw", frontier=frontier)


def engine_on(made: TinyGeneration, ladder: Ladder) -> Engine:
    about = GenerationDescription(manifest=made.manifest)
    shards = tuple(open_shards(Generation.open(made.path)))
    efforts = Efforts(made.manifest.model_copy(update={"default_search": {"hnsw": {"ef": 200}}}))
    return Engine({"pin": Served(about=about, shards=shards, efforts=efforts)}, ladder=ladder)


QUERY = VectorQuery(values=make_vectors(1, D, seed=3)[0], space_id=SPACE)


def test_under_pressure_an_answer_names_the_step_and_its_price(made: TinyGeneration) -> None:
    clock = Clock()
    ladder = Ladder(clock=clock)
    engine = engine_on(made, ladder)

    def worth(wanted: Wanted) -> tuple[int | None, float | None, str, tuple[str, ...]]:
        (source,) = engine.search(QUERY, wanted).sources
        return source.effort.ef, source.expected_recall, source.gave_way, source.degraded

    assert worth(Wanted(k=10)) == (200, 0.99, "", ())
    climb(ladder, clock, 1.0, 1.3)
    assert ladder.step is Step.LESS_EFFORT
    said = ("brown-out step 'less effort': expected recall is 0.9100 instead of 0.9900",)
    assert worth(Wanted(k=10)) == (100, 0.91, "", said)
    assert worth(Wanted(k=10, min_recall=0.95)) == (100, 0.91, "recall", said)
    assert worth(Wanted(k=10, min_recall=0.9)) == (100, 0.91, "", ())
    assert worth(Wanted(k=10, effort=Effort(ef=200))) == (200, 0.99, "", ())
    assert engine.describe().pressure == "less effort"
    climb(ladder, clock, 1.0, 1)
    with pytest.raises(Overloaded, match=r"brown-out step .*: only texts in the query cache are answered now"):
        engine.search(TextQuery(text="blue shoes"), Wanted(k=10))


def test_a_full_server_refuses_with_a_hint_and_still_describes_itself(made: TinyGeneration) -> None:
    engine = engine_on(made, Ladder())
    values = {"store": made.path.parents[2], "port": 0, "threads": 1, "admission": {"max_queue": 1}}
    server = Server(engine, make_settings(**values))
    port = server.start()
    request = pb.SearchRequest(k=3)
    request.query.vector.values.extend(np.asarray(QUERY.values).tolist())
    request.query.vector.space_id = SPACE
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, ExitStack() as held:
            search = channel.unary_unary("/retrieval.v1.Retrieval/Search", None, pb.SearchResponse.FromString)
            describe = channel.unary_unary("/retrieval.v1.Retrieval/Describe", None, pb.DescribeResponse.FromString)
            data = request.SerializeToString()
            assert len(search(data, timeout=5).candidates[0].int64_ids) == 3
            held.enter_context(server.admission.turn())
            with pytest.raises(grpc.RpcError) as late:
                search(data, timeout=0.2)
            assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            wait_until_waiting(server.admission, 0)
            queued = search.future(data, timeout=5)
            wait_until_waiting(server.admission, 1)
            with pytest.raises(grpc.RpcError) as refused:
                search(data, timeout=5)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            hints = dict(refused.value.trailing_metadata())
            assert int(hints["retry-after-ms"]) >= 1
            assert describe(b"", timeout=5).pressure == "none"
            held.close()
            assert len(queued.result(5).candidates[0].int64_ids) == 3
    finally:
        server.stop(0).wait(5)
        engine.close()


def test_a_call_that_could_not_be_answered_in_time_is_refused_at_once(pool: ThreadPoolExecutor) -> None:
    clock = Clock()
    admission = Admission(1, AdmissionSettings(max_queue=8), clock=clock)
    release = threading.Event()

    def hold() -> None:
        with admission.turn():
            clock.now += 1.0  # calls take a second: the mean goes from 10 ms to 59.5
            release.wait(10)

    first = pool.submit(hold)
    while admission.stats().at_work == 0:
        time.sleep(0.001)
    release.set()
    first.result(10)
    release.clear()
    second = pool.submit(hold)
    while admission.stats().at_work == 0:
        time.sleep(0.001)
    with (
        pytest.raises(Overloaded, match=r"0 calls wait already, which takes longer than this one's deadline leaves"),
        admission.turn(remaining_s=lambda: 0.1),
    ):
        raise AssertionError("never started")
    patient = pool.submit(lambda: admission.turn(remaining_s=lambda: 5.0).__enter__())
    wait_until_waiting(admission, 1)
    release.set()
    second.result(10)
    patient.result(10)


def test_an_idle_server_takes_a_call_however_little_time_it_has() -> None:
    admission = Admission(1, AdmissionSettings(max_queue=1))
    with admission.turn(remaining_s=lambda: 1e-6):
        assert admission.stats().at_work == 1
