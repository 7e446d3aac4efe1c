"""The queries that recall is measured with: real ones from a file, else items of the build, perturbed.

Knows nothing about indexes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from index_builders.source_npy import load_npy
from index_builders.tables import list_lengths, list_tables, read_batches, read_schema
from retrieval.errors import InvalidData
from retrieval.topk import check_vectors, normalise
from retrieval.types import F32, AnyArray, Metric

NOISE = 0.3  # norm of the noise added to an item, in units of the item's norm


@dataclass(frozen=True, kw_only=True)
class QuerySet:
    """Queries xq float32 [q, d] and what they are: "real" ones that were given, or "items", perturbed."""

    kind: Literal["real", "items"]
    xq: F32


def query_sets(path: Path | None, vectors: Sequence[AnyArray], metric: Metric, count: int, seed: int) -> list[QuerySet]:
    """The sets to measure with, the one that decides first: real queries of `path` when given, then always items.

    vectors: the rows of every shard, float [n_i, d]. Raises what `read_queries` raises.
    """
    items = QuerySet(kind="items", xq=perturbed_items(vectors, metric, count, seed))
    if path is None:
        return [items]
    return [QuerySet(kind="real", xq=read_queries(path, vectors[0].shape[1], metric, count, seed)), items]


def read_queries(path: Path, d: int, metric: Metric, count: int, seed: int, column: str = "embedding") -> F32:
    """At most `count` queries float32 [q, d] of a .npy or Parquet file, drawn by `seed`; InvalidData if one is bad."""
    x = np.asarray(load_npy(path), dtype=np.float32) if path.suffix == ".npy" else _read_table(path, d, column)
    if x.ndim != 2 or x.shape[1] != d:
        raise InvalidData(f"the queries of {path} have shape {list(x.shape)}; wanted [queries, {d}]")
    if len(x) == 0:
        raise InvalidData(f"{path} holds no query")
    good = check_vectors(x)
    if not good.all():
        raise InvalidData(f"query {int(np.argmin(good))} of {path} is not finite or has norm 0: leave it out")
    if len(x) > count:
        x = x[np.sort(np.random.default_rng(seed).choice(len(x), size=count, replace=False))]
    return normalise(x) if metric is Metric.COSINE else np.ascontiguousarray(x)


def perturbed_items(vectors: Sequence[AnyArray], metric: Metric, count: int, seed: int) -> F32:
    """`count` queries float32 [q, d] (fewer where there are fewer rows): rows of the arrays [n_i, d] plus noise."""
    rng = np.random.default_rng([seed, 1])
    sizes = np.array([len(part) for part in vectors])
    chosen = rng.choice(int(sizes.sum()), size=min(count, int(sizes.sum())), replace=False)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    homes = np.searchsorted(starts, chosen, side="right") - 1
    items = np.stack([vectors[home][row - starts[home]] for home, row in zip(homes, chosen, strict=True)])
    x = items.astype(np.float32)
    noise = rng.standard_normal(x.shape, dtype=np.float32)
    noise *= NOISE * np.linalg.norm(x, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
    return normalise(x + noise) if metric is Metric.COSINE else x + noise


def describe(path: Path | None, count: int, seed: int) -> str:
    """Where the queries come from, in words, for the manifest."""
    if path is not None:
        return f"{count} queries from {path.name}, drawn with seed {seed}"
    return f"{count} items of this build, perturbed by noise of {NOISE} times their norm, drawn with seed {seed}"


def _read_table(path: Path, d: int, column: str) -> F32:
    parts = []
    for file in list_tables(path):
        if column not in read_schema(file).names:
            raise InvalidData(f"{file} has no column {column!r} of query embeddings")
        for batch in read_batches(file, [column], 65_536):
            array = batch.column(0)
            wrong = np.flatnonzero(list_lengths(array) != d)
            if len(wrong):
                raise InvalidData(f"query {wrong[0]} of {file} is null or has another dimension than {d}")
            parts.append(np.asarray(array.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(-1, d))
    return np.concatenate(parts) if parts else np.empty((0, d), dtype=np.float32)
