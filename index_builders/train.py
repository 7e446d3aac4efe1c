"""Stage 2, train: one quantizer for all shards of a generation, from a seeded sample of every shard.

Kinds that learn nothing pass through. A rebuild offers the quantizer of the generation before, which is kept while the
sample is hardly further from its centroids than the sample it was trained on: shards whose rows did not change then
stay as they are. Runs as a task of its own, so that the sample's memory goes with its process.
"""

from __future__ import annotations

import shutil
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from index_builders import ivfpq
from index_builders.plan import Plan
from index_builders.spool import open_vectors, vectors_file
from retrieval.params import IvfpqBuild, make_params
from retrieval.types import F32, IndexKind, Metric

_DRIFT_ROWS = 20_000


@dataclass(frozen=True, kw_only=True)
class Inherited:
    """A trained quantizer on offer. distortion: as `ivfpq.distortion` found it for the sample it was trained on.

    max_drift: by which share the distortion may have grown for the quantizer to be kept.
    """

    file: Path
    distortion: float
    max_drift: float


def train(
    plan: Plan,
    spools: Path,
    rows: list[int],
    out: Path,
    *,
    executor: Executor,
    threads: int,
    inherited: Inherited | None = None,
) -> dict[str, Any]:
    """Write what the shards of `plan` share into folder `out`; the report says from how many rows it was learned.

    Of a quantizer the report has "distortion" (when it was trained), "drift" and "kept".
    """
    if plan.kind is not IndexKind.IVFPQ:
        return {"trained": False}
    files = [vectors_file(spools, shard) for shard in range(plan.shards)]
    task = executor.submit(_train_ivfpq, files, rows, out, plan.params, plan.metric, plan.seed, threads, inherited)
    report: dict[str, Any] = task.result()
    return {"trained": True, **report}


def _train_ivfpq(
    files: list[Path],
    rows: list[int],
    out: Path,
    params: dict[str, Any],
    metric: Metric,
    seed: int,
    threads: int,
    inherited: Inherited | None,
) -> dict[str, Any]:
    build = make_params(IvfpqBuild, params)
    drift = 0.0
    if inherited is not None:
        few = draw_sample(files, rows, min(build.train_rows, _DRIFT_ROWS), seed)
        drift = ivfpq.distortion(inherited.file, few) / inherited.distortion - 1.0
        if drift <= inherited.max_drift:
            shutil.copyfile(inherited.file, out / ivfpq.QUANTIZER_FILE)
            return {"kept": True, "distortion": inherited.distortion, "drift": drift}
    sample = draw_sample(files, rows, build.train_rows, seed)
    path = ivfpq.train(sample, out, params=build, metric=metric, seed=seed, threads=threads)
    few = draw_sample(files, rows, min(build.train_rows, _DRIFT_ROWS), seed)
    return {
        "sample_rows": len(sample),
        "quantizer": path.name,
        "kept": False,
        "distortion": ivfpq.distortion(path, few),
        "drift": drift,
    }


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
