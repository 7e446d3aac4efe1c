"""What may not be read or written is told in one sentence, and nothing changes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_store import make_store

from index_builders.check import check_generation
from retrieval.errors import StoreError
from retrieval.store import Lease, Mirror, Store
from retrieval.store.gc import collect_garbage

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """Outside of pytest's own folder, which only its owner may enter."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    for each in (path, *path.rglob("*")):
        each.chmod(0o755)
    shutil.rmtree(path)


@contextmanager
def another_user(top: Path, mode: int) -> Iterator[None]:
    """Take rights from everything below `top`, and the rights of root from this process."""
    for path in sorted(top.rglob("*"), reverse=True):
        path.chmod(mode if path.is_dir() else mode & 0o666)
    top.chmod(mode)
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)
        top.chmod(0o755)


def test_a_store_that_may_only_be_read(folder):
    first, second = (make_store(folder / "store", 20, 4, 1, seed=seed).manifest.id for seed in range(2))
    (folder / "store/pin/staging/x").mkdir(parents=True)
    store = Store(folder / "store")
    with another_user(folder / "store", 0o555):
        assert store.open("pin", second).manifest.id == second
        for change in (
            lambda: store.publish("pin", first),
            lambda: store.rollback("pin"),
            lambda: store.remove("pin", first),
            lambda: store.prepare("product"),
            lambda: store.admit(folder / "store/pin/staging/x", "pin", "000003-00000000"),
            lambda: collect_garbage(store, "pin", keep=1),
            lambda: Lease(folder / "store/pin", owner="job").acquire(),
            lambda: Mirror(f"file://{folder / 'store'}", folder / "copy"),
        ):
            with pytest.raises(StoreError, match=r"^cannot \w+ .*Permission denied"):
                change()
        assert [each.name for each in collect_garbage(store, "pin", keep=1, dry_run=True)] == [first, "staging/x"][:1]
    assert store.current("pin") == second
    assert store.generations("pin") == [first, second]


def test_a_store_that_may_not_even_be_read(folder):
    made = make_store(folder / "store", 20, 4, 1)
    denied = pytest.raises(StoreError, match=r"^cannot read .*Permission denied")
    with another_user(folder / "store" / "pin" / "generations", 0o000), denied:
        Store(folder / "store").open("pin", made.manifest.id)
    made.path.parent.chmod(0o755)
    for path in (made.path, *made.path.rglob("*")):
        path.chmod(0o755)
    with another_user(made.path / "shard-00000", 0o000):
        with pytest.raises(StoreError, match=r"^cannot read .*shard-00000: Permission denied"):
            Store(folder / "store").open("pin", made.manifest.id)
        with pytest.raises(StoreError, match=r"^cannot read .*shard-00000: Permission denied"):
            check_generation(made.path)
    for path in (made.path / "shard-00000").iterdir():
        path.chmod(0o644)
    file = made.path / "shard-00000" / "vectors.npy"
    with another_user(file, 0o000):
        found = {each.name: each.finding for each in check_generation(made.path) if not each.good}
        assert found["shard-00000/vectors.npy"].endswith("vectors.npy: Permission denied")
