"""Servers over one store, one after the other, each killed: what they were told, and what the next one must answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from tiny_store import SPACE, TinyGeneration, make_ids, make_store, make_vectors

from retrieval import client as rc
from retrieval.errors import RetrievalError
from retrieval.store import Store
from retrieval.topk import normalise
from retrieval.types import F32

SCRIPT = Path(__file__).parent / "serving" / "killed_server.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
N, D, WRITTEN = 120, 8, 30  # rows, dimensions, how many ids are written again and again
WAIT_S = 20.0

State = dict[int, F32 | None]  # what writes left of an id: its vector, or None when it is deleted


class Servers:
    """Servers over one store, one after the other, each killed; see serving/killed_server.py."""

    def __init__(self, folder: Path, *, environment: dict[str, str] | None = None) -> None:
        self.store, self.stages = folder / "store", folder / "stages"
        self.line = f"{self.store} {self.stages}"
        ids = make_ids(N, "int64")
        self.made: list[TinyGeneration] = [
            make_store(self.store, N, D, 2, ids=ids, vectors=make_vectors(N, D, seed=seed), seed=seed, canaries=True)
            for seed in range(2)
        ]
        self.fresh = [int(id_) for id_ in ids[: WRITTEN // 2]] + list(range(10**6, 10**6 + WRITTEN // 2))
        self.state: State = {}
        self.pending: State = {}
        self.writes = self.searches = self.child = 0
        self.rng = np.random.default_rng(5)
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT | (environment or {}),
        )

    def close(self) -> None:
        if self.child:
            with suppress(ProcessLookupError):  # a test that failed leaves its server alive
                os.kill(self.child, signal.SIGKILL)
        self._process.communicate(timeout=WAIT_S)

    def start(self) -> tuple[int, str]:
        """Process and address of the next server."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.stages.unlink(missing_ok=True)
        print(self.line, file=self._process.stdin, flush=True)
        self.child, port = int(self._process.stdout.readline()), int(self._process.stdout.readline())
        assert port, "the server did not start"
        return self.child, f"127.0.0.1:{port}"

    def stage(self) -> str:
        """What the server told last."""
        told = self.stages.read_text().split() if self.stages.exists() else []
        return told[-1] if told else "before"

    def live(self) -> str:
        return Store(self.store).current("pin")

    def publish_other(self) -> None:
        (other,) = {each.manifest.id for each in self.made} - {self.live()}
        Store(self.store).publish("pin", other)

    def load(self, client: rc.RetrievalClient) -> None:
        """Write and search until the server is gone; what it acknowledged is kept."""
        while True:
            ids = self.rng.choice(self.fresh, 3, replace=False).tolist()
            vectors = normalise(self.rng.standard_normal((3, D)).astype(np.float32))
            deleting = self.rng.random() < 0.3
            self.pending = dict.fromkeys(ids) if deleting else dict(zip(ids, vectors, strict=True))
            try:
                if deleting:
                    client.delete("pin", ids)
                else:
                    client.upsert("pin", ids, vectors, space_id=SPACE)
                self.state |= self.pending
                self.pending = {}
                self.writes += 1
                client.search(rc.Vector(values=vectors[0], space_id=SPACE), k=5)
                self.searches += 1
            except RetrievalError:
                return

    def check(self, client: rc.RetrievalClient) -> None:
        """The server answers from what is live, under what was acknowledged, with all of the last write or nothing."""
        live = self.live()
        deadline = time.monotonic() + WAIT_S
        query = normalise(self.rng.standard_normal((1, D)).astype(np.float32))[0]
        while client.describe().generations[0].generation != live:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (ranking,) = client.search(rc.Vector(values=query, space_id=SPACE), k=N + WRITTEN).candidates
        ids = list(ranking.ids)
        assert len(set(ids)) == len(ids)
        got = dict(zip(map(int, ids), ranking.scores.tolist(), strict=True))
        (made,) = [each for each in self.made if each.manifest.id == live]
        base = dict(zip(made.ids.tolist(), made.vectors, strict=True))
        for state in (self.state, self.state | self.pending):
            wanted = {id_: float(row @ query) for id_, row in (base | state).items() if row is not None}
            if got.keys() == wanted.keys() and all(abs(got[id_] - wanted[id_]) < 2e-3 for id_ in got):
                self.state, self.pending = state, {}
                return
        raise AssertionError(f"neither with nor without the last write: {sorted(got.keys() ^ wanted.keys())}")

    def kill(self, after_s: float, *, swap: bool) -> str:
        """One life: checked, loaded, killed `after_s` into it or into its swap; the stage of the swap it died in."""
        child, address = self.start()
        with rc.RetrievalClient(address) as client:
            self.check(client)
            loading = threading.Thread(target=self.load, args=(client,))
            loading.start()
            if swap:
                self.publish_other()
            time.sleep(after_s)
            os.kill(child, signal.SIGKILL)
            loading.join(WAIT_S)
            assert not loading.is_alive()
        return self.stage()

    def swap_s(self) -> float:
        """How long an unkilled swap takes, from the pointer's move."""
        child, address = self.start()
        with rc.RetrievalClient(address) as client:
            loading = threading.Thread(target=self.load, args=(client,))
            loading.start()
            began = time.monotonic()
            self.publish_other()
            while self.stage() != "served":
                assert time.monotonic() < began + WAIT_S
                time.sleep(0.002)
            took = time.monotonic() - began
            os.kill(child, signal.SIGKILL)
            loading.join(WAIT_S)
        return took
