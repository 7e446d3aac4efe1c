"""Vectors of published benchmark files: .fvecs, .bvecs, .ivecs (TEXMEX) and the HDF5 of ann-benchmarks.

A TEXMEX file is a row after row of an int32 dimension and that many values (float32, uint8, int32). What is read is
checked: a file that ends inside a row, or whose rows differ in dimension, is refused. Knows nothing about engines.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import InvalidData, MissingDependency
from retrieval.types import F32, AnyArray

_VALUES: dict[str, type[np.generic]] = {".fvecs": np.float32, ".bvecs": np.uint8, ".ivecs": np.int32}
VECS = tuple(_VALUES)
HDF5 = (".hdf5", ".h5")
_MAX_DIM = 65_536


def read_vecs(path: Path, limit: int | None = None) -> AnyArray:
    """All rows [n, d], or the first `limit`, of a TEXMEX file in its own type.

    Raises InvalidData for a file that is absent, empty, truncated or whose rows differ in dimension.
    """
    dtype = np.dtype(_VALUES[path.suffix])
    size = _size(path)
    if size < 4:
        raise InvalidData(f"{path} has {size} bytes, less than the dimension of one row: fetch it again")
    d = int(np.fromfile(path, dtype="<i4", count=1)[0])
    if not 1 <= d <= _MAX_DIM:
        raise InvalidData(
            f"{path} says its first row has {d} dimensions, of 1 to {_MAX_DIM}: it is no {path.suffix} file"
        )
    row_bytes = 4 + d * dtype.itemsize
    if size % row_bytes:
        raise InvalidData(
            f"{path} is truncated: {size} bytes are no multiple of the {row_bytes} bytes of a row of {d} dimensions; "
            "fetch it again"
        )
    count = size // row_bytes if limit is None else min(limit, size // row_bytes)
    raw = np.memmap(path, dtype=np.uint8, mode="r", shape=(size // row_bytes, row_bytes))[:count]
    dims = np.ascontiguousarray(raw[:, :4]).view("<i4")[:, 0]
    if (dims != d).any():
        row = int(np.flatnonzero(dims != d)[0])
        raise InvalidData(f"row {row} of {path} has {dims[row]} dimensions and row 0 has {d}: the file is damaged")
    return np.ascontiguousarray(raw[:, 4:]).view(dtype.newbyteorder("<"))


def read_hdf5(path: Path, *, limit_queries: int) -> tuple[F32, F32, bool]:
    """Base and queries, float32 [n, d] and [q, d], of an ann-benchmarks file (its `train` and `test`).

    And whether it has the nearest rows by cosine, which `read_truth` reads. Raises InvalidData for a file that is
    damaged or lacks one of the two, MissingDependency without h5py.
    """
    with _hdf5(path) as file:
        missing = [name for name in ("train", "test") if name not in file]
        if missing:
            raise InvalidData(f"{path} has no data set {missing[0]!r}: an ann-benchmarks file has train and test")
        distance = file.attrs.get("distance")
        distance = distance.decode() if isinstance(distance, bytes) else distance
        xb, xq = np.asarray(file["train"], np.float32), np.asarray(file["test"][:limit_queries], np.float32)
        return xb, xq, "neighbors" in file and distance == "angular"


def read_truth(path: Path, limit: int) -> AnyArray:
    """The publisher's nearest rows [q, k] of the first `limit` queries, of an .ivecs or HDF5 file."""
    if path.suffix in VECS:
        return read_vecs(path, limit)
    with _hdf5(path) as file:
        found = np.asarray(file["neighbors"][:limit])
        if found.ndim != 2:
            raise InvalidData(f"the neighbors of {path} have the shape {found.shape}: rows of them are needed")
        return found


@contextlib.contextmanager
def _hdf5(path: Path) -> Iterator[Any]:
    _size(path)
    try:
        import h5py
    except ImportError:
        raise MissingDependency(f"{path} needs h5py, which is not installed: pip install 'retrieval[peers]'") from None
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, ValueError, TypeError) as error:
        raise InvalidData(f"{path} cannot be read as HDF5 ({error}): fetch it again") from None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise InvalidData(f"{path} cannot be read ({error.strerror}): give the path of a file") from None
