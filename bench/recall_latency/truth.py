"""The exact answers of a data set, by `retrieval.topk`, kept in a file whose name and inside carry the data's digest.

A file of other data is refused, so is a publisher's ground truth whose rows are not the nearest of these vectors. Knows
nothing about engines.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np

from bench.recall_latency.data import DataSet, Progress
from bench.recall_latency.judge import judge
from bench.recall_latency.vector_files import VECS, read_truth
from retrieval import topk
from retrieval.errors import DamagedData, InvalidData
from retrieval.types import F32, Metric

_BLOCK_QUERIES = 64
_LEAST_GIVEN_RECALL = 0.99  # float rounding of a publisher's arithmetic may swap a few rows at the edge


def true_scores(data: DataSet, k: int, work: Path, progress: Progress | None = None) -> F32:
    """Scores float32 [q, min(k, n)] of the k nearest rows of each query, best first.

    Computed once and cached. Raises DamagedData for a cached file that belongs to other data or cannot be read, and
    InvalidData when the publisher's ground truth (`data.given_truth`) is that of other data.
    """
    k = min(k, data.n)
    path = work / "truth" / f"{data.name}-{data.digest[:16]}-k{k}.npz"
    scores = _read(path, data, k) if path.is_file() else _compute(path, data, k, progress)
    if data.given_truth is not None:
        _check_given(data, data.given_truth, scores)
    return scores


def _compute(path: Path, data: DataSet, k: int, progress: Progress | None) -> F32:
    xb, xq = data.base(), data.queries()
    rows = np.empty((data.q, k), np.int32)
    scores = np.empty((data.q, k), np.float32)
    for start in range(0, data.q, _BLOCK_QUERIES):
        block = slice(start, start + _BLOCK_QUERIES)
        rows[block], scores[block] = topk.exact_search(xq[block], xb, k, Metric.COSINE)
        if progress is not None:
            progress(f"exact answers of {data.name}", min(start + _BLOCK_QUERIES, data.q), data.q)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial.npz")
    np.savez(partial, rows=rows, scores=scores, digest=np.array(data.digest))
    os.replace(partial, path)
    return scores


def _read(path: Path, data: DataSet, k: int) -> F32:
    try:
        with path.open("rb") as raw, np.load(raw) as file:
            digest, scores = str(file["digest"]), np.asarray(file["scores"], np.float32)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DamagedData(f"{path} cannot be read as exact answers ({error}): remove it") from None
    if digest != data.digest:
        raise DamagedData(
            f"{path} holds the exact answers of data {digest[:16]}, and {data.name} is {data.digest[:16]}: remove it"
        )
    if scores.shape != (data.q, k):
        raise DamagedData(f"{path} has answers of shape {scores.shape}, not {(data.q, k)}: remove it")
    return scores


def _check_given(data: DataSet, path: Path, scores: F32) -> None:
    given = read_truth(path, data.q)
    if len(given) < data.q:
        raise InvalidData(
            f"{path} has answers for {len(given)} queries, and {data.name} has {data.q}: it is of other data"
        )
    k = min(given.shape[1], scores.shape[1])
    found = judge(data.base(), data.queries(), given[:, :k].astype(np.int64), scores[:, :k])
    recall = float(found.recall.mean())
    if recall < _LEAST_GIVEN_RECALL:
        way_out = "leave it out, it is not needed" if path.suffix in VECS else "fetch it again"
        raise InvalidData(
            f"{path} has the ground truth of other data, or not by cosine: {recall:.3f} of its rows are among the {k} "
            f"nearest, and {_LEAST_GIVEN_RECALL} must be; {way_out}"
        )
