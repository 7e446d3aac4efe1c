"""Bit flips, zeroed and random pages, truncation, swapped files, anywhere in a generation: all found by opening it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import DamagedData
from retrieval.store import Generation

KINDS = ("flat", "ivfpq", "hnsw")
PAGE = 4096


@pytest.fixture(scope="module")
def generations(make_store, tmp_path_factory) -> list[Path]:
    return [make_store(tmp_path_factory.mktemp("store"), kind=kind, shards=2).path for kind in KINDS]


def flip(data: bytearray, rng: np.random.Generator) -> None:
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))


def zero_page(data: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(max(1, len(data) // PAGE))) * PAGE
    data[start : start + PAGE] = bytes(len(data[start : start + PAGE]))


def random_page(data: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(max(1, len(data) // PAGE))) * PAGE
    data[start : start + PAGE] = rng.bytes(len(data[start : start + PAGE]))


def truncate(data: bytearray, rng: np.random.Generator) -> None:
    del data[int(rng.integers(len(data))) :]


MUTATIONS: list[Callable[[bytearray, np.random.Generator], None]] = [flip, zero_page, random_page, truncate]


def mutate(path: Path, rng: np.random.Generator) -> str | None:
    """Damage the generation at `path` and open it: None when the damage was found, else what it was."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    file = files[int(rng.integers(len(files)))]
    whole = file.read_bytes()
    kind = int(rng.integers(len(MUTATIONS) + 1))
    if kind == len(MUTATIONS):
        other = files[(files.index(file) + 1 + int(rng.integers(len(files) - 1))) % len(files)]
        theirs = other.read_bytes()
        file.write_bytes(theirs)
        other.write_bytes(whole)
        changed, what = theirs != whole, f"{file.name} and {other.name} swapped"
    else:
        other, theirs = file, whole
        data = bytearray(whole)
        MUTATIONS[kind](data, rng)
        file.write_bytes(data)
        changed, what = bytes(data) != whole, f"{MUTATIONS[kind].__name__} in {file.name}"
    try:
        Generation.open(path)
    except DamagedData as error:
        return None if file.name in str(error) or other.name in str(error) else f"{what}: told as {error}"
    finally:
        file.write_bytes(whole)
        if other != file:
            other.write_bytes(theirs)
    # a page of zeros over zeros changes nothing, and two shards' equal files can be swapped
    return f"{what}: not found" if changed else None


@pytest.mark.parametrize("count", [200, pytest.param(2_000, marks=pytest.mark.long)])
def test_every_mutation_is_found(generations, tmp_path, count):
    rng = np.random.default_rng(count)
    copies = [tmp_path / kind / path.name for kind, path in zip(KINDS, generations, strict=True)]
    for path, copy in zip(generations, copies, strict=True):
        shutil.copytree(path, copy)
    missed = [found for number in range(count) if (found := mutate(copies[number % len(copies)], rng)) is not None]
    assert missed == []
    for copy in copies:
        Generation.open(copy)
    print(f"{count} mutations over {', '.join(KINDS)}: all found")
