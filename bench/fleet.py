"""A broker over leaves with one leaf in trouble, and what hedging is worth, on one host.

Eight leaves hold a shard each. Load is an open loop: calls leave at scheduled instants, whatever became of those
before, and latency counts from the instant. In each run one leaf is in trouble for a while: killed and started again,
stopped (SIGSTOP), 10 x slow (its searches wait 10 times a healthy call's median, 50 ms at least), or garbling (scores
cut short). `ejected` is the time from the first call that felt the trouble until the broker's Describe says so, `back`
the time from the end of the trouble (of a killed leaf: from when it listens again) until calls have full coverage for
good. A coverage is exact when it is 1 or the healthy leaves' share of the rows to float32. Hedging: two replicas of
everything, 2 % of the searches delayed by 200 ms, with and without the budget. The last line is one JSON object.

    python -m bench.fleet
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from bench.arguments import MILLISECONDS, RATE, SECONDS, check, parser_of
from bench.data import clustered, clustered_queries
from bench.fleet_processes import BrokerProcess, LeafProcess
from index_builders.build import build
from index_builders.settings import make_settings as make_build
from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb
from retrieval.pb.retrieval.v1 import retrieval_pb2_grpc
from retrieval.serving.config import ServingSettings, make_settings
from retrieval.store import Store

LEAVES, BAD, K, D, SEED = 8, 3, 100, 64, 1
MINIMUM_COVERAGE = 0.8
SPACE = "bench-clustered"
DELAY_S, DELAYED = 0.2, 0.02


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call: when it was due (monotonic seconds), its latency, its coverage or None when it failed, and why."""

    due: float
    ms: float
    coverage: float | None
    error: str = ""


class Load:
    """Calls at a steady rate from a thread, until stopped; `calls` has those that ended."""

    def __init__(self, port: int, rate: float, deadline_s: float, minimum_coverage: float) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.stub = retrieval_pb2_grpc.RetrievalStub(self._channel)  # type: ignore[no-untyped-call, unused-ignore]
        self._requests = [
            pb.SearchRequest(
                query=pb.Query(vector=pb.Vector(values=row, space_id=SPACE)), k=K, minimum_coverage=minimum_coverage
            )
            for row in clustered_queries(256, D, seed=SEED).tolist()
        ]
        self._rate, self._deadline_s = rate, deadline_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.calls: list[Call] = []
        self._sent = 0

    def start(self) -> None:
        """Begin the calls."""
        self._thread.start()

    def stop(self) -> list[Call]:
        """End, wait for what is under way, and give all calls in the order they were due."""
        self._stop.set()
        self._thread.join()
        while len(self.calls) < self._sent:
            time.sleep(0.01)
        self._channel.close()
        return sorted(self.calls, key=lambda call: call.due)

    def _run(self) -> None:
        began = time.monotonic() + 0.1
        for number in itertools.count():
            due = began + number / self._rate
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return
            self._sent += 1
            future = self.stub.Search.future(self._requests[number % 256], timeout=self._deadline_s)
            future.add_done_callback(lambda ended, due=due: self._note(ended, due))

    def _note(self, ended: Any, due: float) -> None:
        ms = (time.monotonic() - due) * 1e3
        try:
            self.calls.append(Call(due=due, ms=ms, coverage=ended.result().sources[0].coverage))
        except grpc.RpcError as error:
            code = error.code().name if isinstance(error, grpc.Call) else "UNKNOWN"
            self.calls.append(Call(due=due, ms=ms, coverage=None, error=code))


