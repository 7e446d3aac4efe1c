"""The estimate held against real builds: peak memory within a quarter, disk within a tenth, in a process of its own.

Measured is what the system cannot take back, summed over the command and its shard processes (`peak_memory`).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from peak_memory import AVAILABLE, peak_memory

from bench.data import clustered
from index_builders.calibrate import Speeds
from index_builders.estimate import estimate
from index_builders.settings import make_settings
from retrieval.store import Store
from retrieval.types import IndexKind

SPEEDS = Speeds(byte_s=2e-9, multiply_s=3e-11, score_s=5e-9, graph_row_s=1e-4)  # no second is looked at here

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="memory of processes is told by /proc/<pid>/smaps_rollup only")


def check(folder: Path, kind: IndexKind, n: int, d: int, shards: int, workers: int) -> None:
    x = clustered(n, d, seed=3, clusters=200, intrinsic=16)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), d)
    table = pa.table({"id": [f"e{i}" for i in range(n)], "embedding": lists, "price": np.arange(n)})
    source = folder / "source.parquet"
    pq.write_table(table.replace_schema_metadata({"space_id": "sp-test"}), source)
    params = {"m": 16, "ef_construction": 40} if kind is IndexKind.HNSW else {}
    expected = estimate(
        make_settings(
            source=source,
            store=folder,
            entity_type="pin",
            kind=kind,
            params=params,
            shards=shards,
            workers=workers,
        ),
        speeds=SPEEDS,
    )
    line = [sys.executable, "-m", "retrieval.cli", "build", str(source), "--entity-type", "pin", "--kind", str(kind)]
    options = {"shards": shards, "workers": workers, "min-recall": 0}
    options |= {name.replace("_", "-"): value for name, value in params.items()}
    line += [text for name, value in options.items() for text in (f"--{name}", str(value))]
    # The processes are looked at one after another: on a busy machine one may have grown before another shrank, and a
    # short peak may be missed. A second look decides then.
    for attempt in ("store", "again"):
        measured, _ = peak_memory([*line, "--store", str(folder / attempt)])
        told = f"{kind}, {n} x {d}: estimated {expected.memory_bytes}, measured {measured}, {expected.memory_stages}"
        if expected.memory_bytes == pytest.approx(measured, rel=0.25):
            break
    else:
        pytest.fail(told)
    store = Store(folder / "store")
    files = store.manifest("pin", store.current("pin")).files
    stayed = sum(entry.size_bytes for entry in files.values())
    assert expected.generation_bytes == pytest.approx(stayed, rel=0.1, abs=500_000), told
    assert expected.disk_bytes > stayed


# measured in MB, estimated in brackets: flat 128 (124), hnsw 136 (132), ivfpq 154 (148)
@pytest.mark.parametrize("kind", list(IndexKind))
def test_the_peak_of_a_small_build(tmp_path: Path, kind: IndexKind) -> None:
    check(tmp_path, kind, 20_000, 32, shards=1, workers=1)


# measured in MB, estimated in brackets: flat 288 (293), hnsw 532 (499) and 275 (248), ivfpq 442 (448)
@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "shards", "workers"),
    [(IndexKind.FLAT, 1, 1), (IndexKind.HNSW, 2, 2), (IndexKind.HNSW, 4, 1), (IndexKind.IVFPQ, 2, 2)],
)
def test_the_peak_of_a_larger_build(tmp_path: Path, kind: IndexKind, shards: int, workers: int) -> None:
    check(tmp_path, kind, 400_000, 128, shards, workers)
