"""IVF-PQ search: our reader beside bare faiss with its own refine, the same lists and codes, one thread, one run.

faiss: IndexRefine over the same trained fast-scan index with an fp16 scalar-quantised refine. Each effort is measured
alternately, single queries and one batch; recall is against exact float32 search, recomputed here. JSON comes last.

    python -m bench.ivfpq_vs_faiss --rows 500000
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.arguments import COUNT, DIMS, check, parser_of
from bench.data import clustered, clustered_queries
from index_builders import ivfpq
from retrieval import topk
from retrieval.indexes.ivfpq import IvfpqIndex, faiss
from retrieval.params import IvfpqBuild, IvfpqSearch, make_params
from retrieval.types import F32, AnyArray, Metric

K, REPEATS = 100, 3


def _time_us(run: Callable[[], Any], q: int) -> float:
    run()  # warm-up
    best = []
    for _ in range(REPEATS):
        began = time.perf_counter_ns()
        run()
        best.append((time.perf_counter_ns() - began) / 1e3 / q)
    return float(np.median(best))


def _recall(xb: F32, xq: F32, rows: AnyArray, true: F32) -> float:
    found = np.stack([topk.scores(q[None], xb[r], Metric.COSINE)[0] for q, r in zip(xq, rows, strict=True)])
    return topk.recall(found, true)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison."""
    parser = parser_of("ivfpq", __doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--dims", type=int, default=256)
    parser.add_argument("--queries", type=int, default=300)
    args = parser.parse_args(arguments)
    check(args, rows=(10 * K, 10**9), dims=DIMS, queries=COUNT)
    x, xq = clustered(args.rows, args.dims, seed=1), clustered_queries(args.queries, args.dims, seed=1)
    params = ivfpq.resolve(make_params(IvfpqBuild, {}), rows=args.rows, shards=1, d=args.dims)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sample = x[np.random.default_rng(0).permutation(args.rows)[: min(args.rows, 39 * params.nlist * 2)]]
        trained = ivfpq.train(sample, folder, params=params, metric=Metric.COSINE, seed=1, threads=2)
        report = ivfpq.build_shard(x, folder, params=params, metric=Metric.COSINE, seed=1, threads=2, trained=trained)
        x = x[report["order"]]
        ours = IvfpqIndex.open(folder)
    base = ours._index  # the very same lists and codes
    refine = faiss.IndexScalarQuantizer(args.dims, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_L2)
    refine.train(x[:1_000])
    refine.add(x)
    bare = faiss.IndexRefine(base, refine)
    _, true = topk.exact_search(xq, x, K, Metric.COSINE)
    faiss.omp_set_num_threads(1)
    rows = []
    print("nprobe rescore | recall@100 ours faiss | single us ours faiss ratio | batch us ours faiss ratio")
    for nprobe, rescore in ((16, 300), (32, 400), (64, 400), (96, 400), (128, 400), (128, 800)):
        effort = IvfpqSearch(nprobe=nprobe, rescore=rescore)
        theirs = faiss.IndexRefineSearchParameters(
            k_factor=rescore / K, base_index_params=faiss.SearchParametersIVF(nprobe=nprobe)
        )

        def ours_single(effort: IvfpqSearch = effort) -> None:
            for i in range(len(xq)):
                ours.search(xq[i : i + 1], K, effort)

        def bare_single(theirs: Any = theirs) -> None:
            for i in range(len(xq)):
                bare.search(xq[i : i + 1], K, params=theirs)

        found = ours.search(xq, K, effort).rows
        _, bare_rows = bare.search(xq, K, params=theirs)
        row = {
            "nprobe": nprobe,
            "rescore": rescore,
            "recall_ours": _recall(x, xq, found, true),
            "recall_faiss": _recall(x, xq, bare_rows, true),
            "single_us_faiss": _time_us(bare_single, len(xq)),
            "single_us_ours": _time_us(ours_single, len(xq)),
            "batch_us_faiss": _time_us(lambda theirs=theirs: bare.search(xq, K, params=theirs), len(xq)),  # type: ignore[misc]
            "batch_us_ours": _time_us(lambda effort=effort: ours.search(xq, K, effort), len(xq)),  # type: ignore[misc]
        }
        row["single_ratio"] = row["single_us_ours"] / row["single_us_faiss"]
        row["batch_ratio"] = row["batch_us_ours"] / row["batch_us_faiss"]
        rows.append({name: round(value, 4) for name, value in row.items()})
        print(
            f"{nprobe:6} {rescore:7} | {row['recall_ours']:.4f} {row['recall_faiss']:.4f} | "
            f"{row['single_us_ours']:.0f} {row['single_us_faiss']:.0f} {row['single_ratio']:.2f} | "
            f"{row['batch_us_ours']:.0f} {row['batch_us_faiss']:.0f} {row['batch_ratio']:.2f}"
        )
    print(json.dumps({"rows": args.rows, "d": args.dims, "k": K, "nlist": params.nlist, "efforts": rows}))


if __name__ == "__main__":
    main()