def main(arguments: Sequence[str] | None = None) -> None:
    """Build, start the fleet, trouble it, print."""
    parser = parser_of("fleet", __doc__)
    parser.add_argument("--rows", type=int, default=16_000)
    parser.add_argument("--rate", type=float, default=50.0, help="calls per second")
    parser.add_argument("--deadline-ms", type=float, default=300.0)
    parser.add_argument("--trouble-seconds", type=float, default=5.0)
    parser.add_argument("--hedge-seconds", type=float, default=30.0)
    parser.add_argument("--only", choices=("faults", "hedging"))
    chosen = parser.parse_args(arguments)
    check(
        chosen, rows=(1_000, 10**9), rate=RATE, deadline_ms=MILLISECONDS, trouble_seconds=SECONDS, hedge_seconds=SECONDS
    )
    with tempfile.TemporaryDirectory() as scratch:
        store = _build(Path(scratch), chosen.rows)
        figures: dict[str, Any] = {}
        if chosen.only != "hedging":
            figures["faults"] = measure_faults(store, chosen)
        if chosen.only != "faults":
            figures["hedging"] = measure_hedging(store, chosen)
    print(json.dumps({"rows": chosen.rows, "rate": chosen.rate, "deadline_ms": chosen.deadline_ms, **figures}))


