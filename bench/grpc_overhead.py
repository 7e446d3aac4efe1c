"""What one vector query over gRPC costs the server beyond the index search, and what the shard pool is worth.

The server runs in a process of its own, whose CPU time is read before and after; the CPU time inside the shards'
`ShardIndex.search` is measured by thread in the same process and taken off. The load (closed loop, raw request bytes)
comes from another process. Rows: a handler that answers constant bytes of the same size (gRPC alone), the service's
handler called in one thread without gRPC, then the service with its shards in sequence and over a pool. Clients and
server share the cores, so queries per second are comparable within one run only.

    python -m bench.grpc_overhead --folder /tmp/overhead
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from rich.console import Console
from rich.table import Table

from bench.arguments import COUNT, DIMS, check, parser_of
from bench.data import clustered, clustered_queries
from index_builders.build import build
from index_builders.settings import make_settings as make_build
from retrieval.params import SearchParams
from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb
from retrieval.serving.config import make_settings
from retrieval.serving.engine import Engine
from retrieval.serving.server import Server
from retrieval.serving.service import RetrievalService
from retrieval.serving.swap.load import load_store
from retrieval.types import F32, Neighbors

K, SEED, QUERIES, WARM_UP = 100, 1, 256, 200
SPACE = "bench-clustered"
METHOD = "/retrieval.v1.Retrieval/Search"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured setting; CPU times are microseconds of the server process per call; without gRPC times are means."""

    what: str
    shard_threads: int
    concurrency: int
    calls: int
    queries_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_us: float
    search_us: float
    beyond_us: float


class SearchClock:
    """CPU nanoseconds that any thread spent inside an index's search."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.total_ns = 0

    def wrap(self, index: Any) -> None:
        """Time the search of `index` from now on."""
        search = index.search

        def timed(xq: F32, k: int, params: SearchParams, **rest: Any) -> Neighbors:
            began = time.thread_time_ns()
            found: Neighbors = search(xq, k, params, **rest)
            spent = time.thread_time_ns() - began
            with self._lock:
                self.total_ns += spent
            return found

        index.search = timed


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the data if need be, measure, print a table and one JSON line."""
    parser = parser_of("grpc", __doc__)
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "retrieval-bench-grpc",
        help="keeps the built store",
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dims", type=int, default=256)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--kind", choices=("hnsw", "ivfpq", "flat"), default="hnsw")
    parser.add_argument("--calls", type=int, default=4_000, help="measured calls per setting")
    parser.add_argument("--shard-threads", type=int, nargs="*", default=[0, 2])
    chosen = parser.parse_args(arguments)
    check(chosen, rows=(1_000, 10**9), dims=DIMS, shards=(1, 256), calls=COUNT, shard_threads=(0, 256))
    store = chosen.folder / f"store-{chosen.kind}-{chosen.rows}-{chosen.dims}-{chosen.shards}"
    if not store.exists():
        _build(chosen, store)
    requests = [
        pb.SearchRequest(query=pb.Query(vector=pb.Vector(values=row, space_id=SPACE)), k=K).SerializeToString()
        for row in clustered_queries(QUERIES, chosen.dims, seed=SEED).tolist()
    ]
    rows: list[Row] = []
    worth: dict[str, Any] = {}
    for what, shard_threads in [("echo", 0), *(("search", each) for each in chosen.shard_threads)]:
        measured, worth = _measure(store, what, shard_threads, requests, chosen.calls)
        rows += measured
    _print(rows, worth, chosen)


def _build(chosen: argparse.Namespace, store: Path) -> None:
    chosen.folder.mkdir(parents=True, exist_ok=True)
    vectors, ids = chosen.folder / "vectors.npy", chosen.folder / "ids.npy"
    np.save(vectors, clustered(chosen.rows, chosen.dims, seed=SEED))
    np.save(ids, np.random.default_rng(SEED).permutation(chosen.rows).astype(np.int64) + 10**9)
    build(
        make_build(
            source=vectors,
            ids=ids,
            store=store,
            entity_type="pin",
            space_id=SPACE,
            shards=chosen.shards,
            kind=chosen.kind,
            seed=SEED,
        )
    )
    vectors.unlink()


