"""A process that searches at scheduled instants until it is told to stop, and remembers what every answer said.

It runs apart from the server and from what publishes, so that neither's interpreter lock delays a call. Latency counts
from the instant a call was due. Knows nothing about swaps or what an answer should be.
"""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import grpc

from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb

_METHOD = "/retrieval.v1.Retrieval/Search"
_THREADS = 16
_SPIN_S = 0.00006  # a sleep ends about this much too late


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call: which request, when it was due (seconds of the monotonic clock), what it took, what came back."""

    request: int
    due_s: float
    latency_ms: float
    lag_ms: float  # of that, until it was sent
    status: str  # gRPC code by name
    generation: str
    coverage: float
    ids: tuple[int, ...]


class Load:
    """`rate` calls a second at a constant pace, the requests in turn, from `begin` to `end`."""

    def __init__(self, target: str, requests: Sequence[bytes], *, rate: float, deadline_s: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(there, target, list(requests), rate, deadline_s), daemon=True
        )
        self._process.start()
        there.close()

    def begin(self) -> None:
        """Start to send; returns when the connections are open."""
        self._pipe.send("begin")
        self._pipe.recv()

    def end(self) -> list[Call]:
        """Stop sending; every call since `begin`, in the order they were due."""
        self._pipe.send("end")
        calls: list[Call] = self._pipe.recv()
        return calls

    def close(self) -> None:
        """End the process."""
        self._pipe.send("close")
        self._process.join(10)
        self._process.kill()


def _serve(pipe: Connection, target: str, requests: list[bytes], rate: float, deadline_s: float) -> None:
    sys.setswitchinterval(1e-4)
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(target, options=options) for _ in range(4)]
    for channel in channels:
        grpc.channel_ready_future(channel).result(timeout=30)
    calls = [
        channel.unary_unary(_METHOD, request_serializer=bytes, response_deserializer=bytes) for channel in channels
    ]
    while pipe.recv() == "begin":
        sending = _Sending(calls, requests, rate, deadline_s)
        pipe.send("begun")
        pipe.recv()
        pipe.send(sending.stop())


class _Sending:
    def __init__(self, calls: list[Any], requests: list[bytes], rate: float, deadline_s: float) -> None:
        self._calls, self._requests, self._gap, self._deadline_s = calls, requests, 1 / rate, deadline_s
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._number, self._start = 0, time.monotonic() + 0.05
        self._raw: list[tuple[int, float, float, float, str, bytes]] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(_THREADS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[Call]:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        return [_read(raw, len(self._requests)) for raw in sorted(self._raw)]

    def _run(self) -> None:
        while True:
            with self._lock:  # whoever holds it waits for the next instant
                if self._stopped.is_set():
                    return
                number = self._number
                self._number += 1
                due = self._start + number * self._gap
                while (wait := due - time.monotonic()) > 0:
                    time.sleep(wait - _SPIN_S if wait > _SPIN_S else 0)
            sent, status, data = time.monotonic(), "OK", b""
            try:
                call = self._calls[number % len(self._calls)]
                data = call(self._requests[number % len(self._requests)], timeout=self._deadline_s)
            except grpc.RpcError as error:
                status = error.code().name
            ended = time.monotonic()
            self._raw.append((number, due, sent, ended, status, data))


def _read(raw: tuple[int, float, float, float, str, bytes], requests: int) -> Call:
    number, due, sent, ended, status, data = raw
    answer = pb.SearchResponse.FromString(data)
    source = answer.sources[0] if answer.sources else pb.Source()
    return Call(
        request=number % requests,
        due_s=due,
        latency_ms=(ended - due) * 1e3,
        lag_ms=(sent - due) * 1e3,
        status=status,
        generation=source.generation,
        coverage=source.coverage,
        ids=tuple(answer.candidates[0].int64_ids) if answer.candidates else (),
    )
