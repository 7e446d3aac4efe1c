"""Loading: damage is refused by name and the last good generation served, never a newer one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_store import make_store

from retrieval.errors import DamagedData, InvalidParams, NoGeneration, SpaceMismatch, StoreError
from retrieval.serving.config import make_settings
from retrieval.serving.swap import load, probe
from retrieval.store import Generation, Store
from retrieval.store.checksums import list_files, sha256_files
from retrieval.store.generation import CANARIES_FILE
from retrieval.store.manifest import MANIFEST_FILE


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with an HNSW generation over a good flat one."""
    store = tmp_path_factory.mktemp("whole") / "store"
    make_store(store, 40, 8, 2, "string", seed=1)
    make_store(store, 60, 8, 2, "string", "hnsw", canaries=True, seed=2)
    return store


@pytest.fixture
def no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probing child costs a second; what it does is tested by itself."""
    monkeypatch.setattr(load, "probe", lambda generation, seconds: None)


def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "store"))


def live(store: Path) -> Path:
    return store / "pin" / "generations" / (store / "pin" / "CURRENT").read_text().strip()


@pytest.mark.usefixtures("no_child")
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_in_any_file_brings_the_previous_generation(whole: Path, tmp_path: Path, damage: str) -> None:
    rng = np.random.default_rng(7)
    names = [*list_files(live(whole)), MANIFEST_FILE]
    assert len(names) > 10
    for number, name in enumerate(names):
        store = Path(shutil.copytree(whole, tmp_path / str(number)))
        file = live(store) / name
        data = bytearray(file.read_bytes())
        if damage == "flip":
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
            file.write_bytes(data)
        elif damage == "truncate":
            file.write_bytes(data[: rng.integers(len(data))])
        else:
            file.unlink()
        served = load.load_store(make_settings(store=store))["pin"]
        assert served.about.manifest.rows == 40, name
        (refused,) = served.about.refused
        assert refused.startswith(live(store).name)
        assert name in refused


@pytest.mark.usefixtures("no_child")
def test_no_good_generation_is_one_sentence(whole: Path, tmp_path: Path) -> None:
    store = copy(whole, tmp_path)
    for generation in (store / "pin" / "generations").iterdir():
        (generation / "shard-00000" / "vectors.npy").write_bytes(b"rubbish")
    with pytest.raises(
        DamagedData, match=r"no good generation of pin in .*: 000002-.*vectors.npy has 7 bytes.* \| 000001-"
    ):
        load.load_store(make_settings(store=store))


@pytest.mark.usefixtures("no_child")
def test_a_newer_generation_is_never_served_unasked(whole: Path, tmp_path: Path) -> None:
    store = copy(whole, tmp_path)
    Store(store).rollback("pin")
    (live(store) / "shard-00000" / "vectors.npy").write_bytes(b"rubbish")
    with pytest.raises(DamagedData, match=r"no good generation of pin in .*: 000001-") as caught:
        load.load_store(make_settings(store=store))
    assert "000002" not in str(caught.value)


@pytest.mark.usefixtures("no_child")
def test_what_is_not_published_is_not_served(tmp_path: Path) -> None:
    make_store(tmp_path, 20, 8, 1, publish=False)
    with pytest.raises(NoGeneration, match=r"nothing is published in .*: build a generation into it first"):
        load.load_store(make_settings(store=tmp_path))
    make_store(tmp_path, 20, 8, 1, entity_type="product")
    assert list(load.load_store(make_settings(store=tmp_path))) == ["product"]


def test_not_a_store(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("no store")
    with pytest.raises(StoreError, match=r"is not a store: it holds files but no"):
        load.load_store(make_settings(store=tmp_path))
    with pytest.raises(StoreError, match=r"is not a store: no such folder"):
        load.load_store(make_settings(store=tmp_path / "absent"))


def test_unknown_settings_are_errors() -> None:
    with pytest.raises(InvalidParams, match=r"there is no setting 'thread'; the settings are store, checkpoint"):
        make_settings(store=Path("x"), thread=4)
    with pytest.raises(InvalidParams, match=r"setting port = 70000 is not acceptable: .*65535"):
        make_settings(store=Path("x"), port=70_000)


def test_the_probing_child_lets_a_good_generation_pass(whole: Path) -> None:
    probe.probe(Generation.open(live(whole)), seconds=60)


def test_a_generation_that_its_canaries_do_not_know_is_refused(whole: Path, tmp_path: Path) -> None:
    store = copy(whole, tmp_path)
    folder = live(store)
    with np.load(folder / CANARIES_FILE) as stored:
        queries, scores = stored["queries"], stored["scores"]
    np.savez(folder / CANARIES_FILE, queries=queries, scores=scores + 1)
    manifest = Store(store).manifest("pin", folder.name)
    changed = manifest.model_copy(update={"files": sha256_files(folder, list_files(folder))})
    (folder / MANIFEST_FILE).write_bytes(changed.to_bytes())
    served = load.load_store(make_settings(store=store))["pin"]
    assert served.about.manifest.rows == 40
    assert "fails its canaries: 0.000 of the stored answers came back" in served.about.refused[0]


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"crashed the probing process \(SIGSEGV\)"),
        ("import time; time.sleep(60)", "did not open in 0.5 s in the probing process"),
        ("raise SystemExit('no luck')", r"could not be probed \(exit code 1\): no luck"),
    ],
)
def test_a_child_that_dies_is_a_fault_and_one_without_a_verdict_trouble(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, sentence: str
) -> None:
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/sh\nexec {os.path.realpath("/usr/bin/env")} python3 -c "{code}"\n')
    fake.chmod(0o755)
    monkeypatch.setattr(probe.sys, "executable", str(fake))
    with pytest.raises(StoreError if "luck" in code else DamagedData, match=rf"generation 000002-.* of pin {sentence}"):
        probe.probe(Generation.open(live(whole)), seconds=0.5 if "sleep" in code else 30)


def test_a_checkpoint_that_fits_nothing_is_refused(whole: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Tower:
        space_id, d = "elsewhere", 8
        compatible: tuple[str, ...] = ()

        def encode(self, texts: object) -> np.ndarray:
            raise NotImplementedError

    about = {"pin": load.load_type(Store(whole), "pin", live(whole).name, make_settings(store=whole))}
    with pytest.raises(
        SpaceMismatch, match=r"the checkpoint's space elsewhere fits nothing that is published .pin of space"
    ):
        load.check_tower(Tower(), about)
    Tower.compatible = ("tiny-space",)
    load.check_tower(Tower(), about)
    assert "cannot search" not in caplog.text


def test_a_damaged_generation_is_not_replaced_by_one_of_another_space(
    whole: Path, tmp_path: Path, no_child: None
) -> None:
    store = tmp_path / "store"
    make_store(store, 40, 8, 1, "string", seed=1, space_id="old-space")
    live = make_store(store, 40, 8, 1, "string", seed=2)
    file = live.path / "shard-00000" / "vectors.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DamagedData, match="it is of space old-space and metric cosine, the live one of"):
        load.load_store(make_settings(store=store))


def test_an_unreadable_pointer_costs_its_own_type_only(tmp_path: Path, no_child: None) -> None:
    store = tmp_path / "store"
    for entity_type in ("pin", "product"):
        make_store(store, 40, 8, 1, "string", entity_type=entity_type)
    (store / "pin" / "CURRENT").write_text("garbage")
    assert list(load.load_store(make_settings(store=store))) == ["product"]
    (store / "product" / "CURRENT").write_text("")
    with pytest.raises(StoreError, match="does not name a generation: 'garbage'"):
        load.load_store(make_settings(store=store))
