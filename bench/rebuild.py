"""What a rebuild costs when one row in a hundred changed, beside the first full build: CPU seconds, all processes.

Each run is `retrieval rebuild` in a process of its own, so its start-up counts. Below each figure stands where it went,
by stage. The changed rows lie in few shards, as
they do when ids of one kind change; spread over all shards every shard would be built.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.arguments import COUNT, DIMS, check, parser_of
from bench.data import clustered
from retrieval.store.placement import shard_of
from retrieval.types import F32

_JOB = """entity_type = "pin"
source = "source.parquet"
store = "store"
space_id = "bench"
[index]
kind = "{kind}"
shards = {shards}
[gate]
max_same_vectors = 1.0
"""


def main(arguments: list[str]) -> None:
    """Parse, run, print."""
    parser = parser_of("rebuild", __doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dims", type=int, default=128)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--kind", default="hnsw")
    parser.add_argument("--changed", type=float, default=0.01, help="share of the rows that change")
    parser.add_argument("--in-shards", type=int, default=1, help="shards that the changed rows lie in")
    parser.add_argument("--repeats", type=int, default=1, help="runs of everything, each from nothing")
    given = parser.parse_args(arguments)
    check(
        given,
        rows=(1_000, 10**9),
        dims=DIMS,
        shards=(1, 4_096),
        in_shards=(1, given.shards),
        changed=(0, 1),
        repeats=COUNT,
    )
    for _ in range(given.repeats):
        with tempfile.TemporaryDirectory(prefix="retrieval-rebuild-") as folder:
            print(json.dumps(_measure(Path(folder), given)))


def _measure(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    x = clustered(given.rows, given.dims, seed=0)
    (folder / "job.toml").write_text(_JOB.format(kind=given.kind, shards=given.shards))
    _write(folder, x)
    full = _run(folder)
    homes = shard_of([f"e{i}" for i in range(given.rows)], given.shards)
    within = np.flatnonzero(homes < given.in_shards)
    rng = np.random.default_rng(1)
    changed = rng.choice(within, size=min(len(within), int(given.rows * given.changed)), replace=False)
    x[changed] = x[rng.permutation(given.rows)[: len(changed)]]
    _write(folder, x)
    few, none = _run(folder), _run(folder)
    out = {
        "rows": given.rows,
        "dims": given.dims,
        "shards": given.shards,
        "kind": given.kind,
        "changed_rows": len(changed),
        "changed_shards": given.in_shards,
        "full": full,
        "changed": few,
        "unchanged": none,
        "changed_over_full_cpu": round(few["cpu_s"] / full["cpu_s"], 4),
    }
    for name in ("full", "changed", "unchanged"):
        row = out[name]
        print(
            f"{name:>10}: {row['cpu_s']:8.2f} CPU s  {row['wall_s']:8.2f} s  {row['built']} shards built, "
            f"{row['reused']} reused"
        )
        print(" " * 12 + ", ".join(f"{stage} {spent:.2f}" for stage, spent in row["stage_cpu_s"].items()))
    print(f"CPU of {len(changed)} changed rows in {given.in_shards} shards: {out['changed_over_full_cpu']:.1%} of full")
    return out


def _write(folder: Path, x: F32) -> None:
    flat = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    table = pa.table({"id": [f"e{i}" for i in range(len(x))], "embedding": flat})
    pq.write_table(table, folder / "source.parquet", compression="none", use_dictionary=False)


def _run(folder: Path) -> dict[str, Any]:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "retrieval.cli", "rebuild", "--config", str(folder / "job.toml"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    report = json.loads(done.stdout.splitlines()[-1])
    return {
        "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2),
        "wall_s": round(time.perf_counter() - began, 2),
        "outcome": report["outcome"],
        "built": report["built"],
        "reused": report["reused"],
        "embedded": report["embedded"],
        # what the process spends before and after the job is the difference to cpu_s
        "stage_cpu_s": {stage: round(spent, 2) for stage, spent in report["cpu_s"].items()},
    }


if __name__ == "__main__":
    main(sys.argv[1:])
