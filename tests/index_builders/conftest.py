"""Small sources for build tests: clustered unit vectors as Parquet, and a build that runs in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.data import clustered
from index_builders.build import BuildReport, build
from index_builders.settings import make_settings


def table(x: np.ndarray, ids: list[Any] | None = None, **columns: Any) -> pa.Table:
    n, d = x.shape
    flat = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), d)
    names = ids if ids is not None else [f"e{i}" for i in range(n)]
    return pa.table({"id": names, "embedding": flat, **columns}).replace_schema_metadata({"space_id": "sp-test"})


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(x or n, ids=None, **columns) -> Parquet path."""

    def do(x: np.ndarray | int, ids: list[Any] | None = None, name: str = "source.parquet", **columns: Any) -> Path:
        if isinstance(x, int):
            x = clustered(x, 16, seed=3, clusters=20, intrinsic=8)
        pq.write_table(table(x, ids, **columns), tmp_path / name)
        return tmp_path / name

    return do


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., BuildReport]:
    """run(source, **settings) -> report of a build into tmp_path/store, in this process."""

    def do(source: Path, **values: Any) -> BuildReport:
        defaults = {"store": tmp_path / "store", "entity_type": "pin", "workers": 0, "verify_queries": 20}
        return build(make_settings(source=source, **{**defaults, **values}))

    return do
