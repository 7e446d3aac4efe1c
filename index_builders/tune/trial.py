"""Building a candidate on rows of the sample, in this process and on one thread, and measuring it.

The files go into a temporary folder and are gone afterwards. Candidates that differ in effort only share one build.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from index_builders import flat, hnsw, ivfpq, verify
from index_builders.tune.candidates import Candidate
from retrieval.params import (
    BUILD_PARAMS,
    FlatBuild,
    HnswBuild,
    IvfpqBuild,
    IvfpqSearch,
    SearchParams,
    make_params,
)
from retrieval.store.manifest import FrontierPoint
from retrieval.types import F32, I64, IndexKind, Metric


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One build at one size: its rows, seconds, whether a graph kept codes, and a point for each effort tried."""

    rows: int
    seconds: float
    codes: bool
    frontier: list[FrontierPoint]


def resolved(candidate: Candidate, rows: int, shards: int, d: int) -> dict[str, Any]:
    """The candidate's parameters with nothing left open, for a build of `rows` rows; raises what the kind raises."""
    params = make_params(BUILD_PARAMS[candidate.kind], candidate.params)
    if isinstance(params, IvfpqBuild):
        params = ivfpq.resolve(params, rows=rows, shards=shards, d=d)
    return params.model_dump(mode="json")


def try_out(
    candidate: Candidate, x: F32, xq: F32, metric: Metric, *, seed: int, ladder: Sequence[SearchParams]
) -> Trial:
    """Build over x float32 [n, d] and measure every effort of the ladder with queries xq [q, d].

    Efforts that visit more lists than so few rows have visit all of them.
    """
    params = resolved(candidate, len(x), 1, x.shape[1])
    build = make_params(BUILD_PARAMS[candidate.kind], params)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="retrieval-tune-") as name:
        folder = Path(name)
        shard = folder / "shard"
        shard.mkdir()
        report: dict[str, Any]
        if isinstance(build, HnswBuild):
            report = dict(hnsw.build_shard(x, shard, params=build, metric=metric, seed=seed))
        elif isinstance(build, IvfpqBuild):
            trained = ivfpq.train(x, folder, params=build, metric=metric, seed=seed)
            report = ivfpq.build_shard(x, shard, params=build, metric=metric, seed=seed, trained=trained)
        else:
            assert isinstance(build, FlatBuild)
            report = dict(flat.build_shard(x, shard, params=build, metric=metric, seed=seed))
        seconds = time.perf_counter() - began
        order: I64 = np.asarray(report["order"])
        part = verify.Part(
            path=shard,
            kind=candidate.kind,
            rows=len(x),
            exact=lambda: x,
            order=lambda: order,
            ids=lambda: pa.chunked_array([pa.array(order)]),
        )
        measured = verify.measure([part], xq, metric, [_within(each, params) for each in ladder], target_recall=0.0)
    codes = candidate.kind is IndexKind.HNSW and not str(report["codes"]).startswith("none")
    return Trial(rows=len(x), seconds=seconds, codes=codes, frontier=measured.frontier)


def _within(effort: SearchParams, params: dict[str, Any]) -> SearchParams:
    if isinstance(effort, IvfpqSearch):
        return effort.model_copy(update={"nprobe": min(effort.nprobe, params["nlist"])})
    return effort
