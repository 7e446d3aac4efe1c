"""Opening what an index writer wrote: a JSON description and plain .npy arrays, memory-mapped, refused when unexpected.

A file is either exactly of the dtype, shape and order that its description promises, or DamagedData names the file and
what was found. Nothing is unpickled. Knows nothing about what the arrays mean.
"""

from __future__ import annotations

import io
import json
import math
import mmap
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from retrieval.errors import DamagedData
from retrieval.types import AnyArray

DESCRIPTION = "index.json"
VECTORS = "vectors.npy"
_MAX_DESCRIPTION_BYTES = 1 << 20


class Description(BaseModel):
    """What every index's description begins with; unknown keys, wrong types and other versions are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: str
    version: int


_D = TypeVar("_D", bound=Description)


def write_description(description: Description, out: Path) -> None:
    """Write `out`/index.json."""
    text = json.dumps(description.model_dump(mode="json"), indent=1)
    (out / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def read_description(path: Path, cls: type[_D], format_name: str, version: int) -> _D:
    """The description of the index in directory `path`; DamagedData when it is not of this format and version."""
    file = path / DESCRIPTION
    try:
        with file.open("rb") as stream:
            text = stream.read(_MAX_DESCRIPTION_BYTES + 1)
        found: Any = json.loads(text) if len(text) <= _MAX_DESCRIPTION_BYTES else None
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedData(f"{file} cannot be read: {error}") from None
    if not isinstance(found, dict) or found.get("format") != format_name:
        raise DamagedData(f"{file} does not describe a {format_name} index")
    if found.get("version") != version:
        raise DamagedData(f"{file} has version {found.get('version')!r}, this release reads version {version}")
    try:
        return cls.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise DamagedData(f"{file}: {name} is not acceptable: {first['msg'].lower()}") from None


def open_array(path: Path, name: str, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> AnyArray:
    """The array `path`/`name`, read-only and memory-mapped, of exactly this dtype and shape in C order."""
    file = path / name
    wanted = np.dtype(dtype)
    quick = _map(file, wanted, shape)
    if quick is not None:
        return quick
    try:
        # an empty array cannot be mapped, and costs nothing to read
        found = np.load(file, mmap_mode="r" if 0 not in shape else None, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError) as error:
        raise DamagedData(f"{file} cannot be opened: {error}") from None
    if not isinstance(found, np.ndarray):
        found.close()
        raise DamagedData(f"{file} is an archive, not an array")
    if found.dtype != wanted or found.shape != shape or not found.flags.c_contiguous:
        raise DamagedData(
            f"{file} holds {found.dtype} {list(found.shape)}"
            f"{'' if found.flags.c_contiguous else ' in Fortran order'}, expected {wanted} {list(shape)} in C order"
        )
    found.flags.writeable = False
    return found


def _map(file: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> AnyArray | None:
    """The array when the file begins with just the header that numpy writes for it, else None: `np.load` then says why.

    A tenth of what `np.load` takes with the interpreter's lock held, which counts where calls are served beside it.
    """
    head = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, described)
    expected = head.getvalue()
    size = dtype.itemsize * math.prod(shape)
    try:
        with file.open("rb") as stream:
            if size == 0 or stream.read(len(expected)) != expected:
                return None
            mapped = mmap.mmap(stream.fileno(), len(expected) + size, access=mmap.ACCESS_READ)
    except (OSError, ValueError, OverflowError):
        return None
    found: AnyArray = np.ndarray(shape, dtype, buffer=mapped, offset=len(expected))
    return found


def _mapping_of(array: AnyArray) -> mmap.mmap | None:
    found: Any = array
    while isinstance(found, np.ndarray):
        found = found.base
    return found if isinstance(found, mmap.mmap) else None


def read_at_random(array: AnyArray) -> None:
    """Tell the system that a mapped array is read here and there, so that it fetches no neighbouring pages."""
    mapping = _mapping_of(array)
    if mapping is not None and hasattr(mmap, "MADV_RANDOM"):
        mapping.madvise(mmap.MADV_RANDOM)


def give_back_pages(array: AnyArray) -> None:
    """Let the system take a mapped array's pages out of this process; the next read brings them back from the file."""
    mapping = _mapping_of(array)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)
