"""A small rebuild job and its source, for the tests of rebuilds; `quick` spends no time on figures nobody looks at."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.data import clustered
from index_builders import bands, frontiers
from index_builders.rebuild import RebuildReport, read_job, rebuild
from retrieval.store import Store

N, D, SHARDS = 900, 16, 4


def vectors() -> np.ndarray:
    return clustered(N, D, seed=3, clusters=20, intrinsic=8)


def write(folder: Path, x: np.ndarray, *, space: str = "sp-test", **columns: object) -> None:
    flat = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    ids = [f"e{i}" for i in range(len(x))]
    table = pa.table({"id": ids, "embedding": flat, **columns})
    pq.write_table(table.replace_schema_metadata({"space_id": space}), folder / "source.parquet")


def job_file(folder: Path, top: str = "", index: str = 'kind = "flat"', gate: str = "", limits: str = "") -> Path:
    path = folder / "job.toml"
    path.write_text(
        f"""entity_type = "pin"
source = "source.parquet"
store = "store"
{top}
[index]
shards = {SHARDS}
workers = 0
verify_queries = 20
{index}
[gate]
queries = 10
{gate}
[limits]
lease_s = 1.0
{limits}
"""
    )
    return path


def run(folder: Path, approve: str | None = None, new_columns: bool = False, **tables: str) -> RebuildReport:
    return rebuild(read_job(job_file(folder, **tables)), approve=approve, new_columns=new_columns)


def files(store: Path, generation: str) -> dict[str, str]:
    manifest = Store(store).manifest("pin", generation)
    return {name: entry.sha256 for name, entry in manifest.files.items()}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Spend no time on recall@1000 and bands."""
    monkeypatch.setattr(bands, "LEAST_S", 0.01)
    monkeypatch.setattr(frontiers, "DEEP_LEAST_S", 0.01)
