"""The n-th write, fsync or rename of a publish fails, for every n: the old generation serves, the next run is clean."""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_builders import build as build_module
from index_builders.build import BuildReport, build
from index_builders.settings import BuildSettings, make_settings
from retrieval.errors import StoreError
from retrieval.store import Store

# what the system may answer, and whether half of the bytes land before it does
FAILURES = {
    "write": [(errno.EIO, False), (errno.ENOSPC, False), (errno.ENOSPC, True)],
    "fsync": [(errno.EIO, False), (errno.ENOSPC, False)],
    "rename": [(errno.EIO, False), (errno.ENOSPC, False)],
}


@dataclass
class Disk:
    """Counts what is done to files below `root` while armed, and fails the n-th operation of one sort.

    lasting: every later operation of the sort fails too, as on a disk that has died.
    """

    root: Path
    sort: str = ""
    n: int = 0
    code: int = 0
    short: bool = False
    lasting: bool = False
    armed: bool = False
    counts: dict[str, int] = field(default_factory=lambda: {"write": 0, "fsync": 0, "rename": 0})

    def step(self, sort: str) -> bool:
        """Count one operation; whether it has to fail."""
        if not self.armed:
            return False
        self.counts[sort] += 1
        done = self.counts[sort]
        return sort == self.sort and (done == self.n or (self.lasting and done > self.n))

    def fail(self) -> OSError:
        return OSError(self.code, os.strerror(self.code))


class File:
    """An open file whose writes go through the disk."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self._file, self._disk = file, disk

    def write(self, data: Any) -> int:
        if self._disk.step("write"):
            if self._disk.short:
                self._file.write(data[: len(data) // 2])
                self._file.flush()
            raise self._disk.fail()
        return int(self._file.write(data))

    def __enter__(self) -> File:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __iter__(self) -> Any:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def faulty(disk: Disk, monkeypatch: pytest.MonkeyPatch, arm_at: str) -> Iterator[None]:
    """Patch the calls that write; count during publish, or from the stage train to the end."""
    real_open, fsync, rename, replace, sendfile = io.open, os.fsync, os.rename, os.replace, os.sendfile
    publish, train = build_module.publish.publish, build_module.train

    def open_(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        opened = real_open(file, mode, *args, **options)
        writes = any(letter in mode for letter in "wax+")
        inside = writes and isinstance(file, (str, Path)) and Path(file).is_relative_to(disk.root)
        return File(opened, disk) if inside else opened

    def failing(sort: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if disk.step(sort):
                raise disk.fail()
            return real(*args, **options)

        return call

    def armed_publish(*args: Any, **options: Any) -> Any:
        disk.armed = True
        try:
            return publish(*args, **options)
        finally:
            disk.armed = False

    def arming_train(*args: Any, **options: Any) -> Any:
        disk.armed = True
        return train(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(io, "open", open_)
        patched.setattr(builtins, "open", open_)
        patched.setattr(os, "fsync", failing("fsync", fsync))
        patched.setattr(os, "rename", failing("rename", rename))
        patched.setattr(os, "replace", failing("rename", replace))
        patched.setattr(os, "sendfile", failing("write", sendfile))
        if arm_at == "publish":
            patched.setattr(build_module.publish, "publish", armed_publish)
        else:
            patched.setattr(build_module, "train", arming_train)
        try:
            yield
        finally:
            disk.armed = False


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, int], BuildSettings]:
    source = tmp_path_factory.mktemp("source")
    np.save(source / "x.npy", np.random.default_rng(0).standard_normal((24, 4)).astype(np.float32))
    np.save(source / "ids.npy", np.arange(24, dtype=np.int64))

    def settings(store: Path, seed: int) -> BuildSettings:
        return make_settings(
            source=source / "x.npy",
            ids=source / "ids.npy",
            store=store,
            entity_type="pin",
            workers=0,
            verify_queries=1,
            space_id="s",
            kind="flat",
            seed=seed,
        )

    return settings


def leftovers(store: Path) -> list[str]:
    return [
        str(path.relative_to(store))
        for path in store.rglob("*")
        if path.name.endswith(".tmp") or path.name.startswith(".removed") or path.name == "staging"
    ]


def _stop(*args: object, **options: object) -> None:
    raise StoreError("stopped before publish")


class _Survived(Exception): ...


def one_case(
    store: Path,
    old: BuildReport,
    settings: BuildSettings,
    disk: Disk,
    monkeypatch: pytest.MonkeyPatch,
    arm_at: str,
) -> None:
    house = Store(store)
    # shutil.copyfile answers a failing sendfile with plain writes, so such a fault may cost nothing
    told = pytest.raises((StoreError, _Survived), match=r"^(cannot \w+ .*: .+|survived)")
    with faulty(disk, monkeypatch, arm_at), told as raised:
        raise _Survived(f"survived with {build(settings).manifest.id}")
    if raised.type is _Survived:
        assert arm_at == "train"
        house.open("pin", house.current("pin"))
        return
    assert house.current("pin") == old.manifest.id
    house.open("pin", old.manifest.id)
    report = build(settings)
    assert report.live
    assert house.current("pin") == report.manifest.id
    house.open("pin", report.manifest.id)
    assert leftovers(store) == []


def run(
    plans: Callable[[Path, int], BuildSettings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arm_at: str,
    *,
    lasting: bool = False,
    step: int = 1,
) -> int:
    """Every n of every sort of operation and every failure, each on a fresh copy of a store with one generation."""
    template = tmp_path / "template"
    old = build(plans(template, 0))
    if arm_at == "publish":  # all that comes before it is done once and resumed by every case
        with monkeypatch.context() as patched:
            patched.setattr(build_module.publish, "publish", _stop)
            with pytest.raises(StoreError, match="stopped before publish"):
                build(plans(template, 1))
    counting = tmp_path / "counting"
    shutil.copytree(template, counting)
    disk = Disk(root=counting)
    with faulty(disk, monkeypatch, arm_at):
        build(plans(counting, 1))
    cases = 0
    for sort, failures in FAILURES.items():
        assert disk.counts[sort] > 0, "the injection sees nothing"
        for n in range(1, disk.counts[sort] + 1, step):
            for code, short in failures:
                store = tmp_path / f"{sort}-{n}-{code}-{short}"
                shutil.copytree(template, store)
                broken = Disk(root=store, sort=sort, n=n, code=code, short=short, lasting=lasting)
                one_case(store, old, plans(store, 1), broken, monkeypatch, arm_at)
                shutil.rmtree(store)
                cases += 1
    print(f"{arm_at}{' and on' if lasting else ''}: {cases} faults over {disk.counts}")
    return cases


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
def test_every_fault_in_publish(plans, tmp_path, monkeypatch, lasting):
    assert run(plans, tmp_path, monkeypatch, "publish", lasting=lasting) >= 20


@pytest.mark.long
def test_every_fault_from_train_to_publish(plans, tmp_path, monkeypatch):
    assert run(plans, tmp_path, monkeypatch, "train") >= 80
