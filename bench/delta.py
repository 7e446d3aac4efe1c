"""Fresh entities under load: durable writes a second over gRPC, and searches beside them.

A server with --workers processes serves --rows clustered vectors. First searches come alone, then beside a steady rate
of upserts (--rate entities a second in calls of --batch, packed before the time counts and sent by another process, for
the callers share the server's cores) and, to tell what the calls themselves cost, beside as many that ask for nothing
(Describe), all in the same run, then as many upserts as go through: from --writers
callers in batches, and one entity a call. Last, how long after its answer a write is found in the other processes. The
last line is one JSON object.

    python -m bench.delta --rows 100000
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from bench.arguments import COUNT, DIMS, RATE, ROWS, SECONDS, THREADS, check, parser_of
from bench.data import clustered, clustered_queries
from bench.load_store import ENTITY_TYPE, SPACE, ServerProcess, make_store
from retrieval.client import RetrievalClient, Vector, messages
from retrieval.errors import RetrievalError
from retrieval.types import F32

_FIRST_ID = 10**12


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve, write, search, print."""
    chosen = _parser().parse_args(arguments)
    check(chosen, rows=ROWS, dims=DIMS, rate=RATE, batch=COUNT, writers=THREADS, seconds=SECONDS, workers=THREADS)
    with contextlib.ExitStack() as stack:
        store = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "store"
        make_store(store, rows=chosen.rows, d=chosen.dims, kind="hnsw", shards=1, space_id=SPACE)
        settings = [f"delta.fsync={chosen.fsync}", "delta.max_entities=5000000"]
        server = ServerProcess(store, workers=chosen.workers, settings=settings)
        stack.callback(server.stop)
        client = stack.enter_context(RetrievalClient(server.target, timeout_s=30, connections=4 * chosen.workers))
        vectors = clustered(20_000, chosen.dims, seed=77)
        queries = clustered_queries(1_000, chosen.dims, seed=1)
        _searches(client, queries, 1.0)  # warm
        print(f"{chosen.rows:,} x {chosen.dims} hnsw, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.2f}")
        idle = _searches(client, queries, chosen.seconds)
        with _calling_apart(server.target, chosen, writing=False) as called:
            empty = _searches(client, queries, chosen.seconds)
            called()
        with _calling_apart(server.target, chosen, writing=True) as called:
            beside = _searches(client, queries, chosen.seconds)
            wrote = called() * chosen.batch
        figures: dict[str, Any] = {
            "idle_p50_ms": _ms(idle, 50),
            "idle_p99_ms": _ms(idle, 99),
            "empty_calls_p50_ms": _ms(empty, 50),
            "empty_calls_p99_ms": _ms(empty, 99),
            "writing_p50_ms": _ms(beside, 50),
            "writing_p99_ms": _ms(beside, 99),
            "written_per_s": round(wrote / chosen.seconds, 1),
        }
        figures["p99_ratio"] = round(figures["writing_p99_ms"] / figures["idle_p99_ms"], 2)
        figures["empty_calls_p99_ratio"] = round(figures["empty_calls_p99_ms"] / figures["idle_p99_ms"], 2)
        figures["batched_per_s"] = _most(client, vectors, chosen.batch, chosen.writers, chosen.seconds)
        figures["single_per_s"] = _most(client, vectors, 1, 4 * chosen.writers, chosen.seconds)
        figures["seen_after_ms"] = _seen_after(client, vectors, chosen.workers)
        state = client.describe().delta[0]
    print(
        f"searches alone p50 {figures['idle_p50_ms']} p99 {figures['idle_p99_ms']} ms\n"
        f"beside as many empty calls p50 {figures['empty_calls_p50_ms']} p99 {figures['empty_calls_p99_ms']} ms "
        f"({figures['empty_calls_p99_ratio']} x)\n"
        f"beside {figures['written_per_s']:,.0f} upserts/s p50 {figures['writing_p50_ms']} p99 "
        f"{figures['writing_p99_ms']} ms ({figures['p99_ratio']} x)\n"
        f"upserts/s with fsync {chosen.fsync}: {figures['batched_per_s']:,.0f} in calls of "
        f"{chosen.batch}, {figures['single_per_s']:,.0f} one a call; a write is found by every worker after at most "
        f"{figures['seen_after_ms']} ms; {state.position:,} writes in all"
    )
    print(json.dumps({**figures, "rows": chosen.rows, "d": chosen.dims, "fsync": chosen.fsync, "batch": chosen.batch}))