def _measure(
    store: Path, what: str, shard_threads: int, requests: list[bytes], calls: int
) -> tuple[list[Row], dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=_serve, args=(there, store, what, shard_threads))
    server.start()
    try:
        port = here.recv()
        rows: list[Row] = []
        worth: dict[str, Any] = {}
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_unary(METHOD, None, None)
            answer = pb.SearchResponse.FromString(call(requests[0], timeout=30))
            if answer.sources:
                source = answer.sources[0]
                effort = {each.name: value for each, value in source.effort.ListFields()}
                worth = {"recall@100": round(source.recall_at_100, 4), "effort": effort}
            if what == "search":
                rows.append(_without_grpc(here, requests, shard_threads))
            for concurrency in (1, 8):
                _load(call, requests, WARM_UP, concurrency)
                began_cpu, began_search = _marks(here)
                began = time.perf_counter_ns()
                latency_ns = _load(call, requests, calls if concurrency > 1 else calls // 4, concurrency)
                seconds = (time.perf_counter_ns() - began) / 1e9
                cpu, search = _marks(here)
                done = len(latency_ns)
                p50, p95, p99 = np.percentile(latency_ns, [50, 95, 99]) / 1e6
                cpu_us, search_us = (cpu - began_cpu) / done / 1e3, (search - began_search) / done / 1e3
                rows.append(
                    Row(
                        what=what,
                        shard_threads=shard_threads,
                        concurrency=concurrency,
                        calls=done,
                        queries_per_s=round(done / seconds, 1),
                        p50_ms=round(float(p50), 3),
                        p95_ms=round(float(p95), 3),
                        p99_ms=round(float(p99), 3),
                        cpu_us=round(cpu_us, 1),
                        search_us=round(search_us, 1),
                        beyond_us=round(cpu_us - search_us, 1),
                    )
                )
        return rows, worth
    finally:
        here.send("stop")
        server.join(20)
        server.kill()


def _without_grpc(here: Connection, requests: list[bytes], shard_threads: int) -> Row:
    here.send(requests)
    began_cpu, began_search = here.recv()
    began = time.perf_counter_ns()
    here.send(requests * 4)
    cpu, search = here.recv()
    calls = 4 * len(requests)
    cpu_us, search_us = (cpu - began_cpu) / calls / 1e3, (search - began_search) / calls / 1e3
    mean_ms = round((time.perf_counter_ns() - began) / calls / 1e6, 3)
    return Row(
        what="no gRPC",
        shard_threads=shard_threads,
        concurrency=1,
        calls=calls,
        queries_per_s=round(1e3 / mean_ms, 1),
        p50_ms=mean_ms,
        p95_ms=mean_ms,
        p99_ms=mean_ms,
        cpu_us=round(cpu_us, 1),
        search_us=round(search_us, 1),
        beyond_us=round(cpu_us - search_us, 1),
    )


def _marks(here: Connection) -> tuple[int, int]:
    here.send("mark")
    cpu_ns, search_ns = here.recv()
    return cpu_ns, search_ns


def _load(call: Any, requests: list[bytes], calls: int, concurrency: int) -> list[int]:
    def one(number: int) -> int:
        began = time.perf_counter_ns()
        call(requests[number % len(requests)], timeout=30)
        return time.perf_counter_ns() - began

    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(one, range(calls)))


def _serve(pipe: Connection, store: Path, what: str, shard_threads: int) -> None:
    clock = SearchClock()
    handler: Any = None
    if what == "echo":
        server, port = _echo_server()
    else:
        settings = make_settings(store=store, port=0, threads=8, shard_threads=shard_threads)
        served = load_store(settings)
        for each in served.values():
            for shard in each.shards:
                clock.wrap(shard._index)  # type: ignore[attr-defined]
        engine = Engine(served, shard_threads=shard_threads)
        service = RetrievalService(engine, max_answer_bytes=settings.max_answer_bytes)
        generic: Any = service.generic_handler()
        handler = generic.service(_Details()).unary_unary
        ours = Server(engine, settings)
        server, port = ours, ours.start()
    pipe.send(port)
    while (asked := pipe.recv()) != "stop":
        if asked != "mark":
            for request in asked:
                handler(request, _Caller())
        pipe.send((time.process_time_ns(), clock.total_ns))
    server.stop(0).wait()


class _Caller:
    """A caller that waits as long as it takes, for calls without gRPC."""

    def time_remaining(self) -> None:
        """No deadline."""

    def is_active(self) -> bool:
        """Still there."""
        return True


class _Details:
    """What a generic handler is asked with."""

    method = METHOD
    invocation_metadata = ()


def _echo_server() -> tuple[Any, int]:
    answer = pb.SearchResponse(
        candidates=[pb.Candidates(int64_ids=range(10**9, 10**9 + K), scores=[0.5] * K)]
    ).SerializeToString()
    server = grpc.server(ThreadPoolExecutor(8))
    handler = grpc.unary_unary_rpc_method_handler(lambda data, context: answer)
    service, method = METHOD[1:].split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def _print(rows: list[Row], worth: dict[str, Any], chosen: argparse.Namespace) -> None:
    table = Table(title=f"{chosen.rows:,} x {chosen.dims}, {chosen.shards} {chosen.kind} shards, k = {K}, {worth}")
    for name in asdict(rows[0]):
        table.add_column(name, justify="left" if name == "what" else "right")
    for row in rows:
        table.add_row(*(str(value) for value in asdict(row).values()))
    Console(width=160).print(table)
    at_load = next(row for row in rows if row.what == "search" and row.concurrency == 8)
    print(
        json.dumps(
            {
                "bench": "grpc_overhead",
                "beyond_search_us": at_load.beyond_us,
                "rows": [asdict(row) for row in rows],
                **worth,
                "data": {"rows": chosen.rows, "d": chosen.dims, "shards": chosen.shards, "kind": chosen.kind},
                "machine": {
                    "cores": os.cpu_count(),
                    "load_1m": os.getloadavg()[0],
                    "python": platform.python_version(),
                },
            }
        )
    )


if __name__ == "__main__":
    main()
