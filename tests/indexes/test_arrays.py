"""Mapped arrays: the quick way gives what numpy gives, and whatever is odd goes numpy's way and is named."""

import mmap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import DamagedData
from retrieval.indexes.arrays import give_back_pages, open_array, read_at_random

NAME = "vectors.npy"


def _mapped(array: np.ndarray) -> bool:  # type: ignore[type-arg]
    found = array
    while isinstance(found, np.ndarray):
        found = found.base  # type: ignore[assignment]
    return isinstance(found, mmap.mmap)


@given(
    rows=st.integers(0, 7),
    columns=st.integers(1, 5),
    dtype=st.sampled_from(["float16", "float32", "int32", "uint8", "uint64"]),
)
def test_what_numpy_wrote_is_read_back_mapped_and_read_only(
    tmp_path_factory: pytest.TempPathFactory, rows: int, columns: int, dtype: str
) -> None:
    folder = tmp_path_factory.mktemp("arrays")
    written = np.arange(rows * columns).reshape(rows, columns).astype(dtype)
    np.save(folder / NAME, written)
    found = open_array(folder, NAME, dtype, (rows, columns))
    assert found.dtype == written.dtype
    np.testing.assert_array_equal(found, written)
    assert _mapped(found) == (rows > 0)
    assert rows == 0 or not found.flags.writeable
    read_at_random(found)
    give_back_pages(found)
    np.testing.assert_array_equal(found, written)


@pytest.mark.parametrize("fault", ["shape", "dtype", "fortran", "short", "empty", "absent", "text"])
def test_an_array_that_is_not_what_was_promised_is_damaged(tmp_path: Path, fault: str) -> None:
    file, array = tmp_path / NAME, np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(file, np.asfortranarray(array) if fault == "fortran" else array)
    if fault == "short":
        file.write_bytes(file.read_bytes()[:-1])
    if fault == "empty":
        file.write_bytes(b"")
    if fault == "text":
        file.write_text("no array")
    if fault == "absent":
        file.unlink()
    shape, dtype = ((3, 2) if fault == "shape" else (2, 3)), ("float16" if fault == "dtype" else "float32")
    with pytest.raises(DamagedData, match=NAME):
        open_array(tmp_path, NAME, dtype, shape)


def test_a_header_written_in_another_way_is_read_all_the_same(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    with (tmp_path / NAME).open("wb") as file:
        np.lib.format.write_array(file, array, version=(2, 0))
    np.testing.assert_array_equal(open_array(tmp_path, NAME, "float32", (2, 3)), array)