class _Writing:
    """Upserts of new and of known entities in turn."""

    def __init__(self, client: RetrievalClient, vectors: F32, batch: int, *, first: int = 0) -> None:
        self._client, self._vectors, self._batch = client, vectors, batch
        self._next = first
        self.written = 0

    def call(self) -> None:
        """One call."""
        rows = np.arange(self._next, self._next + self._batch)
        self._client.upsert(
            ENTITY_TYPE, _FIRST_ID + rows % 50_000, self._vectors[rows % len(self._vectors)], space_id=SPACE
        )
        self._next += self._batch
        self.written += self._batch

    def until(self, end: float) -> None:
        """As many as go through."""
        while time.perf_counter() < end:
            self.call()


@contextlib.contextmanager
def _calling_apart(target: str, chosen: argparse.Namespace, *, writing: bool) -> Iterator[Callable[[], int]]:
    """Calls at the rate from another process; the function waits for their end and gives their number."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_call_steadily, args=(there, target, chosen, writing), daemon=True)
    process.start()
    try:
        here.recv()  # connected
        here.send("begin")
        yield here.recv
    finally:
        process.join(10)
        process.kill()


def _call_steadily(pipe: Connection, target: str, chosen: argparse.Namespace, writing: bool) -> None:
    requests = list(_packed(chosen)) if writing else [b""] * int(chosen.rate * chosen.seconds / chosen.batch)
    with grpc.insecure_channel(target) as channel:
        method = "/retrieval.v1.Retrieval/" + ("Upsert" if writing else "Describe")
        call = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
        grpc.channel_ready_future(channel).result(timeout=30)
        pipe.send("ready")
        pipe.recv()
        began = time.perf_counter()
        for number, request in enumerate(requests):  # at even instants
            time.sleep(max(0.0, began + number * chosen.batch / chosen.rate - time.perf_counter()))
            call(request, timeout=30)
        pipe.send(len(requests))


def _packed(chosen: argparse.Namespace) -> Iterator[bytes]:
    vectors = clustered(20_000, chosen.dims, seed=77)
    for first in range(0, int(chosen.rate * chosen.seconds), chosen.batch):
        rows = np.arange(first, first + chosen.batch)
        ids = _FIRST_ID + rows % 50_000
        request = messages.write_upsert(ENTITY_TYPE, ids, vectors[rows % len(vectors)], SPACE, None)
        yield request.SerializeToString()


def _most(client: RetrievalClient, vectors: F32, batch: int, writers: int, seconds: float) -> float:
    writings = [_Writing(client, vectors, batch, first=number * 10_000) for number in range(writers)]
    end = time.perf_counter() + seconds
    threads = [threading.Thread(target=each.until, args=(end,)) for each in writings]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return round(sum(each.written for each in writings) / (time.perf_counter() - began), 1)


def _searches(client: RetrievalClient, queries: F32, seconds: float) -> list[float]:
    """Seconds of each search, one after another."""
    took: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        query = Vector(values=queries[len(took) % len(queries)], space_id=SPACE)
        began = time.perf_counter()
        client.search(query, k=100)
        took.append(time.perf_counter() - began)
    return took


def _seen_after(client: RetrievalClient, vectors: F32, workers: int) -> float:
    """Milliseconds after its answer until a new entity was found over every connection, the worst of ten."""
    worst = 0.0
    for number in range(10):
        id_ = 2 * _FIRST_ID + number
        query = Vector(values=vectors[number], space_id=SPACE)
        client.upsert(ENTITY_TYPE, [id_], vectors[number : number + 1], space_id=SPACE)
        began, found = time.perf_counter(), 0
        while found < 4 * workers:  # the connections are asked in turn, and a worker has some of them
            try:
                seen = bool(client.score(query, ENTITY_TYPE, [id_]).found[0])
            except RetrievalError:
                seen = False
            found = found + 1 if seen else 0
            if not seen:
                worst = max(worst, time.perf_counter() - began)
    return round(1e3 * worst, 1)


def _ms(seconds: list[float], percentile: float) -> float:
    return round(1e3 * float(np.percentile(seconds, percentile)), 3)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("delta", __doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dims", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--fsync", choices=("each", "batch", "none"), default="batch")
    parser.add_argument("--rate", type=float, default=2_000.0, help="entities a second beside the searches")
    parser.add_argument("--batch", type=int, default=50, help="entities in a call")
    parser.add_argument("--writers", type=int, default=2, help="callers at once where as many go through as can")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    return parser


if __name__ == "__main__":
    main()