def measure_faults(store: Path, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per fault, the healthy fleet first."""
    manifest = Store(store).manifest("pin", Store(store).current("pin"))
    partial = 1 - manifest.shards[BAD].rows / manifest.rows
    print(
        f"{LEAVES} leaves, {chosen.rate:g} calls/s, deadline {chosen.deadline_ms:g} ms, coverage from 0.8", flush=True
    )
    print("fault      calls  succeed %  exact %  partial  p50 ms  p99 ms  max ms  ejected s  back s", flush=True)
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        leaves = _leaves(stack, store, [[number] for number in range(LEAVES)])
        bad = leaves[BAD]
        broker = BrokerProcess(_front(leaves, 0.05))
        stack.callback(broker.stop)
        slow_s = 0.05

        def slow() -> None:
            bad.trouble(delay_s=slow_s)

        faults: list[tuple[str, Callable[[], object], Callable[[], object]]] = [
            ("none", lambda: None, lambda: None),
            ("dead", bad.kill, bad.restart),
            ("stopped", bad.pause, bad.go_on),
            ("slow", slow, bad.trouble),
            ("garbling", lambda: bad.trouble(garbles=True), bad.trouble),
        ]
        for name, begin, end in faults:
            row = _one_fault(name, begin, end, broker.port, partial, f"127.0.0.1:{bad.port}", chosen)
            rows.append(row)
            slow_s = max(0.05, 10 * rows[0]["p50_ms"] / 1e3)
            print(
                f"{name:9} {row['calls']:6} {100 * row['succeed']:10.3f} {100 * row['exact']:8.3f} {row['partial']:8} "
                f"{row['p50_ms']:7.1f} {row['p99_ms']:7.1f} {row['max_ms']:7.1f} {_told(row['ejected_s'])} "
                f"{_told(row['back_s'])[3:]}  {row['errors'] or ''}",
                flush=True,
            )
    return rows


def _leaves(stack: contextlib.ExitStack, store: Path, shards: Sequence[list[int]]) -> list[LeafProcess]:
    """A leaf for each list of shards, serving; they end with the stack."""
    leaves = []
    for each in shards:
        leaves.append(LeafProcess(store, each))
        stack.callback(leaves[-1].kill)
    for leaf in leaves:
        leaf.wait()
    return leaves


def _one_fault(
    name: str,
    begin: Callable[[], object],
    end: Callable[[], object],
    port: int,
    partial: float,
    target: str,
    chosen: argparse.Namespace,
) -> dict[str, Any]:
    warm = Load(port, chosen.rate, 5.0, 0.0)
    warm.start()
    time.sleep(2)
    warm.stop()
    load = Load(port, chosen.rate, chosen.deadline_ms / 1e3, MINIMUM_COVERAGE)
    load.start()
    time.sleep(1)
    begin()
    began = time.monotonic()
    ejected = None
    while time.monotonic() < began + chosen.trouble_seconds:
        states = {leaf.target: leaf.state for leaf in load.stub.Describe(pb.DescribeRequest(), timeout=5).leaves}
        if ejected is None and states[target] == "ejected":
            ejected = time.monotonic()
        time.sleep(0.05)
    end()
    ended = time.monotonic()
    time.sleep(6)
    calls = load.stop()
    felt = [call.due for call in calls if call.due + call.ms / 1e3 > began and call.coverage != 1.0]
    last = max(felt, default=None)  # what came after it was whole
    answered = [call for call in calls if call.coverage is not None]
    exact = [call for call in answered if min(abs(call.coverage - 1), abs(call.coverage - partial)) < 1e-6]  # type: ignore[operator]
    ms = np.array([call.ms for call in calls])
    return {
        "fault": name,
        "calls": len(calls),
        "succeed": len(answered) / len(calls),
        "exact": len(exact) / max(1, len(answered)),
        "partial": sum(call.coverage != 1.0 for call in answered),
        "p50_ms": round(float(np.quantile(ms, 0.5)), 2),
        "p99_ms": round(float(np.quantile(ms, 0.99)), 2),
        "max_ms": round(float(ms.max()), 2),
        "ejected_s": None if ejected is None or not felt else round(max(0.0, ejected - min(felt)), 2),
        "back_s": None if last is None else round(max(0.0, last - ended), 2),
        "errors": {code: sum(call.error == code for call in calls) for code in {call.error for call in calls} - {""}},
    }


@dataclass(frozen=True, kw_only=True)
class Hedged:
    """One run over two replicas."""

    budget: float
    calls: int
    extra_share: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


def measure_hedging(store: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """The same load without and with the budget."""
    runs = list[Hedged]()
    print("\nhedging, 2 replicas, 2 % of searches delayed by 200 ms", flush=True)
    print("budget   calls  extra %  p50 ms  p95 ms  p99 ms", flush=True)
    with contextlib.ExitStack() as stack:
        leaves = _leaves(stack, store, [list(range(LEAVES))] * 2)
        for leaf in leaves:
            leaf.trouble(delay_s=DELAY_S, share=DELAYED)
        for budget in (0.0, 0.05):
            with contextlib.ExitStack() as life:
                broker = BrokerProcess(_front(leaves, budget))
                life.callback(broker.stop)
                runs.append(_hedged(broker, budget, chosen))
    down = round(1 - runs[1].p99_ms / runs[0].p99_ms, 3)
    print(f"p99 down by {100 * down:.1f} %", flush=True)
    return {"runs": [asdict(run) for run in runs], "p99_down": down}


def _hedged(broker: BrokerProcess, budget: float, chosen: argparse.Namespace) -> Hedged:
    for seconds in (3.0, chosen.hedge_seconds):  # the first is a warm-up, of the percentile too
        before = broker.calls()
        load = Load(broker.port, chosen.rate, 5.0, 1.0)
        load.start()
        time.sleep(seconds)
        calls = load.stop()
    first, extra = (after - was for after, was in zip(broker.calls(), before, strict=True))
    p50, p95, p99 = np.quantile([call.ms for call in calls], [0.5, 0.95, 0.99]).tolist()
    print(f"{budget:6.2f} {len(calls):7} {100 * extra / first:8.2f} {p50:7.1f} {p95:7.1f} {p99:7.1f}", flush=True)
    return Hedged(
        budget=budget,
        calls=len(calls),
        extra_share=round(extra / first, 4),
        p50_ms=round(p50, 2),
        p95_ms=round(p95, 2),
        p99_ms=round(p99, 2),
    )


def _front(leaves: Sequence[LeafProcess], budget: float) -> ServingSettings:
    targets = ",".join(f"127.0.0.1:{leaf.port}" for leaf in leaves)
    return make_settings(role="broker", shards=targets, port=0, threads=16, hedge_budget=budget)


def _build(folder: Path, rows: int) -> Path:
    vectors, ids, store = folder / "vectors.npy", folder / "ids.npy", folder / "store"
    np.save(vectors, clustered(rows, D, seed=SEED))
    np.save(ids, np.random.default_rng(SEED).permutation(rows).astype(np.int64) + 10**9)
    build(
        make_build(
            source=vectors,
            ids=ids,
            store=store,
            entity_type="pin",
            space_id=SPACE,
            shards=LEAVES,
            kind="hnsw",
            seed=SEED,
        )
    )
    return store


def _told(seconds: float | None) -> str:
    return f"{'-':>10}" if seconds is None else f"{seconds:10.2f}"


if __name__ == "__main__":
    main()
