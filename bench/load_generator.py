"""The process that sends: serialised requests at their instants over several connections, answers kept as bytes.

It runs apart from server and judge, so that nobody else's interpreter lock delays a call, and it watches itself: how
late each call left, and the CPU time that sending took. Answers are read after the last one came. A connection of its
own per channel, because one connection stays with one worker of a server. Knows nothing about rates or verdicts.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from retrieval.errors import Unavailable
from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb

_SERVICE = "/retrieval.v1.Retrieval/"
CONNECT_S = 10.0
_LEAD_S = 0.05  # from the order to the first call
_SPIN_S = 0.00006  # a sleep ends about this much too late
_MOST_THREADS = 512
_PRIORITY = 1  # the lowest of the real-time ones

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a load, element i of each array for call i, in the order the calls were due.

    latency_ns, lag_ns: int64 [n], from the instant the call was due until its answer came, and until it was sent;
    status: names of gRPC codes; coverage: float64 [n], least of the answer's entity types, NaN without an answer;
    degraded: bool [n]; stage_ns: name -> int64 [answers] from the answers; effort, recall_at_100: as the first answer
    says; cpu_s, wall_s: of the sending process while it sent.
    """

    due_ns: I64
    latency_ns: I64
    lag_ns: I64
    status: npt.NDArray[np.str_]
    coverage: npt.NDArray[np.float64]
    degraded: npt.NDArray[np.bool_]
    stage_ns: dict[str, I64]
    effort: str
    recall_at_100: float | None
    cpu_s: float
    wall_s: float


class Generator:
    """A sending process with its connections to one target. Raises Unavailable when the target does not answer.

    batches: the requests are of SearchBatch; what an answer is worth is then the least of its answers, and its stages
    are those of the whole call.
    realtime: it goes before all other work of the machine, so that its calls leave in time where others are busy.
    """

    def __init__(
        self,
        target: str,
        requests: Sequence[bytes],
        *,
        connections: int,
        batches: bool = False,
        realtime: bool = False,
        patience_s: float = CONNECT_S,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(there, target, list(requests), connections, batches, realtime, patience_s),
            daemon=True,
        )
        self._process.start()
        there.close()
        if (sentence := self._receive()) is not None:
            self.close()
            raise Unavailable(sentence)

    def send(self, due_ns: I64, which: I64, deadline_s: float) -> Outcome:
        """Send request which[i] at due_ns[i]; returns when every call has ended."""
        self._pipe.send((due_ns, which, deadline_s))
        outcome: Outcome = self._receive()
        return outcome

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except EOFError:
            raise Unavailable("the process that sends the load ended: it may have been killed for its memory") from None

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(10)
        self._process.kill()
        self._pipe.close()


def _serve(
    pipe: Connection,
    target: str,
    requests: list[bytes],
    connections: int,
    batches: bool,
    realtime: bool,
    patience_s: float,
) -> None:
    sys.setswitchinterval(1e-4)  # the thread that sends must not wait 5 ms for those that receive
    if realtime and (refused := _hurry()):
        pipe.send(refused)
        return
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    channels = [grpc.insecure_channel(target, options=options) for _ in range(connections)]
    try:
        for channel in channels:
            grpc.channel_ready_future(channel).result(timeout=patience_s)
    except grpc.FutureTimeoutError:
        pipe.send(f"no server answers at {target} within {patience_s:g} s: start one, or give its host:port")
        return
    pipe.send(None)
    method = _SERVICE + ("SearchBatch" if batches else "Search")
    calls = [channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes) for channel in channels]
    while (order := pipe.recv()) is not None:
        pipe.send(_load(calls, requests, batches, *order))


def _hurry() -> str:
    # before gRPC starts its threads, which take it over
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    except (AttributeError, PermissionError) as error:
        return f"the sender cannot have real-time priority here ({error}): leave out --realtime, or allow it"
    return ""


