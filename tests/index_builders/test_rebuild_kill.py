"""A rebuild that dies at any rename or moment: what is live stays whole, the next run makes the very same bytes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
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

    @staticmethod
    def stage(job: Path) -> str:
        """What the last run told last."""
        told = job.with_name("stage")
        return (told.read_text().split() or ["start"])[-1] if told.exists() else "start"


def write(folder: Path, x: np.ndarray) -> None:
    flat = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    table = pa.table({"id": [f"e{i}" for i in range(len(x))], "embedding": flat})
    pq.write_table(table.replace_schema_metadata({"space_id": "sp-test"}), folder / "source.parquet")


def files(folder: Path) -> dict[str, str]:
    store = Store(folder / "store")
    manifest = store.open("pin", store.current("pin")).manifest
    return {name: entry.sha256 for name, entry in manifest.files.items()}


class Turns:
    """A job whose source changes whenever a run came to its end, beside a copy in which no run is killed."""

    def __init__(self, folder: Path, rebuilds: Rebuilds) -> None:
        self.home, self._good, self._rebuilds = folder / "base", folder / "good", rebuilds
        self.home.mkdir()
        self.job = self.home / "job.toml"
        self.job.write_text(JOB)
        self._x, self._row = clustered(300, 8, seed=3, clusters=10, intrinsic=4), 0
        write(self.home, self._x)
        assert rebuilds.run(self.job) == 0
        self.next()

    def next(self) -> None:
        self.before = files(self.home)
        self._row += 1
        self._x[self._row] *= -1
        write(self.home, self._x)
        shutil.rmtree(self._good, ignore_errors=True)
        shutil.copytree(self.home, self._good)
        began = time.perf_counter()
        assert self._rebuilds.run(self._good / "job.toml") == 0
        self.whole_s = time.perf_counter() - began
        self.wanted = files(self._good)

    def kill(self, at: int, share: float | None) -> bool:
        """One run that may die; whether it did. What is live is whole, before and after."""
        code = self._rebuilds.run(self.job, at=at, kill_after_s=None if share is None else share * self.whole_s)
        assert files(self.home) in (self.before, self.wanted)
        if code == 0:
            assert files(self.home) == self.wanted
            self.next()
        return code != 0

    def finish(self) -> None:
        assert self._rebuilds.run(self.job) == 0
        assert files(self.home) == self.wanted
        assert not list((self.home / "store").rglob("*.tmp"))
        assert len(Store(self.home / "store").generations("pin")) <= 4


@pytest.mark.parametrize("deaths", [26, pytest.param(250, marks=pytest.mark.long)])
def test_killed_again_and_again_it_never_harms_what_is_live(tmp_path, deaths):
    rng = np.random.default_rng(1)
    died: Counter[str] = Counter()
    with Rebuilds() as rebuilds:
        turns = Turns(tmp_path, rebuilds)
        runs = 0
        while died.total() < deaths:
            runs += 1
            assert runs < 4 * deaths, f"only {died.total()} of {runs} runs died: {dict(died)}"
            # at any moment, or at a rename or link, between which most of the time goes
            moment = (int(rng.integers(1, 25)), None) if runs % 2 else (0, float(rng.uniform(0, 1)))
            if turns.kill(*moment):
                died[rebuilds.stage(turns.job)] += 1
        turns.finish()
    print(f"{deaths} of {runs} runs killed, in {dict(died)}")
    if deaths > 100:
        assert {"start", "read", "add", "verify", "gate", "publish"} <= set(died)


@pytest.mark.long
def test_killed_at_every_edge(tmp_path):
    with Rebuilds() as rebuilds:
        turns = Turns(tmp_path, rebuilds)
        assert sum(turns.kill(at, None) for at in range(1, 46)) >= 15
        turns.finish()
