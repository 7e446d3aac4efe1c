"""IVF-PQ by faiss: inverted lists over a k-means partition, product-quantised codes scanned in registers.

After Jégou et al. (2011) and, for 4-bit fast-scan codes, André et al. (2015). One quantizer is trained for all shards;
each shard adds its rows in list order, so that the rows one query rescores lie near each other in vectors.npy. Unit
vectors are quantised under L2, which orders them as the cosine does. Knows nothing about stores or ids.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from index_builders.flat import write_array
from retrieval.errors import BuildFailed, InvalidData, InvalidParams, MissingDependency
from retrieval.indexes.arrays import VECTORS, write_description
from retrieval.indexes.ivfpq import FORMAT, INDEX_FILE, VERSION, IvfpqDescription, faiss
from retrieval.params import IvfpqBuild
from retrieval.types import F32, I64, AnyArray, Metric

QUANTIZER_FILE = "quantizer.faiss"
_POINTS_PER_CENTROID = 39  # below this many training points per centroid k-means is not worth its name
_BLOCK_ROWS = 32_768
_WAY_OUT = "use --kind flat or --kind hnsw"


def resolve(params: IvfpqBuild, *, rows: int, shards: int, d: int) -> IvfpqBuild:
    """Fill in what 0 leaves open: 2 sqrt(rows per shard) lists, 2 dimensions per code (odd d: 3 or 1).

    Raises InvalidData when `rows` cannot train the codes or the lists, InvalidParams for codes that do not divide d,
    MissingDependency without faiss.
    """
    if faiss is None:
        raise MissingDependency(
            "IVF-PQ needs faiss, which is not installed: pip install 'retrieval[cpu]' or 'retrieval[gpu]', or "
            + _WAY_OUT
        )
    sample = min(rows, params.train_rows)
    needed = _POINTS_PER_CENTROID * max(2**params.pq_bits, params.nlist)
    if sample < needed:
        what = f"{params.nlist} lists" if params.nlist > 2**params.pq_bits else f"{params.pq_bits}-bit codes"
        raise InvalidData(f"{sample} training rows are too few for IVF-PQ with {what}: it takes {needed}; {_WAY_OUT}")
    pq_dims = params.pq_dims or (2 if d % 2 == 0 else 3 if d % 3 == 0 else 1)
    if d % pq_dims:
        raise InvalidParams(
            f"pq_dims = {pq_dims} does not divide the {d} dimensions; use a divisor, or 0 to have one chosen"
        )
    nlist = params.nlist or max(1, min(round(2 * math.sqrt(rows / shards)), sample // _POINTS_PER_CENTROID))
    return params.model_copy(update={"nlist": nlist, "pq_dims": pq_dims})


def train(sample: F32, out: Path, *, params: IvfpqBuild, metric: Metric, seed: int, threads: int = 1) -> Path:
    """Learn lists and codes from sample float32 [s, d] and write them, empty, to out/quantizer.faiss."""
    faiss.omp_set_num_threads(threads)
    needed = _POINTS_PER_CENTROID * max(2**params.pq_bits, 1)
    if len(sample) < needed:
        raise BuildFailed(f"{len(sample)} usable rows are too few to train IVF-PQ: it takes {needed}; {_WAY_OUT}")
    d = sample.shape[1]
    suffix = "x4fs" if params.pq_bits == 4 else f"x{params.pq_bits}"
    faiss_metric = faiss.METRIC_INNER_PRODUCT if metric is Metric.INNER_PRODUCT else faiss.METRIC_L2
    index = faiss.index_factory(d, f"IVF{params.nlist},PQ{d // params.pq_dims}{suffix}", faiss_metric)
    index.cp.seed = index.pq.cp.seed = seed + 1  # faiss takes 0 for a seed too, but keeps 1234 where none is set
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
    index.train(np.ascontiguousarray(sample))
    path = out / QUANTIZER_FILE
    _write_index(index, path)
    return path


def distortion(trained: Path, sample: F32) -> float:
    """Mean squared distance of sample float32 [s, d] to the centroids of the lists that its rows fall into."""
    index = faiss.read_index(str(trained))
    centroids = np.asarray(index.quantizer.reconstruct_n(0, index.nlist), dtype=np.float32)
    lists, total = _assign(index, sample), 0.0
    for start in range(0, len(sample), _BLOCK_ROWS):
        away = sample[start : start + _BLOCK_ROWS] - centroids[lists[start : start + _BLOCK_ROWS]]
        total += float(np.einsum("nd,nd->", away, away, dtype=np.float64))
    return total / len(sample)


def empty_copy(index_file: Path, out: Path) -> None:
    """Write the trained, empty quantizer inside a shard's index file to `out`."""
    index = faiss.read_index(str(index_file))
    index.reset()
    _write_index(index, out)


def build_shard(
    vectors: F32,
    out: Path,
    *,
    params: IvfpqBuild,
    metric: Metric,
    seed: int,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
    trained: Path,
) -> dict[str, Any]:
    """Write index.faiss, index.json and vectors.npy of vectors float32 [n, d] into folder `out`.

    trained: the file that `train` wrote. The report's "order" int64 [n] says which input row each stored row is.
    """
    faiss.omp_set_num_threads(threads)
    index = faiss.read_index(str(trained))
    n, d = vectors.shape
    lists = _assign(index, vectors)
    order: I64 = np.argsort(lists, kind="stable")

    def blocks() -> Iterator[AnyArray]:
        for start in range(0, n, _BLOCK_ROWS):
            block = vectors[order[start : start + _BLOCK_ROWS]]
            index.add(block)
            yield block.astype(str(params.vectors), copy=False)
            if progress is not None:
                progress(min(start + _BLOCK_ROWS, n))

    write_array(out / VECTORS, str(params.vectors), (n, d), blocks())
    _write_index(index, out / INDEX_FILE)
    sizes = np.bincount(lists, minlength=params.nlist)
    write_description(
        IvfpqDescription(
            format=FORMAT,
            version=VERSION,
            n=n,
            d=d,
            metric=metric.value,
            vectors=params.vectors.value,
            nlist=params.nlist,
            pq_dims=params.pq_dims,
            pq_bits=params.pq_bits,
        ),
        out,
    )
    return {
        "order": order,
        # 1 when all lists are equal; the mean work of a query grows with it
        "imbalance": round(float(params.nlist * np.square(sizes, dtype=np.float64).sum() / n**2), 3),
        "longest_list": int(sizes.max()),
        "empty_lists": int((sizes == 0).sum()),
    }


def _assign(index: Any, vectors: F32) -> I64:
    lists = np.empty(len(vectors), dtype=np.int64)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        _, nearest = index.quantizer.search(np.ascontiguousarray(vectors[start : start + _BLOCK_ROWS]), 1)
        lists[start : start + len(nearest)] = nearest[:, 0]
    return lists


def _write_index(index: Any, file: Path) -> None:
    """faiss.write_index, whose failures to write are told as what they are: errors of the disk."""
    try:
        faiss.write_index(index, str(file))
    except RuntimeError as error:
        full = os.strerror(errno.ENOSPC) in str(error)
        reason = os.strerror(errno.ENOSPC) if full else str(error).strip().splitlines()[-1]
        raise OSError(errno.ENOSPC if full else errno.EIO, reason, str(file)) from None
