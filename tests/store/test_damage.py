"""One flipped bit or a lost tail, in any file of a generation: refused by name before any library reads it."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from index_builders.check import check_generation
from retrieval.errors import DamagedData, StoreError
from retrieval.store import Generation, Manifest

KINDS = ("flat", "ivfpq", "hnsw")
_FLIPS_PER_FILE = 6


@pytest.fixture(scope="module")
def generations(make_store, tmp_path_factory) -> list[Path]:
    return [make_store(tmp_path_factory.mktemp("store"), kind=kind, shards=2).path for kind in KINDS]


def files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def refused(path: Path, file: Path) -> None:
    with pytest.raises(DamagedData, match=rf"{file.relative_to(path)}"):
        Generation.open(path)


def given_a_verdict(path: Path, file: Path) -> None:
    bad = [verdict.name for verdict in check_generation(path) if not verdict.good]
    assert file.relative_to(path).as_posix() in bad


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
def test_bit_flips_and_truncations_over_every_file(generations, kind):
    path = generations[kind]
    rng = np.random.default_rng(kind)
    for file in files(path):
        whole = file.read_bytes()
        last = len(whole) - 1
        for at in {0, last, *rng.integers(0, len(whole), _FLIPS_PER_FILE).tolist()}:
            data = bytearray(whole)
            data[at] ^= 1 << int(rng.integers(8))
            file.write_bytes(data)
            refused(path, file)
        for size in {0, last, int(rng.integers(0, last))}:
            file.write_bytes(whole[:size])
            refused(path, file)
        file.write_bytes(whole + b"\0")
        refused(path, file)
        given_a_verdict(path, file)
        file.write_bytes(whole)
    assert all(verdict.good for verdict in check_generation(path))
    Generation.open(path)


def test_every_single_bit_of_a_manifest_counts(generations):
    path = generations[0] / "manifest.json"
    whole = path.read_bytes()
    for at in range(0, len(whole), 3):
        for bit in (0, 4, 5):
            data = bytearray(whole)
            data[at] ^= 1 << bit
            with pytest.raises(DamagedData, match=r"manifest\.json"):
                Manifest.from_bytes(bytes(data), where="manifest.json")


def test_missing_added_and_renamed(generations, tmp_path):
    path = tmp_path / generations[0].name
    shutil.copytree(generations[0], path)
    (path / "extra").write_text("x")
    with pytest.raises(DamagedData, match="extra not in the manifest"):
        Generation.open(path)
    (path / "extra").unlink()
    (path / "canaries.npz").unlink()
    with pytest.raises(DamagedData, match=r"canaries\.npz missing"):
        Generation.open(path)
    other = tmp_path / "000009-00000000"
    path.rename(other)
    with pytest.raises(DamagedData, match=r"is the manifest of generation .*, not of 000009-00000000"):
        Generation.open(other)
    (other / "manifest.json").unlink()
    with pytest.raises(StoreError, match=r"holds no manifest\.json, so it is not a generation"):
        Generation.open(other)


def test_a_newer_schema_is_told_apart_from_damage(generations):
    data = (generations[0] / "manifest.json").read_bytes().replace(b'"schema_version": 2', b'"schema_version": 3')
    with pytest.raises(DamagedData, match="has schema version 3, this program reads up to 2"):
        Manifest.from_bytes(data, where="m")
