"""A small published generation of each kind, made once."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from object_storage import Storage, serving
from tiny_store import make_store as write_store

from bench.data import clustered
from index_builders.build import BuildReport, build
from index_builders.settings import make_settings
from retrieval.store import Mirror, RemoteSettings


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


@pytest.fixture(scope="session")
def storage() -> Iterator[Storage]:
    """A real S3 server over HTTP, one for all tests of the session."""
    pytest.importorskip("s3fs", reason="of the extra `s3`")
    pytest.importorskip("moto", reason="of the extra `dev`")
    with serving() as found:
        yield found


@pytest.fixture
def made(tmp_path: Path) -> list[str]:
    """Two generations in the local store at tmp_path/local, the second with the first as a predecessor."""
    return [write_store(tmp_path / "local", 60, 4, 2, seed=seed, canaries=True).manifest.id for seed in range(2)]


@pytest.fixture(params=["folder", "memory", "s3"])
def mirror(request: pytest.FixtureRequest, tmp_path: Path, made: list[str]) -> Mirror:
    url, settings = f"memory://{uuid.uuid4().hex}/store", RemoteSettings(threads=2, chunk_bytes=4096)
    if request.param == "folder":
        url = f"file://{tmp_path / 'shared'}"
    if request.param == "s3":
        storage: Storage = request.getfixturevalue("storage")
        url, settings = storage.new_url(), storage.settings(chunk_bytes=4096)
    return Mirror(url, tmp_path / "local", settings=settings)
