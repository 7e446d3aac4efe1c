"""A rebuild that dies at any rename or moment: what is live stays whole, the next run makes the very same bytes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.data import clustered
from retrieval.store import Store

SCRIPT = Path(__file__).with_name("killed_rebuild.py")
ROOT = Path(__file__).parents[2]
JOB = """entity_type = "pin"
source = "source.parquet"
store = "store"
[index]
kind = "flat"
shards = 3
workers = 0
verify_queries = 5
[gate]
queries = 10
[limits]
lease_s = 0.5
"""


class Rebuilds:
    """Rebuilds in child processes that die; see killed_rebuild.py."""

    def __enter__(self) -> "Rebuilds":
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, job: Path, *, at: int = 0, kill_after_s: float | None = None) -> int:
        """The exit code: 0 when it ran to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(job, at, file=self._process.stdin, flush=True)
        child = int(self._process.stdout.readline())
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        code = int(self._process.stdout.readline())
        assert code in {0, 9, -signal.SIGKILL}, "the rebuild failed by itself"
        return code


def write(folder: Path, x: np.ndarray) -> None:
    flat = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    table = pa.table({"id": [f"e{i}" for i in range(len(x))], "embedding": flat})
    pq.write_table(table.replace_schema_metadata({"space_id": "sp-test"}), folder / "source.parquet")


def files(folder: Path) -> dict[str, str]:
    store = Store(folder / "store")
    manifest = store.open("pin", store.current("pin")).manifest
    return {name: entry.sha256 for name, entry in manifest.files.items()}


def start(folder: Path, rebuilds: Rebuilds) -> tuple[Path, dict[str, str], float]:
    """A folder with a live generation and a changed source; what an unkilled run makes of it, and how long it takes."""
    x = clustered(300, 8, seed=3, clusters=10, intrinsic=4)
    base, good = folder / "base", folder / "good"
    base.mkdir()
    (base / "job.toml").write_text(JOB)
    write(base, x)
    assert rebuilds.run(base / "job.toml") == 0
    x[3] = -x[3]
    write(base, x)
    shutil.copytree(base, good)
    began = time.perf_counter()
    assert rebuilds.run(good / "job.toml") == 0
    return base, files(good), time.perf_counter() - began


def kills(tmp_path: Path, moments: list[tuple[int, float | None]]) -> int:
    """Kill one run at each of `moments`, each killed run taking up what the one before left; how many died."""
    died = 0
    with Rebuilds() as rebuilds:
        base, wanted, whole_s = start(tmp_path, rebuilds)
        before = files(base)
        for at, share in moments:
            code = rebuilds.run(base / "job.toml", at=at, kill_after_s=None if share is None else share * whole_s)
            died += code != 0
            assert files(base) in (before, wanted)
        assert rebuilds.run(base / "job.toml") == 0
        assert files(base) == wanted
        assert not list((base / "store").rglob("*.tmp"))
        assert len(Store(base / "store").generations("pin")) == 2
    return died


def test_killed_at_every_other_edge_and_at_random(tmp_path):
    rng = np.random.default_rng(0)
    edges: list[tuple[int, float | None]] = [(at, None) for at in range(1, 41, 2)]
    random: list[tuple[int, float | None]] = [(0, float(rng.uniform(0, 0.6))) for _ in range(5)]
    assert kills(tmp_path, [*random, *edges]) >= 8


@pytest.mark.long
def test_killed_at_every_edge(tmp_path):
    assert kills(tmp_path, [(at, None) for at in range(1, 46)]) >= 15


@pytest.mark.long
def test_killed_five_hundred_times(tmp_path):
    rng = np.random.default_rng(1)
    died = 0
    for round_ in range(10):
        folder = tmp_path / str(round_)
        folder.mkdir()
        died += kills(folder, [(int(rng.integers(1, 40)) if rng.random() < 0.5 else 0, float(rng.uniform(0, 1)))
                               for _ in range(50)])  # fmt: skip
    assert died >= 100