def _load(
    calls: list[Any], requests: list[bytes], batches: bool, due_ns: I64, which: I64, deadline_s: float
) -> Outcome:
    began_ns = time.perf_counter_ns() + int(_LEAD_S * 1e9)
    sending = _Sending(calls, [requests[request] for request in which.tolist()], due_ns + began_ns, deadline_s)
    cpu = time.process_time()
    # as many as may wait for answers at once, since each waits for one
    most = np.searchsorted(due_ns, due_ns + int(2 * deadline_s * 1e9)) - np.arange(len(due_ns))
    threads = [threading.Thread(target=sending.run) for _ in range(min(_MOST_THREADS, 2 + int(most.max())))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall_s, cpu_s = (time.perf_counter_ns() - began_ns) / 1e9, time.process_time() - cpu
    return _read(sending, batches, due_ns, began_ns, cpu_s, wall_s)


class _Sending:
    """One load: its threads take the calls in order, each sends at its instant and waits for its answer.

    A waiting call costs gRPC for Python a third of what a future with a callback does, which needs a thread of its own
    to be called. Whoever holds the lock waits for the next instant; when every thread waits for an answer the next call
    leaves late, and the lag tells it.
    """

    def __init__(self, calls: list[Any], requests: list[bytes], due_ns: I64, deadline_s: float) -> None:
        n = len(requests)
        self.sent_ns, self.ended_ns = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.status, self.answers = [""] * n, list[bytes | None]([None] * n)
        self._calls, self._deadline_s = calls, deadline_s
        self._next = iter(enumerate(zip(due_ns.tolist(), requests, strict=True)))
        self._lock = threading.Lock()

    def run(self) -> None:
        """Send until no call is left."""
        while True:
            with self._lock:
                found = next(self._next, None)
                if found is None:
                    return
                number, (due, request) = found
                _sleep_until(due)
            self.sent_ns[number] = time.perf_counter_ns()
            try:
                self.answers[number] = self._calls[number % len(self._calls)](request, timeout=self._deadline_s)
                self.status[number] = "OK"
            except grpc.RpcError as error:
                self.status[number] = error.code().name
            self.ended_ns[number] = time.perf_counter_ns()


def _sleep_until(due_ns: int) -> None:
    while (wait_s := (due_ns - time.perf_counter_ns()) / 1e9) > 0:
        time.sleep(wait_s - _SPIN_S if wait_s > _SPIN_S else 0)


def _read(sending: _Sending, batches: bool, due_ns: I64, began_ns: int, cpu_s: float, wall_s: float) -> Outcome:
    sent_ns, ended_ns = sending.sent_ns - began_ns, sending.ended_ns - began_ns
    coverage = np.full(len(due_ns), np.nan)
    degraded = np.zeros(len(due_ns), bool)
    stages: dict[str, list[int]] = {"encode": [], "search": [], "merge": [], "total": []}
    effort, recall = "", None
    for number, data in enumerate(sending.answers):
        if data is None:
            continue
        answers = pb.SearchBatchResponse.FromString(data).responses if batches else [pb.SearchResponse.FromString(data)]
        sources = [source for each in answers for source in each.sources]
        coverage[number] = min((source.coverage for source in sources), default=0.0)
        degraded[number] = any(source.degraded for source in sources)
        for name, values in stages.items():
            values.append(getattr(answers[0].timings, f"{name}_ns"))
        if not effort and sources:
            first = sources[0]
            effort = str(first.effort).strip().replace("\n", ", ")
            recall = first.recall_at_100 if first.HasField("recall_at_100") else None
    return Outcome(
        due_ns=due_ns,
        latency_ns=ended_ns - due_ns,
        lag_ns=sent_ns - due_ns,
        status=np.array(sending.status),
        coverage=coverage,
        degraded=degraded,
        stage_ns={name: np.array(values, np.int64) for name, values in stages.items()},
        effort=effort,
        recall_at_100=recall,
        cpu_s=cpu_s,
        wall_s=wall_s,
    )
