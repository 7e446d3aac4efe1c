"""A storage that cannot be reached, refuses, stutters or fails half-way: one sentence each, the old one serves on."""

from __future__ import annotations

from io import BytesIO

import pytest
from fsspec.implementations.memory import MemoryFile
from fsspec.spec import AbstractFileSystem
from object_storage import Faults, elsewhere, flaky

from retrieval.errors import MissingDependency, NoGeneration, StoreError
from retrieval.store import Mirror, RemoteSettings, RemoteStore
from retrieval.store.gc import collect_garbage
from retrieval.store.place import open_place


def test_a_url_that_cannot_be_had(storage, made, tmp_path, monkeypatch):
    local = tmp_path / "local"
    settings = storage.settings()
    with pytest.raises(StoreError, match=r"s3://no-such-bucket/x: the storage has no bucket 'no-such-bucket'; make"):
        Mirror("s3://no-such-bucket/x", local, settings=settings).push("pin", made[0])
    nobody = storage.settings(options={"endpoint_url": "http://127.0.0.1:9", "key": "k", "secret": "s"}, attempts=1)
    with pytest.raises(
        StoreError,
        match=r"cannot read s3://b/x/pin/CURRENT: http://127.0.0.1:9/b.* cannot be reached \(tried 1 times\); check",
    ):
        RemoteStore("s3://b/x", settings=nobody).current("pin")
    for list_all in (
        RemoteStore.entity_types,
        lambda store: store.generations("pin"),
        lambda store: store.rollback("pin"),
        lambda store: collect_garbage(store, "pin"),
    ):
        with pytest.raises(StoreError, match=r"the storage has no bucket 'no-such-bucket'; make it, or correct the"):
            list_all(RemoteStore("s3://no-such-bucket/x", settings=settings))
    empty = RemoteStore(storage.new_url(), settings=settings)
    with pytest.raises(NoGeneration, match=r"nothing is published for entity type 'pin' in .*; there are: none"):
        empty.rollback("pin")
    with pytest.raises(NoGeneration, match=r"has no entity type 'pin'; there are: none"):
        collect_garbage(empty, "pin")
    with pytest.raises(StoreError, match=r"nope://x cannot be opened: Protocol not known: nope; use a folder or an s3"):
        RemoteStore("nope://x")

    def missing(*args: object, **options: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(MissingDependency, match=r"Install s3fs to access S3\); for s3:// install retrieval\[s3\]"):
        RemoteStore("s3://b/x")


@pytest.mark.parametrize("denied", ["read", "write"])
def test_permission_denied_is_one_sentence(storage, made, tmp_path, denied):
    faults = Faults()
    with flaky(storage, faults) as proxied:
        mirror = Mirror(storage.new_url(), tmp_path / "local", settings=proxied.settings())
        methods = {"GET", "HEAD"} if denied == "read" else {"PUT"}
        faults.decide = lambda number, method, path: "403" if method in methods else None
        with pytest.raises(StoreError, match=rf"cannot {denied} s3://.*; give this job credentials that may"):
            mirror.current("pin") if denied == "read" else mirror.push("pin", made[0])


@pytest.mark.parametrize("fault", ["500", "503", "drop", "half", "hang"])
def test_a_storage_that_stutters_is_asked_again(storage, made, tmp_path, fault):
    """Some answers fail; a try or two later the transfer is whole."""
    faults = Faults()

    def decide(number: int, method: str, path: str) -> str | None:
        if fault != "half":
            return fault if number in {3, 21} else None
        reads = [path for method, path in faults.seen if method == "GET" and "?" not in path]
        return fault if reads[-1:] == [path] and len(reads) in {2, 9} else None

    faults.decide = decide
    with flaky(storage, faults) as proxied:
        settings = proxied.settings(attempts=5, read_timeout_s=0.7, chunk_bytes=4096)
        mirror = Mirror(storage.new_url(), tmp_path / "local", settings=settings)
        mirror.push("pin", made[0])
        mirror.move_pointer("pin", made[0])
        there = elsewhere(mirror, tmp_path / "server")
        assert there.follow("pin") == made[0]
        there.store.open("pin", made[0])


def push_and_publish(mirror: Mirror, generation: str) -> None:
    mirror.push("pin", generation)
    mirror.move_pointer("pin", generation)


@pytest.mark.parametrize(
    ("fault", "step"),
    [("500", 25), ("drop", 40), *(pytest.param(fault, 1, marks=pytest.mark.long) for fault in ("500", "503", "drop"))],
)
def test_whichever_request_fails_the_old_generation_serves(storage, made, tmp_path, fault, step):
    """The n-th request and all after it fail, for n over the whole of push and publish; then a next run succeeds."""
    first, second = made
    faults = Faults()
    with flaky(storage, faults) as proxied:
        mirror = Mirror(storage.new_url(), tmp_path / "local", settings=proxied.settings(attempts=1, threads=1))
        direct = Mirror(mirror.url, tmp_path / "server", settings=storage.settings())
        push_and_publish(mirror, first)
        faults.seen.clear()
        push_and_publish(mirror, second)
        total = len(faults.seen)
        for n in range(1, total + 1, step):
            direct.move_pointer("pin", first)
            direct.delete("pin", second)
            faults.seen.clear()
            faults.decide = lambda number, method, path, n=n: fault if number >= n else None
            with pytest.raises(
                StoreError, match=r"cannot (read|write|list) s3://.* \(tried 1 times\); run it again when"
            ):
                push_and_publish(mirror, second)
            assert direct.current("pin") == first, n
            assert direct.findings("pin", first) == {}
            faults.decide = lambda number, method, path: None
            push_and_publish(mirror, second)
            assert direct.current("pin") == second
            assert direct.findings("pin", second) == {}
    print(f"{fault}: {len(range(1, total + 1, step))} of {total} requests failed, one run each")
    assert direct.fetch("pin") == second


def test_a_file_that_becomes_shorter_while_it_is_sent_ends_the_upload(tmp_path, monkeypatch):
    place = open_place("memory://shorter", RemoteSettings())
    source = tmp_path / "file"
    source.write_bytes(b"")
    place.put(source, "empty")
    assert place.sizes("") == {"empty": 0}
    size = AbstractFileSystem.blocksize + 1_000_000  # sent in two blocks

    def write(self, data):
        with source.open("r+b") as file:
            file.truncate(10)
        return BytesIO.write(self, data)

    source.write_bytes(bytes(size))
    monkeypatch.setattr(MemoryFile, "write", write, raising=False)
    with pytest.raises(StoreError, match=rf"file became shorter than its {size:,} bytes while it was sent: send it"):
        place.put(source, "file")
