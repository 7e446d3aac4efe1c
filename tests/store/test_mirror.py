"""A store at a URL and its local copy: complete before it is seen, checked on arrival, resumable, one sentence each."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from object_storage import elsewhere
from tiny_store import make_store

from retrieval.errors import DamagedData, FailedPrecondition, NoGeneration, StoreError
from retrieval.store import Lease, Mirror, RemoteStore, Store, bucket, transfer
from retrieval.store.gc import collect_garbage


def test_there_and_back(mirror, made, tmp_path):
    first, second = made
    with pytest.raises(NoGeneration, match="nothing is published for entity type 'pin' in "):
        mirror.current("pin")
    with mirror.lease("pin", owner="job") as lease:
        assert mirror.push("pin", first) == 8
        assert mirror.push("pin", first) == 0
        mirror.move_pointer("pin", first, expected=None, lease=lease)
        mirror.push("pin", second)
        mirror.move_pointer("pin", second, expected=first, lease=lease)
        with pytest.raises(FailedPrecondition, match=rf"CURRENT names {second}, not {first} as when this job began"):
            mirror.move_pointer("pin", first, expected=first, lease=lease)
    assert mirror.entity_types() == ["pin"]
    assert mirror.generations("pin") == made
    there = elsewhere(mirror, tmp_path / "server")
    assert there.follow("pin") == second == there.store.current("pin")
    here = mirror.store.generation_path("pin", second)
    for file in here.rglob("*"):
        if file.is_file():
            copy = there.store.generation_path("pin", second) / file.relative_to(here)
            assert copy.read_bytes() == file.read_bytes()
    assert not list((tmp_path / "server").rglob("*.tmp"))
    assert mirror.rollback("pin") == first == mirror.current("pin")
    with pytest.raises(NoGeneration, match=f"no generation of 'pin' that was live before {first}"):
        mirror.rollback("pin")
    with pytest.raises(StoreError, match=f"generation {first} of 'pin' is live in .*: publish another first"):
        mirror.delete("pin", first)
    assert mirror.delete("pin", second) > 0
    assert mirror.generations("pin") == [first]


def test_a_pointer_never_moves_to_what_is_not_whole(mirror, made):
    first, second = made
    mirror.push("pin", first)
    mirror.move_pointer("pin", first)
    with pytest.raises(NoGeneration, match=f"no generation '{second}' of 'pin' in .*; there are: {first}"):
        mirror.move_pointer("pin", second)
    mirror.push("pin", second)
    mirror.place.delete([f"pin/generations/{second}/shard-00000/vectors.npy"])
    with pytest.raises(
        DamagedData, match=rf"generation {second} in .* is not whole \(shard-00000/vectors\.npy, 1 files"
    ):
        mirror.move_pointer("pin", second)
    assert mirror.current("pin") == first
    assert mirror.findings("pin", second) == {"shard-00000/vectors.npy": "missing"}


def test_a_job_without_its_lease_moves_nothing(mirror, made):
    mirror.push("pin", made[0])
    lease = Lease(mirror.home("pin"), owner="job")
    with pytest.raises(FailedPrecondition, match="is not held, so nothing may be published"):
        mirror.move_pointer("pin", made[0], lease=lease)
    with pytest.raises(NoGeneration, match="nothing is published"):
        mirror.current("pin")


def spoil(mirror: Mirror, name: str, data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "spoilt"
    file.write_bytes(data)
    mirror.place.put(file, name)


@pytest.mark.parametrize("spoilt", [b"", b"short", None], ids=["empty", "short", "flipped"])
def test_damage_at_the_url_never_arrives(mirror, made, tmp_path, spoilt):
    first, second = made
    for generation in made:
        mirror.push("pin", generation)
    mirror.move_pointer("pin", second)
    good = (mirror.store.generation_path("pin", second) / "shard-00001/vectors.npy").read_bytes()
    name = f"pin/generations/{second}/shard-00001/vectors.npy"
    data = bytes([*good[:-1], good[-1] ^ 1]) if spoilt is None else spoilt
    spoil(mirror, name, data, tmp_path)
    there = elsewhere(mirror, tmp_path / "server")
    with pytest.raises(
        DamagedData, match=r"shard-00001/vectors\.npy arrives other than its manifest says, twice: roll"
    ):
        there.fetch("pin")
    assert there.store.generations("pin") == []
    assert list(mirror.findings("pin", second)) == ["shard-00001/vectors.npy"]
    assert mirror.push("pin", second) == 1  # sent again, and only that
    assert there.fetch("pin") == second
    spoil(mirror, name, data, tmp_path)
    assert mirror.rollback("pin") == first


def test_a_damaged_local_copy_is_fetched_again(mirror, made, tmp_path):
    mirror.push("pin", made[0])
    there = elsewhere(mirror, tmp_path / "server")
    there.fetch("pin", made[0])
    file = there.store.generation_path("pin", made[0]) / "shard-00000/vectors.npy"
    file.write_bytes(file.read_bytes()[:-1])
    assert there.fetch("pin", made[0]) == made[0]
    there.store.open("pin", made[0])


def test_a_fetch_goes_on_where_it_stopped(mirror, tmp_path, monkeypatch):
    made = [make_store(tmp_path / "local", 4000, 8, 2, seed=5).manifest.id]  # files of many chunks
    mirror.push("pin", made[0])
    there = elsewhere(mirror, tmp_path / "server")
    real, read = type(there.place).read_range, []

    def counting(self: object, name: str, start: int, stop: int) -> bytes:
        read.append(stop - start)
        if len(read) == 5:
            raise KeyboardInterrupt
        return real(self, name, start, stop)

    total = sum(entry.size_bytes for entry in mirror.manifest("pin", made[0]).files.values())
    monkeypatch.setattr(type(there.place), "read_range", counting)
    with pytest.raises(KeyboardInterrupt):
        there.fetch("pin", made[0])
    assert there.store.generations("pin") == []
    kept = [path.stat().st_size for path in (tmp_path / "server/pin/fetching").rglob("*") if path.is_file()]
    assert any(path.name.endswith(".part.tmp") for path in (tmp_path / "server").rglob("*"))
    read[:] = [0] * 5
    there.fetch("pin", made[0])
    assert sum(read) == total - sum(kept)  # not one byte is read twice
    there.store.open("pin", made[0])
    assert not list((tmp_path / "server").rglob("*.tmp"))


def test_a_push_goes_on_where_it_stopped(mirror, made, monkeypatch):
    real, sent = type(mirror.place).put, []

    def stopping(self: object, source: Path, name: str) -> None:
        sent.append(name)
        if len(sent) == 5:
            raise KeyboardInterrupt
        real(self, source, name)

    with monkeypatch.context() as patched:
        patched.setattr(type(mirror.place), "put", stopping)
        with pytest.raises(KeyboardInterrupt):
            mirror.push("pin", made[0])
    assert mirror.generations("pin") == []
    there = mirror.place.sizes(f"pin/generations/{made[0]}")
    assert len(there) >= 4
    assert mirror.push("pin", made[0]) == 8 - len(there)
    assert mirror.findings("pin", made[0]) == {}


@pytest.mark.parametrize("file", ["rows.arrow", "manifest.json"])
def test_a_storage_that_keeps_other_bytes_than_were_sent(mirror, made, tmp_path, monkeypatch, file):
    real = type(mirror.place).put

    def wrong(self: object, source: Path, name: str) -> None:
        other = tmp_path / name.replace("/", "-")  # of its own: several files are sent at once
        other.write_bytes(source.read_bytes()[:-1] + b"?")
        real(self, other if name.endswith(file) else source, name)

    with monkeypatch.context() as patched:
        patched.setattr(type(mirror.place), "put", wrong)
        with pytest.raises(DamagedData, match=rf"{file} is other than what was sent"):
            mirror.push("pin", made[0])
    with pytest.raises((NoGeneration, DamagedData), match=r"there are: none|is not readable JSON"):
        mirror.move_pointer("pin", made[0])
    assert mirror.push("pin", made[0]) > 0  # on a storage that has come to its senses
    mirror.move_pointer("pin", made[0])


def test_what_vanishes_while_it_is_fetched(mirror, made, tmp_path, monkeypatch):
    mirror.push("pin", made[0])
    there = elsewhere(mirror, tmp_path / "server")
    monkeypatch.setattr(
        transfer, "_present", lambda path, entry: mirror.delete("pin", made[0]) and 0
    )  # the last look before the transfer begins
    with pytest.raises(NoGeneration, match="has vanished while it was fetched: fetch the generation that is live now"):
        there.fetch("pin", made[0])
    with pytest.raises(NoGeneration, match=f"no generation '{made[0]}' of 'pin' in .*; there are: none"):
        there.fetch("pin", made[0])


def test_another_generation_of_the_same_id(mirror, made, tmp_path):
    mirror.push("pin", made[0])
    file = mirror.store.generation_path("pin", made[0]) / "manifest.json"
    manifest = mirror.manifest("pin", made[0]).model_copy(update={"seed": 99})
    spoil(mirror, f"pin/generations/{made[0]}/manifest.json", manifest.to_bytes(), tmp_path)
    with pytest.raises(StoreError, match=f"generations/{made[0]} holds another manifest than the local one: build"):
        mirror.push("pin", made[0])
    spoil(mirror, f"pin/generations/{made[0]}/manifest.json", b"{}", tmp_path)
    with pytest.raises(DamagedData, match=r"manifest\.json does not match its own checksum"):
        elsewhere(mirror, tmp_path / "server").fetch("pin", made[0])
    newer = json.loads(file.read_text()) | {"schema_version": 9}
    spoil(mirror, f"pin/generations/{made[0]}/manifest.json", json.dumps(newer).encode(), tmp_path)
    with pytest.raises(DamagedData, match="has schema version 9, this program reads up to 2: install a newer one"):
        elsewhere(mirror, tmp_path / "server").fetch("pin", made[0])


def test_a_manifest_that_names_files_elsewhere_is_refused(mirror, made, tmp_path):
    opened = mirror.store.open("pin", made[0])
    entry = next(iter(opened.manifest.files.values()))
    evil = opened.manifest.model_copy(update={"files": {"../../../CURRENT": entry}})
    spoil(mirror, f"pin/generations/{made[0]}/manifest.json", evil.to_bytes(), tmp_path)
    with pytest.raises(DamagedData, match=r"names the file '\.\./\.\./\.\./CURRENT', which cannot be one of a gen"):
        elsewhere(mirror, tmp_path / "server").fetch("pin", made[0])


def test_a_full_disk_is_told_before_anything_is_read(mirror, made, tmp_path, monkeypatch):
    mirror.push("pin", made[0])
    there = elsewhere(mirror, tmp_path / "server")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
        with pytest.raises(StoreError, match=r"MiB are to come and 0\.0 MiB are free; free some space there"):
            there.fetch("pin", made[0])
    with monkeypatch.context() as patched:

        def full(source: object, target: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patched.setattr(os, "replace", full)
        with pytest.raises(
            StoreError, match=r"cannot write .*: No space left on device; free some space there and run"
        ):
            there.fetch("pin", made[0])
    assert there.fetch("pin", made[0]) == made[0]
    assert not list((tmp_path / "server").rglob("*.tmp"))


def test_garbage_at_a_url(mirror, made):
    first, second = made
    for generation in made:
        mirror.push("pin", generation)
    mirror.move_pointer("pin", second)
    mirror.place.delete([f"pin/generations/{first}/manifest.json"])  # as a push that was killed leaves it
    planned = collect_garbage(mirror, "pin", keep=1, dry_run=True)
    assert [(each.kind, each.name) for each in planned] == [("upload", first)]
    assert collect_garbage(mirror, "pin", keep=1) == planned
    assert mirror.place.sizes(f"pin/generations/{first}") == {}
    assert mirror.findings("pin", second) == {}
    third = make_store(mirror.store.root, 60, 4, 2, seed=2).manifest.id
    mirror.push("pin", third)
    mirror.move_pointer("pin", third)
    assert [each.name for each in collect_garbage(mirror, "pin", keep=1)] == [second]
    assert mirror.generations("pin") == [third]


def test_unfinished_uploads_are_garbage(storage, made, tmp_path):
    mirror = Mirror(storage.new_url(), tmp_path / "local", settings=storage.settings())
    mirror.push("pin", made[0])
    home = mirror.home("pin")
    home._fs.call_s3("create_multipart_upload", Bucket=home._root.split("/")[0], Key="store/pin/generations/x")
    assert [(each.kind, each.count) for each in collect_garbage(mirror, "pin")] == [("upload", 1)]
    assert home.abandoned("generations", remove=False) == 0


def test_large_files_go_in_parts(storage, tmp_path, monkeypatch):
    monkeypatch.setattr(bucket, "_PART_BYTES", 5 << 20)
    home = RemoteStore(storage.new_url(), settings=storage.settings()).place
    file = tmp_path / "large"
    file.write_bytes(os.urandom(11 << 20))
    home.put(file, "large")
    assert home.sizes("") == {"large": 11 << 20}
    assert home.read_range("large", (10 << 20) - 3, 10 << 20) == file.read_bytes()[(10 << 20) - 3 : 10 << 20]


def test_a_url_is_a_remote_store_for_reading_only_too(mirror, made):
    mirror.push("pin", made[0])
    mirror.move_pointer("pin", made[0])
    house = RemoteStore(mirror.url, settings=mirror.settings)
    assert house.current("pin") == made[0]
    assert house.manifest("pin", made[0]) == Store(mirror.store.root).manifest("pin", made[0])
