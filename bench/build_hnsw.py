"""HNSW build: `retrieval build`'s shard stage beside bare hnswlib on the same cores, in one run.

Both build four graphs of the same rows, two at a time (one process per core, one thread each); bare hnswlib is what a
careful user would write: read the shard, add_items, save_index. Prints a table and one JSON object last.

    python -m bench.build_hnsw --rows 100000
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.arguments import DIMS, THREADS, check, parser_of
from bench.data import clustered
from index_builders.shard_task import build_part
from index_builders.workers import make_executor
from retrieval.params import HnswBuild, make_params


def _bare(vectors: Path, out: Path, m: int, ef_construction: int, seed: int) -> None:
    import hnswlib

    x = np.load(vectors)
    index = hnswlib.Index(space="ip", dim=x.shape[1])
    index.init_index(max_elements=len(x), M=m, ef_construction=ef_construction, random_seed=seed)
    index.add_items(x, num_threads=1)
    index.save_index(str(out / "bare.bin"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison."""
    parser = parser_of("build", __doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--dims", type=int, default=256)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args(arguments)
    check(args, rows=(1_000, 10**9), dims=DIMS, shards=(1, 256), workers=THREADS)
    params = make_params(HnswBuild, {})
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        x = clustered(args.rows, args.dims, seed=1)
        files = []
        for shard, part in enumerate(np.array_split(x, args.shards)):
            files.append(root / f"part-{shard}.npy")
            np.save(files[-1], part)
            (root / f"ours-{shard}").mkdir()
        del x
        began = time.perf_counter()
        with make_executor(args.workers) as pool:
            bare = [
                pool.submit(_bare, file, root / f"ours-{i}", params.m, params.ef_construction, i)
                for i, file in enumerate(files)
            ]
            for future in bare:
                future.result()
        bare_s = time.perf_counter() - began
        began = time.perf_counter()
        with make_executor(args.workers) as pool:
            ours = [
                pool.submit(
                    build_part, file, root / f"ours-{i}", "hnsw", params.model_dump(mode="json"), "cosine", i, None
                )
                for i, file in enumerate(files)
            ]
            reports = [future.result() for future in ours]
        ours_s = time.perf_counter() - began
    peak = max(report["peak_memory_bytes"] / report["raw_bytes"] for report in reports)
    above = max((r["peak_memory_bytes"] - r["base_memory_bytes"]) / r["raw_bytes"] for r in reports)
    row = {
        "rows": args.rows,
        "d": args.dims,
        "shards": args.shards,
        "workers": args.workers,
        "bare_s": round(bare_s, 2),
        "ours_s": round(ours_s, 2),
        "ratio": round(ours_s / bare_s, 3),
        "peak_over_raw": round(peak, 3),
        "peak_above_base_over_raw": round(above, 3),
        "sample_recall": min(report["sample_recall"] for report in reports),
    }
    print(f"bare hnswlib {bare_s:8.1f} s\nours         {ours_s:8.1f} s   ratio {row['ratio']} (wanted <= 1.1)")
    print(f"peak memory of a shard build {peak:.2f} x raw vectors, {above:.2f} x above the loaded libraries (<= 2.5)")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
