"""Seeded damage to the files of an HNSW shard that leaves their shapes as they were (or not)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np


def mutate(source: Path, target: Path, seed: int) -> None:
    """Make `target` a copy of the shard `source` with one to three seeded changes."""
    rng = np.random.default_rng(seed)
    for file in source.iterdir():
        shutil.copyfile(file, target / file.name)
    files = sorted(p.name for p in source.iterdir())
    for _ in range(int(rng.integers(1, 4))):
        name = str(rng.choice(files))
        if name.endswith(".json"):
            _mutate_description(target / name, rng)
        else:
            _mutate_array(target / name, rng)


def _mutate_description(file: Path, rng: np.random.Generator) -> None:
    description = json.loads(file.read_text())
    key = str(rng.choice(sorted(description)))
    value = description[key]
    if isinstance(value, int):
        description[key] = int(rng.choice([0, 1, -1, value + 1, value - 1, 2**31, 2**32, 2**63]))
    elif isinstance(value, list):
        value[int(rng.integers(len(value)))] = int(rng.integers(-5, 1_000))
    elif isinstance(value, dict):
        value["error"] = float(rng.choice([0.0, 1e30, 1e-30]))
    else:
        description[key] = "x"
    file.write_text(json.dumps(description))


def _mutate_array(file: Path, rng: np.random.Generator) -> None:
    kind = rng.integers(8)
    if kind == 0:  # any byte, the header included
        data = bytearray(file.read_bytes())
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
        file.write_bytes(bytes(data))
        return
    if kind == 1:  # cut short
        data = file.read_bytes()
        file.write_bytes(data[: int(rng.integers(len(data)))])
        return
    try:
        array = np.load(file)
    except (ValueError, EOFError, SyntaxError, OSError, TypeError, MemoryError):
        return  # already past reading
    flat = array.reshape(-1)
    if len(flat) == 0:
        return
    at = rng.integers(len(flat), size=int(rng.integers(1, 20)))
    if array.dtype == np.uint32:
        choices = [0, 1, len(array) - 1, len(array), 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, int(rng.integers(1_000))]
        flat[at] = rng.choice(np.array(choices, dtype=np.uint32), size=len(at))
        if kind == 2:  # everything points at one place
            flat[:] = flat[at[0]]
        elif kind == 3:  # still a list of rows that exist
            flat[:] = rng.permutation(flat)
    elif kind < 5 or array.dtype == np.uint8:
        raw = array.view(np.uint8).reshape(-1)
        raw[:] = rng.integers(256, size=len(raw), dtype=np.uint8)
    else:
        values = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1e-7, 6e4, -6e4], dtype=array.dtype)
        flat[at] = rng.choice(values, size=len(at))
    np.save(file, array)
