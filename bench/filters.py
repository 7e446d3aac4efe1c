"""Filtered search beside unfiltered: recall@100 and time at 50, 10, 1 and 0.1 % of the rows, for both index kinds.

One shard of clustered vectors, random filters through the shard's own planner, one thread, single queries; every ratio
is of two medians taken alternately in one run. The effort is the smallest of a ladder that reaches the wanted recall
without a filter. JSON comes last.

    python -m bench.filters --rows 200000
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.arguments import COUNT, DIMS, check, parser_of
from bench.data import clustered, clustered_queries
from index_builders import hnsw, ivfpq
from retrieval import topk
from retrieval.indexes import open_index
from retrieval.params import HnswBuild, HnswSearch, IvfpqBuild, IvfpqSearch, SearchParams, make_params
from retrieval.serving.filtering.filters import Equal, Restriction
from retrieval.serving.rows import Rows
from retrieval.serving.shards import LocalShard
from retrieval.store.generation import ID_COLUMN, VECTORS_FILE
from retrieval.types import F32, IdType, IndexKind, Metric

K, REPEATS = 100, 3
SHARES = (0.5, 0.1, 0.01, 0.001)
LADDERS: dict[IndexKind, list[SearchParams]] = {
    IndexKind.HNSW: [HnswSearch(ef=ef) for ef in (120, 160, 200, 280, 400)],
    IndexKind.IVFPQ: [IvfpqSearch(nprobe=nprobe) for nprobe in (64, 96, 128, 192, 256, 384)],
}


def build(kind: IndexKind, x: F32, folder: Path) -> tuple[LocalShard, F32]:
    """A shard of x with one bool column per share, and the rows in its order."""
    if kind is IndexKind.HNSW:
        report = hnsw.build_shard(x, folder, params=make_params(HnswBuild, {}), metric=Metric.COSINE, seed=1, threads=2)
    else:
        params = ivfpq.resolve(make_params(IvfpqBuild, {}), rows=len(x), shards=1, d=x.shape[1])
        sample = x[np.random.default_rng(0).permutation(len(x))[: 78 * params.nlist]]
        trained = ivfpq.train(sample, folder, params=params, metric=Metric.COSINE, seed=1, threads=1)
        report = ivfpq.build_shard(x, folder, params=params, metric=Metric.COSINE, seed=1, threads=1, trained=trained)
    x = x[np.asarray(report["order"])]
    rng = np.random.default_rng(7)
    columns = {str(share): pa.array(rng.permutation(len(x)) < share * len(x)) for share in SHARES}
    table = pa.table({ID_COLUMN: pa.array(np.arange(len(x))), **columns})
    stored = np.load(folder / VECTORS_FILE, mmap_mode="r")
    return LocalShard("shard-00000", open_index(kind, folder), Rows(table, IdType.INT64, where="bench"), stored), x


def recall(shard: LocalShard, x: F32, xq: F32, true: F32, params: SearchParams, wanted: Restriction) -> float:
    """Tie-aware recall@100 of single searches."""
    found = np.full((len(xq), K), -np.inf, np.float32)
    for i in range(len(xq)):
        rows = shard.search(xq[i : i + 1], K, params, restriction=wanted).rows
        found[i, : len(rows)] = topk.scores(xq[i : i + 1], x[rows], Metric.COSINE)[0]
    return topk.recall(found, true)


def measure(kind: IndexKind, x: F32, xq: F32, wanted_recall: float) -> list[dict[str, Any]]:
    """One row per share, each with the unfiltered search of the same minute beside it."""
    with tempfile.TemporaryDirectory() as scratch:
        shard, x = build(kind, x, Path(scratch))
        free = Restriction()
        _, true = topk.exact_search(xq, x, K, Metric.COSINE)
        for params in LADDERS[kind]:
            unfiltered = recall(shard, x, xq, true, params, free)
            if unfiltered >= wanted_recall:
                break
        found = []
        for share in SHARES:
            wanted = Restriction(filter=Equal(column=str(share), value=True))
            allow = np.asarray(shard.attributes(np.arange(len(x), dtype=np.int32), [str(share)])[str(share)])
            _, true = topk.exact_search(xq, x, K, Metric.COSINE, allow=allow)
            reached = recall(shard, x, xq, true, params, wanted)
            times: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(REPEATS):
                for filtered in (False, True):
                    began = time.perf_counter_ns()
                    for i in range(len(xq)):
                        shard.search(xq[i : i + 1], K, params, restriction=wanted if filtered else free)
                    times[filtered].append((time.perf_counter_ns() - began) / 1e3 / len(xq))
            plain_us, filtered_us = float(np.median(times[False])), float(np.median(times[True]))
            found.append(
                {
                    "kind": str(kind),
                    "params": params.model_dump(),
                    "share": share,
                    "recall_at_100": round(reached, 4),
                    "unfiltered_recall_at_100": round(unfiltered, 4),
                    "filtered_us": round(filtered_us, 1),
                    "unfiltered_us": round(plain_us, 1),
                    "ratio": round(filtered_us / plain_us, 3),
                }
            )
            print(
                f"{kind:6} {share:6.1%} | {reached:.4f} {unfiltered:.4f} | {filtered_us:8.1f} {plain_us:8.1f} "
                f"{filtered_us / plain_us:6.2f}",
                flush=True,
            )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both kinds."""
    parser = parser_of("filters", __doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dims", type=int, default=256)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--recall", type=float, default=0.96, help="unfiltered recall@100 that the effort has to reach")
    args = parser.parse_args(arguments)
    check(args, rows=(10 * K, 10**9), dims=DIMS, queries=COUNT, recall=(0, 1))
    x, xq = clustered(args.rows, args.dims, seed=1), clustered_queries(args.queries, args.dims, seed=1)
    print("kind    share | recall@100 filtered unfiltered | us filtered unfiltered ratio")
    rows = [row for kind in LADDERS for row in measure(kind, x, xq, args.recall)]
    print(json.dumps({"bench": "filters", "rows": args.rows, "d": args.dims, "queries": args.queries, "results": rows}))


if __name__ == "__main__":
    main()
