"""Searches that arrive side by side, one by one and grouped: queries per second and latency, for both index kinds.

Callers in threads, each sending its next query when the last is answered (closed loop), one search thread each; every
setting is measured alternately with the others, REPEATS times, and the median run counts. Answers are compared with
those of lone searches. JSON comes last.

    python -m bench.grouped --rows 200000
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.arguments import DIMS, SECONDS, THREADS, check, parser_of
from bench.data import clustered, clustered_queries
from index_builders import hnsw, ivfpq
from retrieval.indexes import ShardIndex, open_index
from retrieval.indexes.grouped import GroupedIndex
from retrieval.params import HnswBuild, HnswSearch, IvfpqBuild, IvfpqSearch, SearchParams, make_params
from retrieval.types import F32, I32, IndexKind, Metric

K, REPEATS, SEED = 100, 3, 1
EFFORT: dict[IndexKind, SearchParams] = {
    IndexKind.IVFPQ: IvfpqSearch(nprobe=128, rescore=400),
    IndexKind.HNSW: HnswSearch(ef=120),
}


def build(kind: IndexKind, x: F32, folder: Path) -> ShardIndex:
    """An index of x."""
    if kind is IndexKind.HNSW:
        hnsw.build_shard(x, folder, params=make_params(HnswBuild, {}), metric=Metric.COSINE, seed=SEED, threads=2)
    else:
        params = ivfpq.resolve(make_params(IvfpqBuild, {}), rows=len(x), shards=1, d=x.shape[1])
        sample = x[np.random.default_rng(0).permutation(len(x))[: 78 * params.nlist]]
        trained = ivfpq.train(sample, folder, params=params, metric=Metric.COSINE, seed=SEED, threads=1)
        ivfpq.build_shard(x, folder, params=params, metric=Metric.COSINE, seed=SEED, threads=1, trained=trained)
    return open_index(kind, folder)


def run(index: ShardIndex, xq: F32, callers: int, seconds: float) -> tuple[float, F32, list[tuple[int, I32]]]:
    """Queries per second, latencies in ms [n], and (query, rows) of every answer."""
    params, ends = EFFORT[index.kind], time.perf_counter() + seconds
    latencies: list[list[float]] = [[] for _ in range(callers)]
    answers: list[list[tuple[int, I32]]] = [[] for _ in range(callers)]

    def call(me: int) -> None:
        number = me
        while (began := time.perf_counter()) < ends:
            at = number % len(xq)
            found = index.search(xq[at : at + 1], K, params)
            latencies[me].append((time.perf_counter() - began) * 1e3)
            answers[me].append((at, found.rows[0]))
            number += callers

    threads = [threading.Thread(target=call, args=(me,)) for me in range(callers)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    every = np.array([each for part in latencies for each in part], np.float32)
    return len(every) / took, every, [each for part in answers for each in part]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the measurement."""
    parser = parser_of("grouped", __doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dims", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--kinds", nargs="+", choices=["ivfpq", "hnsw"], default=["ivfpq", "hnsw"])
    args = parser.parse_args(arguments)
    check(args, rows=(10 * K, 10**9), dims=DIMS, seconds=SECONDS, callers=THREADS)
    x, xq = clustered(args.rows, args.dims, seed=SEED), clustered_queries(500, args.dims, seed=SEED)
    results: list[dict[str, Any]] = []
    print("kind  callers | queries/s alone, 1 at once, 2 at once | p50 ms | p99 ms")
    for kind in map(IndexKind, args.kinds):
        with tempfile.TemporaryDirectory() as scratch:
            index = build(kind, x, Path(scratch))
            alone = np.concatenate([index.search(xq[i : i + 1], K, EFFORT[kind]).rows for i in range(len(xq))])
            for callers in args.callers:
                row = measure(index, xq, alone, callers, args.seconds)
                results.append({"kind": str(kind), "callers": callers, **row})
                print(f"{kind:5} {callers:7} | " + " | ".join(" ".join(f"{each:8.2f}" for each in row[name])
                      for name in ("queries_per_s", "p50_ms", "p99_ms")), flush=True)  # fmt: skip
    print(json.dumps({"bench": "grouped", "rows": args.rows, "d": args.dims, "k": K, "results": results}))


def measure(index: ShardIndex, xq: F32, alone: I32, callers: int, seconds: float) -> dict[str, list[float]]:
    """Figures of the index itself, of groups with one search at once, and with two."""
    subjects = [index, GroupedIndex(index, at_once=1), GroupedIndex(index, at_once=2)]
    runs: list[list[tuple[float, float, float]]] = [[] for _ in subjects]
    for _ in range(REPEATS):
        for mine, subject in zip(runs, subjects, strict=True):
            rate, latencies, answers = run(subject, xq, callers, seconds)
            if any((rows != alone[at]).any() for at, rows in answers):
                raise SystemExit("a grouped search gave another answer than a lone one")
            p50, p99 = np.percentile(latencies, [50, 99])
            mine.append((rate, float(p50), float(p99)))
    chosen = [sorted(mine)[REPEATS // 2] for mine in runs]
    names = ("queries_per_s", "p50_ms", "p99_ms")
    return {name: [round(each[place], 3) for each in chosen] for place, name in enumerate(names)}


if __name__ == "__main__":
    main()
