"""The store and the server that a load measurement makes for itself: built once, kept, served by other processes.

The server is `retrieval serve` as a person starts it, so what is measured is what is shipped. Memory and CPU time are
those of its process tree, read from /proc. Knows nothing about load.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.data import clustered, clustered_queries
from index_builders.build import build
from index_builders.settings import make_settings
from retrieval.errors import Unavailable

SEED, ENTITY_TYPE, SPACE = 1, "pin", "bench-clustered"
TARGET_RECALL = 0.95  # recall@100 that the generation's default effort has to reach
_VERIFY_QUERIES = 500


def make_store(store: Path, *, rows: int, d: int, kind: str, shards: int, space_id: str = SPACE) -> None:
    """Build `rows` clustered vectors with int64 ids into `store`; one that is there already is kept as it is.

    Its default effort reaches recall@100 of 0.95 on held-out queries of the same distribution.
    """
    if (store / ENTITY_TYPE / "CURRENT").exists():
        return
    with tempfile.TemporaryDirectory(dir=_parent(store)) as scratch:
        vectors, ids, queries = (Path(scratch) / f"{name}.npy" for name in ("vectors", "ids", "queries"))
        np.save(vectors, clustered(rows, d, seed=SEED))
        np.save(ids, np.random.default_rng(SEED).permutation(rows).astype(np.int64) + 10**9)
        np.save(queries, clustered_queries(_VERIFY_QUERIES, d, seed=SEED))
        build(
            make_settings(
                source=vectors,
                ids=ids,
                queries=queries,
                store=store,
                entity_type=ENTITY_TYPE,
                space_id=space_id,
                shards=shards,
                kind=kind,
                seed=SEED,
                target_recall=TARGET_RECALL,
                verify_queries=_VERIFY_QUERIES,
            )
        )


def _parent(store: Path) -> Path:
    store.parent.mkdir(parents=True, exist_ok=True)
    return store.parent


class ServerProcess:
    """`retrieval serve` over a store; serves once made. Raises Unavailable with its last lines when it does not start.

    settings: further settings as NAME=VALUE, as `retrieval serve --set` takes them.
    """

    def __init__(
        self, store: Path, *, workers: int, checkpoint: Path | None = None, settings: Sequence[str] = ()
    ) -> None:
        command = [sys.executable, "-m", "retrieval.cli", "serve", "--store", str(store), "--port", "0"]
        command += ["--workers", str(workers)]
        command += ["--checkpoint", str(checkpoint)] if checkpoint is not None else []
        for pair in settings:
            command += ["--set", pair]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the server; a full pipe would stop it
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)
        self.target = self._wait()

    def _wait(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := re.match(r"serving on (\S+): ", line):
                return found[1]
        self._process.wait()
        self._process.stdout.close()
        with self._log:
            self._log.seek(0)
            lines = self._log.read().strip().splitlines()
        raise Unavailable(f"the server did not start, it said: {lines[-1] if lines else 'nothing'}")

    @property
    def pid(self) -> int:
        """Its first process."""
        return self._process.pid

    def resident_bytes(self) -> int:
        """Proportional resident size of all its processes: a page that n share counts 1/n in each."""
        return sum(_proportional(pid) for pid in _tree(self._process.pid))

    def cpu_seconds(self) -> float:
        """CPU time of all its processes so far."""
        return sum(_cpu(pid) for pid in _tree(self._process.pid))

    def stop(self) -> None:
        """End it and its workers."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()


def _tree(root: int) -> list[int]:
    found = [root]
    for pid in found:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except OSError:
                continue  # the thread ended
    return found


def _proportional(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
