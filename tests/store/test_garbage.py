"""Garbage of a local store: what goes, what stays, and that nothing of a living job is taken for rubbish."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path

import pytest
from tiny_store import make_store

from retrieval.cli.gc import gc
from retrieval.errors import FailedPrecondition, InvalidArgument, NoGeneration, StoreError
from retrieval.store import Lease, Manifest, Store
from retrieval.store.gc import collect_garbage


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Five generations, the last live."""
    for seed in range(5):
        make_store(tmp_path / "store", 20, 4, 1, seed=seed)
    return Store(tmp_path / "store")


def names(found: list) -> list[tuple[str, str]]:
    return [(each.kind, each.name) for each in found]


def adopt(store: Store, child: str, parent: str) -> None:
    """Put a parent on record in a manifest."""
    file = store.generation_path("pin", child) / "manifest.json"
    manifest = Manifest.from_bytes(file.read_bytes(), where="m")
    file.write_bytes(manifest.model_copy(update={"parent": parent}).to_bytes())


def test_the_newest_the_live_one_and_its_parent_stay(store):
    first, second, third, fourth, fifth = store.generations("pin")
    adopt(store, third, second)
    store.publish("pin", third)
    planned = collect_garbage(store, "pin", keep=1, dry_run=True)
    assert names(planned) == [("generation", first), ("generation", fourth)]
    assert store.generations("pin") == [first, second, third, fourth, fifth]
    assert collect_garbage(store, "pin", keep=1) == planned
    assert store.generations("pin") == [second, third, fifth]
    assert names(collect_garbage(store, "pin", keep=1, keep_parent=False)) == [("generation", second)]
    assert collect_garbage(store, "pin", keep=9, keep_parent=False) == []
    assert all(each.size_bytes > 0 for each in planned)


def test_what_dead_jobs_left_goes_once_it_is_stale(store):
    home = store.root / "pin"
    for name in ("staging/abc/work", "fetching/000009-00000000"):
        (home / name).mkdir(parents=True)
        (home / name / "file").write_bytes(b"x" * 100)
    (home / "fetching/000009-00000000.lock").touch()
    (home / "CURRENT.12.tmp").touch()
    (home / "generations/.removed-000001-00000000").mkdir()
    found = collect_garbage(store, "pin", keep=9, stale_s=3600.0)
    assert names(found) == [
        ("temporary", "CURRENT.12.tmp"),
        ("temporary", "generations/.removed-000001-00000000"),
    ]
    hour_ago = time.time() - 3601
    for path in [home / "fetching/000009-00000000.lock", *home.rglob("staging/**/*"), *home.rglob("fetching/0*")]:
        os.utime(path, (hour_ago, hour_ago))
    for path in [home / "staging/abc", home / "staging/abc/work", home / "fetching/000009-00000000/file"]:
        os.utime(path, (hour_ago, hour_ago))
    with (home / "fetching/000009-00000000.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = collect_garbage(store, "pin", keep=9, stale_s=3600.0)
    assert names(found) == [("staging", "staging/abc")]
    assert found[0].size_bytes == 100
    found = collect_garbage(store, "pin", keep=9, stale_s=3600.0)
    assert names(found) == [
        ("fetching", "fetching/000009-00000000"),
        ("fetching", "fetching/000009-00000000.lock"),
    ]
    assert sorted(path.name for path in home.iterdir()) == ["CURRENT", "build.lock", "generations", "lease.json"]


def test_while_nothing_or_something_damaged_is_live_every_generation_stays(store):
    (store.root / "pin/CURRENT").unlink()
    assert collect_garbage(store, "pin", keep=1) == []
    fifth = store.generations("pin")[-1]
    store.publish("pin", fifth)
    (store.generation_path("pin", fifth) / "manifest.json").write_text("{}")
    assert collect_garbage(store, "pin", keep=1) == []
    (store.root / "pin/CURRENT").write_text("nonsense")
    with pytest.raises(StoreError, match="CURRENT does not name a generation: 'nonsense'"):
        collect_garbage(store, "pin", keep=1)
    assert len(store.generations("pin")) == 5


def test_never_beside_another_job(store):
    home = store.root / "pin"
    with (home / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(
            FailedPrecondition, match=r"a build of 'pin' is at work in .*: collect garbage when it has en"
        ):
            collect_garbage(store, "pin", keep=1)
    with Lease(home, owner="rebuild", lease_s=1.5) as lease:
        with pytest.raises(FailedPrecondition, match=r"rebuild is at work on .*pin \(process"):
            collect_garbage(store, "pin", keep=1)
        assert len(collect_garbage(store, "pin", keep=3, lease=lease)) == 2  # the holder itself may
    with pytest.raises(FailedPrecondition, match="is not held, so nothing may be published"):
        collect_garbage(store, "pin", keep=1, lease=lease)
    assert len(store.generations("pin")) == 3


def test_what_is_refused(store):
    with pytest.raises(InvalidArgument, match="keep = 0 is not acceptable: at least 1 generation stays"):
        collect_garbage(store, "pin", keep=0)
    with pytest.raises(InvalidArgument, match=r"stale_s = -1\.0 is not acceptable: 0 seconds or more"):
        collect_garbage(store, "pin", stale_s=-1.0)
    with pytest.raises(NoGeneration, match=r"has no entity type 'nope'; there are: pin"):
        collect_garbage(store, "nope")
    assert not (store.root / "nope").exists()


def test_the_command_prints_what_and_how_much(store, capsys):
    gc(str(store.root), keep=4, dry_run=True, as_json=True)
    printed = capsys.readouterr().out.splitlines()
    first = store.generations("pin")[0]
    assert printed[0].startswith(f"pin: would remove generation {first}, 0.0 MiB")
    assert printed[1].startswith("to remove: 1 generation, 0.0 MiB")
    told = json.loads(printed[2])
    assert told["dry_run"]
    assert told["removed"]["pin"][0]["name"] == first
    assert told["size_bytes"] == sum(f.stat().st_size for f in store.generation_path("pin", first).rglob("*.*"))
    gc(str(store.root), "pin", keep=4)
    assert capsys.readouterr().out.startswith(f"pin: removed generation {first}, ")
    assert first not in store.generations("pin")
