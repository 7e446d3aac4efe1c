"""`verify`: measure a published generation again, against exact search over its own stored vectors.

The float32 source is gone by then, so the truth is what the shards store; with float16 vectors the figures can differ
from the build's in the fourth digit. Changes nothing on disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from index_builders import bands, frontiers, queries, verify
from retrieval.store import Generation
from retrieval.store.generation import ID_COLUMN, VECTORS_FILE, ShardFiles


def remeasure(
    generation: Generation,
    *,
    queries_file: Path | None = None,
    count: int = 200,
    target_recall: float = 0.95,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[verify.Measured, str]:
    """Recall and latency over the ladder of efforts, and in words what queries and truth they are against."""
    manifest = generation.manifest
    parts = [_part(shard) for shard in generation.shards]
    sets = queries.query_sets(queries_file, [part.exact() for part in parts], manifest.metric, count, manifest.seed)
    xq = sets[0].xq
    shard = manifest.shards[0]
    ladder = verify.efforts(shard.kind, shard.build_params)
    began = time.perf_counter()
    measured, frontier = frontiers.measure_frontiers(
        parts, sets, manifest.metric, ladder, target_recall=target_recall, began=began, progress=progress
    )
    budget_s = max(bands.LEAST_S, time.perf_counter() - began)  # at most as long again as without filters
    filtered = bands.measure_bands(
        parts, xq, manifest.metric, ladder, budget_s=budget_s, seed=manifest.seed, query_kind=sets[0].kind
    )
    measured = replace(measured, frontier=[*frontier, *filtered])
    source = queries.describe(queries_file, len(xq), manifest.seed)
    return measured, f"{source}; truth: exact search over the stored {manifest.vector_dtype} vectors"


def _part(shard: ShardFiles) -> verify.Part:
    return verify.Part(
        path=shard.path,
        kind=shard.manifest.kind,
        rows=shard.manifest.rows,
        exact=lambda: np.load(shard.path / VECTORS_FILE, mmap_mode="r", allow_pickle=False),
        order=lambda: None,
        ids=lambda: shard.rows().column(ID_COLUMN),
    )
