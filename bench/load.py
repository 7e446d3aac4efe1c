"""Open-loop load on a server over gRPC: how many queries a second it answers in time, and what it does with more.

Calls leave at scheduled instants (constant or Poisson, seeded), whatever became of those before, and latency counts
from the instant. Without --target a store of clustered vectors is built and served by `retrieval serve`. Without
--rate: the highest rate with p99 under --p99-ms is searched for, then 70 % of it is measured with constant and with
Poisson arrivals, then 2 and 5 times it (goodput is answers within --deadline-ms from the instant, as a share of those
at the found rate), then how soon p99 is back. With --checkpoint the texts of --texts, or queries and titles of the
shipped catalogue, are searched by vector and by text, Zipf-distributed, the cache warm. A point whose calls left late
is said so and not reported: --realtime helps where other programs are the reason. The last line is one JSON object.

    python -m bench.load --rows 50000
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.arguments import DIMS, MILLISECONDS, THREADS, check, parser_of
from bench.load_queries import QUERIES, batch_requests, describe, text_requests, texts_of, vector_requests, vectors_of
from bench.load_runs import Bench, find_and_measure
from bench.load_schedule import check_load, check_zipf
from bench.load_store import SPACE, ServerProcess, make_store
from retrieval.errors import InvalidParams
from retrieval.params import MAX_K
from retrieval.towers.checkpoint import read_checkpoint


def main(arguments: Sequence[str] | None = None) -> None:
    """Build and serve if need be, load, print."""
    chosen = _parser().parse_args(arguments)
    _check(chosen)
    with contextlib.ExitStack() as stack:
        server = None
        if chosen.target is None:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            store = chosen.store or scratch / "store"
            space = SPACE if chosen.checkpoint is None else read_checkpoint(chosen.checkpoint).config.space_id
            make_store(store, rows=chosen.rows, d=chosen.dims, kind=chosen.kind, shards=chosen.shards, space_id=space)
            server = ServerProcess(
                store, workers=chosen.workers, checkpoint=chosen.checkpoint, settings=chosen.settings or ()
            )
            stack.callback(server.stop)
        target = chosen.target or server.target  # type: ignore[union-attr]
        out = stack.enter_context(open(chosen.out, "w", encoding="utf-8")) if chosen.out else None
        bench = Bench(target, server, chosen, out)
        served = describe(target, ef=chosen.ef)
        print(f"{served.line()}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.2f}", flush=True)
        figures: dict[str, Any] = {"target": target, "cores": os.cpu_count(), **asdict(served)}
        if chosen.per_call > 1:
            requests = batch_requests(served, chosen.k, chosen.per_call)
            found = find_and_measure(bench, f"{chosen.per_call} a call", requests, overload=True, batches=True)
            figures["batch"] = {
                "per_call": chosen.per_call,
                "queries_per_second": round(chosen.per_call * found["rate"], 1),
                **found,
            }
            print(f"{figures['batch']['queries_per_second']:,.0f} queries/s in calls of {chosen.per_call}")
        elif chosen.checkpoint is None and not chosen.texts:
            figures["vector"] = find_and_measure(bench, "vector", vector_requests(served, chosen.k), overload=True)
        else:
            texts = texts_of(chosen.texts)
            vectors = vectors_of(target, texts)  # fills the cache too
            # the same vectors, so that the two searches cost the same and only the way of the text differs
            same = vector_requests(served, chosen.k, vectors)
            figures["vector"] = find_and_measure(bench, "vector", same, overload=False, zipf=chosen.zipf)
            figures["text"] = find_and_measure(
                bench, "text", text_requests(served, texts, chosen.k), overload=False, zipf=chosen.zipf
            )
            if vector_rate := figures["vector"].get("rate"):
                figures["text_over_vector"] = round(figures["text"]["rate"] / vector_rate, 3)
                print(f"text queries with a warm cache: {figures['text_over_vector']:.3f} of the vector rate")
    print(json.dumps(figures))


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("load", __doc__)
    add = parser.add_argument
    add("--target", help="host:port of a server that runs already; else one is started over a store")
    add("--store", type=Path, help="store to serve, built there if it is not one yet, and kept")
    add("--rows", type=int, default=500_000, help="of a store that is built")
    add("--dims", type=int, default=256, help="of a store that is built")
    add("--kind", choices=("hnsw", "ivfpq", "flat"), default="hnsw", help="of a store that is built")
    add("--shards", type=int, default=1, help="of a store that is built; one costs least, several build sooner")
    add("--workers", type=int, default=2, help="processes of the server that is started")
    add("--checkpoint", type=Path, help="query tower of the server that is started: text queries are measured too")
    add("--set", dest="settings", action="append", metavar="NAME=VALUE", help="a setting of the server, as in `serve`")
    add("--texts", type=Path, help="query texts, one a line, most frequent first; with --target they are searched")
    add(
        "--zipf",
        type=float,
        default=1.0,
        help="exponent of how often a text is searched; 0 for all alike, as vectors are",
    )
    add("--per-call", type=int, default=1, help="vector queries in a call; above 1 it is SearchBatch, rates are calls")
    add("--k", type=int, default=100)
    add("--ef", type=int, help="of hnsw; heavy searches show what overload does where the calls alone cost little")
    add("--connections", type=int, default=8, help="one connection stays with one worker, so several per worker")
    add("--realtime", action="store_true", help="the sender goes before all other work, on a machine that has some")
    add("--rate", type=float, help="calls a second: measure only this, with constant and Poisson arrivals")
    add("--start-rate", type=float, default=400.0, help="calls a second at which the search begins")
    add("--p99-ms", type=float, default=50.0, help="bound of the saturation search")
    add("--deadline-ms", type=float, default=100.0, help="of the calls of an overload")
    add("--seconds", type=float, default=8.0, help="of a measured point; loads of the search take half")
    add("--warm-up", type=float, default=3.0, help="seconds of load before anything is measured")
    add("--seed", type=int, default=1, help="of arrivals and of what is asked")
    add("--out", type=Path, help="JSONL file for a row per load")
    return parser


def _check(chosen: argparse.Namespace) -> None:
    check_load(chosen.start_rate if chosen.rate is None else chosen.rate, chosen.seconds)
    check_load(chosen.start_rate, chosen.warm_up)
    check(chosen, rows=(1_000, 10**9), dims=DIMS, shards=(1, 256), workers=THREADS, connections=(1, 1_000))
    check(
        chosen,
        seed=(0, 2**63 - 1),
        k=(1, MAX_K),
        ef=(1, 10_000),
        per_call=(1, QUERIES),
        p99_ms=MILLISECONDS,
        deadline_ms=MILLISECONDS,
    )
    check_zipf(chosen.zipf)
    if chosen.per_call > 1 and (chosen.checkpoint or chosen.texts):
        raise InvalidParams("--per-call is for vector queries: leave out --checkpoint and --texts")
    if chosen.target is not None and (chosen.store or chosen.checkpoint or chosen.settings):
        raise InvalidParams("--target is a server that runs: --store, --checkpoint and --set are for one started here")


if __name__ == "__main__":
    main()
