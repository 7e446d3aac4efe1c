"""Stage 2, train: one quantizer for all shards of a generation, from a seeded sample of every shard.

Kinds that learn nothing pass through. Runs as a task of its own, so that the sample's memory goes with its process.
"""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np

from index_builders import ivfpq
from index_builders.plan import Plan
from index_builders.spool import open_vectors, vectors_file
from retrieval.params import IvfpqBuild, make_params
from retrieval.types import F32, IndexKind, Metric


def train(plan: Plan, spools: Path, rows: list[int], out: Path, *, executor: Executor, threads: int) -> dict[str, Any]:
    """Write what the shards of `plan` share into folder `out`; the report says from how many rows it was learned."""
    if plan.kind is not IndexKind.IVFPQ:
        return {"trained": False}
    files = [vectors_file(spools, shard) for shard in range(plan.shards)]
    task = executor.submit(_train_ivfpq, files, rows, out, plan.params, plan.metric, plan.seed, threads)
    report: dict[str, Any] = task.result()
    return {"trained": True, **report}


def _train_ivfpq(
    files: list[Path], rows: list[int], out: Path, params: dict[str, Any], metric: Metric, seed: int, threads: int
) -> dict[str, Any]:
    build = make_params(IvfpqBuild, params)
    sample = draw_sample(files, rows, build.train_rows, seed)
    path = ivfpq.train(sample, out, params=build, metric=metric, seed=seed, threads=threads)
    return {"sample_rows": len(sample), "quantizer": path.name}


def draw_sample(files: list[Path], rows: list[int], cap: int, seed: int) -> F32:
    """At most `cap` rows float32 [s, d] from the spooled shards, each shard in proportion to its rows."""
    total = sum(rows)
    share = min(1.0, cap / total)
    parts = []
    for shard, (file, n) in enumerate(zip(files, rows, strict=True)):
        rng = np.random.default_rng([seed, shard])
        chosen = np.sort(rng.choice(n, size=max(1, int(n * share)), replace=False))
        parts.append(open_vectors(file)[chosen])
    return np.concatenate(parts)
