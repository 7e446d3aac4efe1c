"""Hot swaps under load: generations published one after another while calls come at a steady rate.

Builds --generations generations of different vectors and ids, serves them with `retrieval serve`, asks each generation
for the answers to all queries beforehand, then moves CURRENT from one to the next --swaps times. Judged are every call
(none may fail), every answer (exactly what the generation it names answers, so that none mixes two), p99 while swapping
beside p99 before and after in the same run, and the peak of memory beside the steady one. The probing child counts as
the server's memory. The last line is one JSON object.

    python -m bench.swaps --rows 50000 --swaps 100
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.arguments import COUNT, DIMS, RATE, SECONDS, check, parser_of
from bench.data import clustered, clustered_queries
from bench.load_store import ServerProcess
from bench.swaps_load import Call, Load
from bench.swaps_memory import Memory
from index_builders.build import build
from index_builders.settings import make_settings
from retrieval.client import RetrievalClient, Vector
from retrieval.errors import Unavailable
from retrieval.params import MAX_K
from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb
from retrieval.store import Store

_TYPE, _SPACE = "pin", "bench-swaps"
_AFTER_S = 0.3  # after a swap in which its calls still count to it: they touch pages first
_TAKEN_S = 120.0  # a swap that takes longer has failed


def main(arguments: Sequence[str] | None = None) -> None:
    """Build, serve, load, swap, print."""
    chosen = _parser().parse_args(arguments)
    check(chosen, rows=(1_000, 10**9), dims=DIMS, shards=(1, 256), generations=(2, 100), swaps=COUNT, k=(1, MAX_K))
    check(chosen, pause=SECONDS, rate=RATE, queries=COUNT, steady=SECONDS, deadline=SECONDS, poll=SECONDS)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = chosen.store or scratch / "store"
        names = _build(store, chosen, scratch)
        shard_bytes = _largest_shard(Store(store), names)
        print(
            f"{len(names)} generations of {chosen.rows:,} x {chosen.dims} {chosen.kind} in {chosen.shards} shards, the "
            f"largest {shard_bytes / 2**20:.1f} MiB; {os.cpu_count()} cores, load average {os.getloadavg()[0]:.2f}",
            flush=True,
        )
        queries = clustered_queries(chosen.queries, chosen.dims, seed=1)
        server = ServerProcess(store, workers=1, settings=(f"follow.poll_seconds={chosen.poll}", *chosen.settings))
        stack.callback(server.stop)
        client = stack.enter_context(RetrievalClient(server.target, timeout_s=10))
        publisher = _Publisher(Store(store), client)
        requests = [_request(query, chosen.k) for query in queries]
        truth = {}
        for name in names:  # also warms every generation's pages up once
            publisher.move(name)
            truth[name] = [_ids(client, query, chosen.k) for query in queries]
        load = Load(server.target, requests, rate=chosen.rate, deadline_s=chosen.deadline)
        stack.callback(load.close)
        figures = _measure(chosen, publisher, load, server.pid, names, truth, shard_bytes)
    print(json.dumps(figures), flush=True)


def _measure(
    chosen: argparse.Namespace,
    publisher: _Publisher,
    load: Load,
    pid: int,
    names: Sequence[str],
    truth: dict[str, list[tuple[int, ...]]],
    shard_bytes: int,
) -> dict[str, Any]:
    def steady() -> list[Call]:
        load.begin()
        time.sleep(chosen.steady)
        return load.end()

    steady()  # connections and branches of the first calls
    memory = Memory(pid)
    before = steady()
    rest = memory.take()
    load.begin()
    took, windows = [], []
    with memory.watching():
        for number in range(chosen.swaps):
            began = time.monotonic()
            took.append(publisher.move(names[number % len(names)]))
            windows.append((began, time.monotonic() + _AFTER_S))
            time.sleep(chosen.pause)
            print(f"\rswap {number + 1} of {chosen.swaps}, {took[-1]:.1f} s", end="", flush=True)
    print()
    during = load.end()
    after = steady()
    calm = _p(np.array([each.latency_ms for each in before + after]))
    busy = _p(np.array([each.latency_ms for each in during]))
    calls = [*before, *during, *after]
    failed = [each.status for each in calls if each.status != "OK"]
    mixed = [each for each in calls if each.status == "OK" and each.ids != truth[each.generation][each.request]]
    partial = [each for each in calls if each.status == "OK" and each.coverage < 1]
    print("                calls   p50 ms   p95 ms   p99 ms")
    swapping = [any(began <= each.due_s <= ended for began, ended in windows) for each in during]
    inside = [each for each, within in zip(during, swapping, strict=True) if within]
    between = [each for each, within in zip(during, swapping, strict=True) if not within]
    rows = (("steady", before + after), ("while swapping", during), (" in a swap", inside), (" between", between))
    for title, part in rows:
        p50, p95, p99 = _p(np.array([each.latency_ms for each in part] or [np.nan]))
        print(f"{title:15}{len(part):6,} {p50:8.2f} {p95:8.2f} {p99:8.2f}")
    apart = [_p(np.array([each.latency_ms for each in part] or [np.nan]))[2] for part in (inside, between)]
    print(f"p99 while swapping / steady: {busy[2] / calm[2]:.2f}; in a swap / between: {apart[0] / apart[1]:.2f}")
    why = "".join(f" {status} x {count}" for status, count in Counter(failed).items())
    print(f"failed {len(failed)}{why}, mixed or wrong {len(mixed)}, partial {len(partial)} of {len(calls):,} calls")
    print(f"a swap took {np.median(took):.2f} s, at most {max(took):.2f} s from publishing to serving")
    print("memory MiB      anonymous   file pages   + child")
    told = (("steady", rest), ("peak", memory.peak))
    for title, at in told:
        print(f"{title:15}{at.anonymous / 2**20:10.1f} {at.files / 2**20:12.1f} {at.child / 2**20:9.1f}")
    extra = memory.peak.anonymous - rest.anonymous
    print(
        f"anonymous memory at the peak above steady: {extra / shard_bytes:.2f} of the largest shard; the child's own "
        f"{memory.peak.child_anonymous / 2**20:.1f} MiB"
    )
    return {
        "swaps": chosen.swaps,
        "rows": chosen.rows,
        "kind": chosen.kind,
        "shards": chosen.shards,
        "rate": chosen.rate,
        "calls": len(calls),
        "failed": len(failed),
        "mixed": len(mixed),
        "partial": len(partial),
        "steady_ms": calm,
        "swapping_ms": busy,
        "p99_in_a_swap_ms": apart[0],
        "p99_between_ms": apart[1],
        "p99_ratio": busy[2] / calm[2],
        "lag_p99_ms": _p(np.array([each.lag_ms for each in during]))[2],
        "swap_s": float(np.median(took)),
        "largest_shard_bytes": shard_bytes,
        "memory": {title: vars(at) for title, at in told},
        "extra_shards": extra / shard_bytes,
    }


class _Publisher:
    """Moves CURRENT and waits until the server has followed."""

    def __init__(self, store: Store, client: RetrievalClient) -> None:
        self._store, self._client = store, client

    def move(self, name: str) -> float:
        """Seconds from publishing to serving. Unavailable when the server does not follow, with its reason."""
        began = time.monotonic()
        self._store.publish(_TYPE, name)
        while True:
            (state,) = self._client.describe().following
            if state.generation == name:
                return time.monotonic() - began
            if state.quarantined or time.monotonic() - began > _TAKEN_S:
                why = state.quarantined or state.trouble or f"no answer in {_TAKEN_S:g} s"
                raise Unavailable(f"the server does not take up {name}: {why}")
            time.sleep(0.05)


def _build(store: Path, chosen: argparse.Namespace, scratch: Path) -> list[str]:
    for number in range(chosen.generations):
        if store.exists() and len(Store(store).generations(_TYPE)) > number:
            continue
        vectors, ids = scratch / "vectors.npy", scratch / "ids.npy"
        np.save(vectors, clustered(chosen.rows, chosen.dims, seed=1 + number))
        np.save(ids, np.arange(chosen.rows, dtype=np.int64) * chosen.generations + number)
        build(
            make_settings(
                source=vectors, ids=ids, store=store, entity_type=_TYPE, space_id=_SPACE, shards=chosen.shards,
                kind=chosen.kind, seed=1, verify_queries=100,
            )
        )  # fmt: skip
    return Store(store).generations(_TYPE)[: chosen.generations]


def _request(query: np.ndarray[Any, Any], k: int) -> bytes:
    vector = pb.Vector(values=query.tolist(), space_id=_SPACE)
    return pb.SearchRequest(query=pb.Query(vector=vector), k=k).SerializeToString()


def _ids(client: RetrievalClient, query: np.ndarray[Any, Any], k: int) -> tuple[int, ...]:
    return tuple(int(each) for each in client.search(Vector(values=query, space_id=_SPACE), k=k).candidates[0].ids)


def _largest_shard(store: Store, names: Sequence[str]) -> int:
    sizes: dict[tuple[str, str], int] = {}
    for name in names:
        for file, entry in store.manifest(_TYPE, name).files.items():
            if "/" in file:
                key = (name, file.split("/")[0])
                sizes[key] = sizes.get(key, 0) + entry.size_bytes
    return max(sizes.values())


def _p(latencies: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    p50, p95, p99 = np.quantile(latencies, [0.5, 0.95, 0.99]).tolist()
    return p50, p95, p99


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("swaps", __doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dims", type=int, default=128)
    parser.add_argument("--kind", default="hnsw", help="flat, hnsw or ivfpq")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument(
        "--generations", type=int, default=3, help="that take turns; with two, one is always kept loaded"
    )
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds from a swap to the next")
    parser.add_argument("--rate", type=float, default=150.0, help="calls a second")
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--steady", type=float, default=20.0, help="seconds of load before and after the swaps")
    parser.add_argument("--deadline", type=float, default=2.0, help="seconds that a call waits for its answer")
    parser.add_argument("--poll", type=float, default=0.2, help="seconds between the server's looks at CURRENT")
    parser.add_argument("--store", type=Path, help="folder to build in, and to use again")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE")
    return parser


if __name__ == "__main__":
    main()
