"""The pointer, rollback, retention, and what a failing disk or a strange folder does."""

import os

import pytest
from tiny_store import make_store as write_store

from retrieval.cli.generations import generations
from retrieval.errors import DamagedData, FailedPrecondition, InvalidArgument, NoGeneration, StoreError
from retrieval.store import Store, local


@pytest.fixture
def store(make_store, tmp_path):
    make_store(tmp_path / "s")
    make_store(tmp_path / "s", seed=1)
    return Store(tmp_path / "s")


def test_publish_and_rollback(store):
    first, second = store.generations("pin")
    assert store.current("pin") == second
    assert store.rollback("pin") == first == store.current("pin")
    with pytest.raises(NoGeneration, match=rf"no generation of 'pin' that was live before {first}"):
        store.rollback("pin")
    store.publish("pin", second)
    assert store.current("pin") == second


def test_names_that_are_not_there(store):
    with pytest.raises(NoGeneration, match=r"no generation '000009-00000000' of 'pin' in .*; there are: 000001-"):
        store.open("pin", "000009-00000000")
    with pytest.raises(NoGeneration, match=r"no generation '\.\./pin' of 'pin'"):
        store.open("pin", "../pin")
    with pytest.raises(NoGeneration, match=r"nothing is published for entity type 'product' in .*; there are: pin"):
        store.current("product")
    with pytest.raises(InvalidArgument, match=r"entity type '\.\.' is not acceptable"):
        store.current("..")


def test_a_pointer_that_names_nothing(store):
    (store.root / "pin/CURRENT").write_text("later\n")
    with pytest.raises(StoreError, match="CURRENT does not name a generation: 'later'; publish one to mend it"):
        store.current("pin")
    store.publish("pin", store.generations("pin")[0])
    assert store.current("pin") == store.generations("pin")[0]


def test_paths_that_are_no_store(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "things").mkdir()
    (tmp_path / "things/a").write_text("x")
    for name, sentence in (("file", "it is a file"), ("none", "no such folder"), ("things", "it holds files but no")):
        with pytest.raises(StoreError, match=rf"{name} is not a store: {sentence}"):
            Store(tmp_path / name)
    (tmp_path / "begun/pin").mkdir(parents=True)
    assert Store(tmp_path / "begun").entity_types() == []


def test_remove_old_keeps_the_live_one(store):
    first, second = store.generations("pin")
    store.publish("pin", first)
    assert store.remove_old("pin", keep=1) == []
    store.publish("pin", second)
    assert store.remove_old("pin", keep=1) == [first]
    with pytest.raises(InvalidArgument, match="keep = 0 is not acceptable"):
        store.remove_old("pin", keep=0)


def test_what_became_live_meanwhile_is_not_removed(store):
    first, second = store.generations("pin")
    store.publish("pin", first)  # after a collector had found it idle
    with pytest.raises(FailedPrecondition, match=f"generation {first} of 'pin' is live: it stays"):
        store.remove("pin", first)
    assert store.open("pin", first).manifest.id == first
    store.remove("pin", second)
    assert store.generations("pin") == [first]


def test_what_is_removed_meanwhile_does_not_become_live(store, monkeypatch):
    first, second = store.generations("pin")
    moving = local.move_pointer

    def after_a_collector(*arguments, **named):
        if first in store.generations("pin"):
            store.remove("pin", first)
        moving(*arguments, **named)

    monkeypatch.setattr(local, "move_pointer", after_a_collector)
    with pytest.raises(NoGeneration, match=f"no generation '{first}' of 'pin'"):
        store.publish("pin", first)
    assert store.current("pin") == second


@pytest.mark.parametrize("call", ["fsync", "replace", "rename"])
def test_a_failing_disk_leaves_the_live_generation(store, make_store, monkeypatch, call):
    live = store.current("pin")
    real = getattr(os, call)

    def fail(*args: object) -> None:
        # the parts of the system under test are the store's last steps, so stagings may still be written
        if any("staging" in str(a) for a in args) and call != "rename":
            return real(*args)
        if call == "rename" and "generations" not in str(args[1]):
            return real(*args)
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(local.os, call, fail)
        with pytest.raises(StoreError, match="Input/output error"):
            make_store(store.root, seed=2)
    assert store.current("pin") == live
    store.open("pin", live)
    make_store(store.root, seed=2)
    assert store.current("pin") != live
    assert not list(store.root.rglob("*.tmp"))
    assert not (store.root / "pin/staging").exists()


def test_rollback_passes_over_a_damaged_generation(tmp_path):
    root = tmp_path / "three"
    made = [write_store(root, 20, 4, 1, "int64", seed=seed) for seed in range(3)]
    store = Store(root)
    file = made[1].path / "shard-00000" / "vectors.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    assert store.rollback("pin") == made[0].manifest.id
    store.publish("pin", made[2].manifest.id)
    (made[0].path / "manifest.json").unlink()
    with pytest.raises(DamagedData, match=rf"no generation of 'pin' before {made[2].manifest.id} is good: .*vectors"):
        store.rollback("pin")
    assert store.current("pin") == made[2].manifest.id


@pytest.mark.parametrize("url", ["s3://bucket/store", "gs:/bucket", "file:///tmp/x"])
def test_a_url_is_not_taken_for_a_folder(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="looks like a URL: a store is a local folder"):
        Store(url, create=True)
    assert not any(tmp_path.iterdir())


def test_the_list_of_generations_survives_a_broken_pointer(tmp_path, capsys):
    made = write_store(tmp_path / "store", 20, 4, 1, "int64")
    (tmp_path / "store" / "pin" / "CURRENT").write_text("garbage")
    generations(tmp_path / "store")
    printed = capsys.readouterr()
    assert made.manifest.id in printed.out
    assert "does not name a generation: 'garbage'" in printed.err
    with pytest.raises(NoGeneration, match="has no entity type 'nope'; there are: pin"):
        generations(tmp_path / "store", "nope")
