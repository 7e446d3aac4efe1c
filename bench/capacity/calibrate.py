"""The costs of this machine, measured in about a minute against real servers and the real tower.

CPU time, not wall time, wherever work is meant, and the least of several rounds: what other programs do to a
processor's caches and clock only adds. Search: thread time of one search after another in shards of several sizes, at
the effort that the generation's default stands for. Calls: CPU time of the processes of leaves and brokers under an
open load; a leaf with one shard and one with all tell a call from a search, a broker over one leaf and one over
several tell a request from a call to a leaf. What the processes use when nobody calls is taken off. What the median
latency has beyond all CPU time of a call is the hops; they are 0 where the two ends work side by side. Encoding: thread
time of the tower for batches of 1 and 32.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.capacity.costs import Costs
from bench.capacity.fleet_load import send
from bench.capacity.fleet_servers import FleetServers, fleet_servers
from bench.data import clustered_queries
from bench.fleet_processes import open_part
from bench.load_generator import Generator
from bench.load_queries import describe, texts_of, vector_requests
from bench.load_store import ENTITY_TYPE, SEED, ServerProcess
from bench.recall_latency.machine import machine
from retrieval.params import SEARCH_PARAMS, SearchParams, make_params
from retrieval.serving.text.path import TextPath
from retrieval.serving.text.settings import EncodeSettings
from retrieval.store import Manifest, Store
from retrieval.towers.checkpoint import write_checkpoint
from retrieval.towers.pretrained import load_default
from retrieval.towers.projection import fit_projection
from retrieval.towers.query import QueryTower

K, QUERIES, WARM_UP, ROUNDS = 100, 400, 100, 3
LEAVES, RATE = 4, 100.0  # calls a second, which a core or two keep with room
_BATCH, _BATCHES = 32, 12
_IDLE_S = 5.0
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class _Calls:
    """Of one load, microseconds a call: median latency; CPU time of the sender, of the server and of each leaf."""

    wall_us: float
    sender_us: float
    server_us: float
    leaf_us: float


def calibrate(stores: Sequence[Path], checkpoint: Path | None, calls: int, say: Say) -> Costs:
    """Measure; the first store has 4 shards or more, which leaves of the fleet hold, all of them tell of search.

    Raises what opening stores and starting servers raises.
    """
    points, cvs, recalls, row_bytes = [], [], [], []
    for store in stores:
        rows, us, cv = measure_search(store)
        say(f"search in {rows:,} rows: {us:.0f} us of CPU, cv {cv:.2f}")
        points.append((rows, round(us, 1)))
        cvs.append(cv)
        manifest = _manifest(store)
        row_bytes.append(sum(each.size_bytes for each in manifest.files.values()) / manifest.rows)
        recalls += _recalls(manifest)
    with fleet_servers(stores[0]) as fleet:
        few, many = measure_calls(fleet, _manifest(stores[0]), calls)
    numbers = len(_manifest(stores[0]).shards)
    # the leaf with all shards beside those with a part: the difference is search alone
    share = numbers / LEAVES
    search_us = (few.leaf_us - many.leaf_us) / (numbers - share)
    broker_leaf_us = max(0.0, (many.server_us - few.server_us) / (LEAVES - 1))
    hop_us = max(0.0, few.wall_us - few.sender_us - few.server_us - few.leaf_us) / 2
    say(f"calls at {RATE:g}/s, us: broker over 1 leaf {few}, over {LEAVES} {many}")
    encode_call, encode_text, hit = measure_encode(checkpoint)
    say(f"encode {encode_call:.0f} + {encode_text:.0f} us a text, a hit {hit:.1f} us")
    return Costs(
        search_points=tuple(sorted(points)),
        recall_at_100=round(min(recalls), 4) if recalls else None,
        cv=round(float(np.median(cvs)), 3),
        leaf_call_us=round(max(0.0, many.leaf_us - share * search_us), 1),
        broker_call_us=round(max(0.0, few.server_us - broker_leaf_us), 1),
        broker_leaf_us=round(broker_leaf_us, 1),
        sender_call_us=round(few.sender_us, 1),
        hop_us=round(hop_us, 1),
        cache_hit_us=round(hit, 1),
        encode_call_us=round(encode_call, 1),
        encode_text_us=round(encode_text, 1),
        bytes_per_row=round(max(row_bytes), 1),
        machine={**machine(), "load_average": round(os.getloadavg()[0], 2)},
    )


def measure_search(store: Path) -> tuple[int, float, float]:
    """Rows of the largest shard, microseconds of CPU of a search in it, and their coefficient of variation."""
    manifest = _manifest(store)
    sizes = [shard.rows for shard in manifest.shards]
    number = int(np.argmax(sizes))
    shard = open_part(store, [number])[ENTITY_TYPE].shards[0]
    kind = manifest.shards[number].kind
    params: SearchParams = make_params(SEARCH_PARAMS[kind], manifest.default_search.get(kind, {}))
    xq = clustered_queries(QUERIES, manifest.d, seed=SEED)
    taken = np.zeros((ROUNDS, QUERIES))
    for row in range(WARM_UP):
        shard.search(xq[row : row + 1], K, params)
    for turn in range(ROUNDS):
        for row in range(QUERIES):
            began = time.thread_time_ns()
            shard.search(xq[row : row + 1], K, params)
            taken[turn, row] = time.thread_time_ns() - began
    each = taken.min(axis=0) / 1e3  # of each query its own time; what varies over queries is what a queue feels
    return sizes[number], float(each.mean()), float(each.std() / each.mean())


def measure_calls(fleet: FleetServers, manifest: Manifest, calls: int) -> tuple[_Calls, _Calls]:
    """A broker over one leaf with all shards, and a broker over several leaves with a part each."""
    numbers = list(range(len(manifest.shards)))
    parts = [numbers[first::LEAVES] for first in range(LEAVES)]
    whole, leaves = fleet.leaf(numbers), [fleet.leaf(part) for part in parts]
    narrow, wide = fleet.broker([whole]), fleet.broker(leaves)
    few: list[_Calls] = []
    many: list[_Calls] = []
    requests = vector_requests(describe(narrow.target), K)
    senders = [Generator(each.target, requests, connections=4) for each in (narrow, wide)]
    try:
        idle: dict[ServerProcess, float] = {}
        for turn in range(ROUNDS + 1):  # by turns, so that what else the machine does touches both
            first = _load(senders[0], narrow, [whole], len(requests), calls, turn, idle)
            second = _load(senders[1], wide, leaves, len(requests), calls, turn, idle)
            if turn == 0:  # a warm-up
                idle = _idle([narrow, wide, whole, *leaves])
            else:
                few.append(first)
                many.append(second)
    finally:
        for sender in senders:
            sender.close()
    return _least(few), _least(many)


def _idle(servers: Sequence[ServerProcess]) -> dict[ServerProcess, float]:
    """CPU seconds a second of each server when nobody calls."""
    began, before = time.monotonic(), [each.cpu_seconds() for each in servers]
    time.sleep(_IDLE_S)
    seconds = time.monotonic() - began
    used = [each.cpu_seconds() - at_first for each, at_first in zip(servers, before, strict=True)]
    return {each: spent / seconds for each, spent in zip(servers, used, strict=True)}


def _load(
    sender: Generator,
    server: ServerProcess,
    leaves: Sequence[ServerProcess],
    requests: int,
    calls: int,
    seed: int,
    idle: dict[ServerProcess, float],
) -> _Calls:
    sent = send(sender, [server, *leaves], requests=requests, rate=RATE, seconds=calls / RATE, seed=seed)
    # as many as were due by the second look at the clocks, which comes a little late
    n = sent.calls * sent.seconds / (calls / RATE)
    # CPU time is told in steps of 10 ms, so what is left may be nothing
    called = [
        max(0.0, spent - idle.get(each, 0.0) * sent.seconds)
        for each, spent in zip([server, *leaves], sent.cpu_s, strict=True)
    ]
    return _Calls(
        wall_us=1e3 * sent.p50_ms,
        sender_us=1e6 * sent.sender_cpu_s / sent.calls,
        server_us=1e6 * called[0] / n,
        leaf_us=1e6 * sum(called[1:]) / len(leaves) / n,
    )


def _least(rounds: Sequence[_Calls]) -> _Calls:
    names = ("wall_us", "sender_us", "server_us", "leaf_us")
    return _Calls(**{name: round(min(getattr(each, name) for each in rounds), 1) for name in names})


def measure_encode(checkpoint: Path | None) -> tuple[float, float, float]:
    """Microseconds of CPU on one thread: of a batch, of each text in it, and of a text that the cache has."""
    texts = texts_of(None)
    with tempfile.TemporaryDirectory() as scratch:
        tower = QueryTower.load(checkpoint or _default(Path(scratch) / "tower", texts), threads=1)
        batches = [texts[first * _BATCH : (first + 1) * _BATCH] for first in range(_BATCHES)]
        lone = _least_us([lambda part=part: tower.encode(part[:1]) for part in batches])  # type: ignore[misc]
        full = _least_us([lambda part=part: tower.encode(part) for part in batches])  # type: ignore[misc]
        path = TextPath(tower, EncodeSettings())
        path.encode(texts[:_BATCH])
        hit = _least_us([lambda text=text: path.encode([text]) for text in texts[:_BATCH]])  # type: ignore[misc]
        path.close()
    text_us = max(0.0, (full - lone) / (_BATCH - 1))
    return max(0.0, lone - text_us), text_us, hit


def _least_us(works: Sequence[Callable[[], object]]) -> float:
    """Mean over pieces of work of the least thread time of each in several rounds, microseconds."""
    taken = np.zeros((ROUNDS, len(works)))
    for turn in range(ROUNDS):
        for number, work in enumerate(works):
            began = time.thread_time_ns()
            work()
            taken[turn, number] = time.thread_time_ns() - began
    return float(taken.min(axis=0).mean()) / 1e3


def _default(out: Path, texts: Sequence[str]) -> Path:
    encoder = load_default(max_tokens=64)
    write_checkpoint(out, encoder=encoder, projection=fit_projection(encoder.encode(list(texts[:300])), 256))
    return out


def _manifest(store: Path) -> Manifest:
    place = Store(store)
    return place.manifest(ENTITY_TYPE, place.current(ENTITY_TYPE))


def _recalls(manifest: Manifest) -> list[float]:
    chosen = manifest.default_search.values()
    return [
        point.recall_at_100
        for point in manifest.frontier
        if point.filter_band is None and any(point.params == params for params in chosen)
    ]
