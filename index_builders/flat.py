"""Writes a flat shard: the vectors as they are, in float16 or float32, and a description.

Knows nothing about ids, attributes, checksums or manifests.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from retrieval.errors import InvalidData
from retrieval.indexes.arrays import VECTORS, write_description
from retrieval.indexes.flat import FORMAT, VERSION, FlatDescription
from retrieval.params import FlatBuild
from retrieval.types import F32, AnyArray, Metric, VectorDtype

_CHUNK_ROWS = 16_384


def build_shard(
    vectors: F32,
    out: Path,
    *,
    params: FlatBuild,
    metric: Metric,
    seed: int = 0,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> dict[str, object]:
    """Write the flat index of vectors [n, d] into the directory `out`; `progress` hears the number of rows done.

    Returns a JSON-able report, and under "order" int64 [n]: row r of the shard is row order[r] of `vectors`. Raises
    InvalidData when there is no row, or when a value does not fit the stored type.
    """
    n, d = vectors.shape
    if n == 0:
        raise InvalidData("an index needs at least one row")
    order = np.arange(n, dtype=np.int64)
    write_vectors(vectors, out, None, params.vectors, progress)
    write_description(
        FlatDescription.model_validate(
            {
                "format": FORMAT,
                "version": VERSION,
                "n": n,
                "d": d,
                "metric": str(metric),
                "vectors": str(params.vectors),
            }
        ),
        out,
    )
    return {"order": order, "vectors": str(params.vectors)}


def write_vectors(
    vectors: F32, out: Path, order: AnyArray | None, dtype: VectorDtype, progress: Callable[[int], None] | None = None
) -> None:
    """Write `out`/vectors.npy: vectors[order] (None: as they are) as `dtype`, without a second copy in memory."""
    limit = float(np.finfo(np.dtype(str(dtype))).max)

    def chunks() -> Iterator[AnyArray]:
        for first in range(0, len(vectors), _CHUNK_ROWS):
            rows = slice(first, first + _CHUNK_ROWS)
            part = np.asarray(vectors[rows if order is None else order[rows]])
            largest = float(np.abs(part).max())
            if not largest <= limit:
                raise InvalidData(
                    f"a vector holds {largest:g}, {dtype} ends at {limit:g}; use float32 or scale the vectors"
                )
            yield part.astype(str(dtype), copy=False)
            if progress is not None:
                progress(min(first + _CHUNK_ROWS, len(vectors)))

    write_array(out / VECTORS, str(dtype), vectors.shape, chunks())


def allocate_array(file: Path, dtype: str, shape: tuple[int, ...]) -> AnyArray:
    """A new .npy file mapped for writing, its room on disk taken first: a hole on a full disk kills the process."""
    with file.open("wb") as stream:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.flush()
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), stream.tell(), size)
        else:
            stream.truncate(stream.tell() + size)
    return np.asanyarray(np.load(file, mmap_mode="r+"))


def write_array(file: Path, dtype: str, shape: tuple[int, ...], chunks: Iterator[AnyArray]) -> None:
    """Write a .npy file of this dtype and shape from consecutive chunks of its rows."""
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype).newbyteorder("<"))
    with file.open("wb") as stream:
        header = {"descr": descr, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for chunk in chunks:
            stream.write(np.ascontiguousarray(chunk).data)
