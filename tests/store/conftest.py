"""A small published generation of each kind, made once."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench.data import clustered
from index_builders.build import BuildReport, build
from index_builders.settings import make_settings


@pytest.fixture(scope="session")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., BuildReport]:
    """make_store(root, **settings): build 700 rows x 16 into a store at root."""
    source = tmp_path_factory.mktemp("source")
    np.save(source / "x.npy", clustered(700, 16, seed=1, clusters=10, intrinsic=8))
    np.save(source / "ids.npy", np.arange(700, dtype=np.int64))

    def do(root: Path, **values: object) -> BuildReport:
        defaults = {
            "entity_type": "pin",
            "workers": 0,
            "verify_queries": 10,
            "space_id": "s",
            "ids": source / "ids.npy",
        }
        return build(make_settings(source=source / "x.npy", store=root, **{**defaults, **values}))

    return do
