"""Swaps while calls come: none fails, no answer mixes two generations; over leaves too; and after a kill."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tiny_fleet import LeafProcess
from tiny_store import SPACE, make_store, make_vectors

from retrieval import client as rc
from retrieval.serving.config import make_settings
from retrieval.serving.fleet.broker import Broker
from retrieval.serving.server import Server, open_engine
from retrieval.serving.swap import load
from retrieval.serving.swap.held import Held
from retrieval.store import Generation, Store

D, ROWS = 8, 400
COMMAND = [sys.executable, "-c", "from retrieval.cli import main; main()", "serve", "--port", "0"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
FOLLOW = {"poll_seconds": 0.05, "watch_seconds": 0.0}


@pytest.fixture
def no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probing child costs a second; what it verifies is verified here."""

    def verify(generation: Generation, *, seconds: float, gently: bool = False) -> None:
        Generation.open(generation.path, only=generation.only)

    monkeypatch.setattr(load, "probe", verify)


def generations(store: Path, n: int, kind: str = "hnsw") -> list[str]:
    """Ids of generations whose entities differ: those of number i end with i in base n."""
    ids = np.arange(ROWS, dtype=np.int64) * n
    return [
        make_store(
            store, ROWS, D, 3, "int64", kind, ids=ids + number, vectors=make_vectors(ROWS, D, seed=number),
            seed=number, canaries=True,
        ).manifest.id
        for number in range(n)
    ]  # fmt: skip


def wait_for(what: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


class Callers:
    """Threads that ask one question after another and hold every answer against the generation it names."""

    def __init__(self, target: str, names: list[str], callers: int = 3) -> None:
        self.names, self.wrong, self.seen = names, list[str](), dict.fromkeys(names, 0)
        self._stopped = threading.Event()
        self._client = rc.RetrievalClient(target, timeout_s=10)
        self._pool = ThreadPoolExecutor(callers)
        self._calls = [self._pool.submit(self._ask, seed) for seed in range(callers)]

    def _ask(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not self._stopped.is_set():
            query = rc.Vector(values=rng.standard_normal(D), space_id=SPACE)
            number = self.names.index
            try:
                answer = self._client.search(query, k=30, attributes=["title"])
                (source,) = answer.sources
                ids = np.asarray(list(answer.candidates[0].ids))
                titles = answer.candidates[0].attributes["title"]
                told = number(source.generation)
                if set((ids % len(self.names)).tolist()) != {told} or len(ids) != 30:
                    self.wrong.append(f"{source.generation} answered {ids.tolist()}")
                if titles != [f"pin {each}" for each in ids]:
                    self.wrong.append(f"{source.generation} gave attributes of others")
                if source.coverage != 1:
                    self.wrong.append(f"coverage {source.coverage}: {source.degraded}")
                self.seen[source.generation] += 1
            except Exception as error:  # all of them are counted
                self.wrong.append(f"{type(error).__name__}: {error}")

    def end(self) -> None:
        self._stopped.set()
        for call in self._calls:
            call.result(20)
        self._pool.shutdown()
        self._client.close()


def swap_often(tmp_path: Path, swaps: int) -> None:
    names = generations(tmp_path, 3)
    settings = make_settings(store=tmp_path, port=0, follow=FOLLOW)
    engine = open_engine(settings)
    server = Server(engine, settings)
    callers = Callers(f"127.0.0.1:{server.start()}", names)
    store = Store(tmp_path)
    try:
        for number in range(swaps):
            name = names[number % len(names)]
            store.publish("pin", name)
            wait_for(lambda name=name: engine.describe().generations[0].manifest.id == name)  # type: ignore[misc]
        wait_for(lambda: callers.seen[name] > 5)
    finally:
        callers.end()
        server.stop(5).wait()
        engine.close()
    assert callers.wrong == []
    assert min(callers.seen.values()) > 5
    assert engine.describe().following[0].swaps == swaps


@pytest.mark.usefixtures("no_child")
def test_ten_swaps_while_calls_come(tmp_path: Path) -> None:
    swap_often(tmp_path, 10)


@pytest.mark.long
def test_a_hundred_swaps_while_calls_come(tmp_path: Path) -> None:
    swap_often(tmp_path, 100)


@pytest.mark.usefixtures("no_child")
def test_leaves_move_one_after_the_other_while_a_broker_asks_them(tmp_path: Path) -> None:
    stores = [tmp_path / "a", tmp_path / "b"]
    names = generations(stores[0], 3)
    generations(stores[1], 3)
    servers, engines, ports = [], [], []
    for store, shards in zip(stores, ("pin:0,1", "pin:2"), strict=True):
        assert Store(store).generations("pin") == names
        Store(store).publish("pin", names[0])
        follow = {**FOLLOW, "grace_seconds": 0.5}
        leaf = make_settings(store=store, role="shard", shards=shards, port=0, follow=follow)
        engines.append(open_engine(leaf))
        servers.append(Server(engines[-1], leaf))
        ports.append(servers[-1].start())
    targets = ",".join(f"127.0.0.1:{port}" for port in ports)
    front = make_settings(role="broker", shards=targets, port=0, probe_interval_seconds=0.1)
    engines.append(open_engine(front))
    servers.append(Server(engines[-1], front))
    callers = Callers(f"127.0.0.1:{servers[-1].start()}", names)

    def leaf_serves(number: int, name: str) -> bool:
        return engines[number].describe().generations[0].manifest.id == name

    try:
        for name in names[1:]:
            Store(stores[0]).publish("pin", name)
            wait_for(lambda name=name: leaf_serves(0, name))  # type: ignore[misc]
            time.sleep(1.0)  # longer than the grace: the broker still asks for the old one
            Store(stores[1]).publish("pin", name)
            wait_for(lambda name=name: engines[-1].describe().generations[0].manifest.id == name)  # type: ignore[misc]
            wait_for(lambda name=name: callers.seen[name] > 5)  # type: ignore[misc]
        follower = servers[0].follower
        assert follower is not None
        wait_for(lambda: follower.states()[0].previous == "")  # nobody asks for it any more
    finally:
        callers.end()
        for server in reversed(servers):
            server.stop(5).wait()
        for engine in reversed(engines):
            engine.close()
    assert callers.wrong == []
    assert min(callers.seen.values()) > 5


def test_a_broker_stays_with_the_space_of_its_checkpoint(tmp_path: Path) -> None:
    held = []
    for seed, space in [(1, "old-space"), (2, "new-space")]:
        make_store(tmp_path, 60, D, 2, seed=seed, space_id=space)
        held.append(load.load_store(make_settings(store=tmp_path)))
    leaf_holds = Held(held[0], grace_s=600)
    leaf_holds.put(held[1]["pin"])
    leaf = LeafProcess(leaf_holds)  # type: ignore[arg-type]
    broker = Broker(make_settings(role="broker", shards=f"127.0.0.1:{leaf.port}"))
    try:
        assert broker.load()["pin"].about.manifest.space_id == "new-space"
        broker.spaces = frozenset({"old-space"})
        assert broker.load()["pin"].about.manifest.space_id == "old-space"
        leaf_holds.make_room("pin")  # it is asked for
        assert broker.load()["pin"].about.manifest.space_id == "old-space"
    finally:
        broker.close()
        leaf.stop()


@contextmanager
def serving(store: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [*COMMAND, "--store", str(store), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        found = re.match(r"serving on (127\.0\.0\.1:\d+): pin ", line)
        assert found, (line, process.stderr.read())
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


def test_a_killed_swap_costs_nothing_and_sighup_asks_again(tmp_path: Path) -> None:
    old, new, bad = generations(tmp_path, 3)
    store = Store(tmp_path)
    store.publish("pin", old)
    options = ["--set", "follow.poll_seconds=0.05"]
    with serving(tmp_path, *options) as (process, target), rc.RetrievalClient(target) as client:
        assert client.describe().generations[0].generation == old
        store.publish("pin", new)
        children = Path(f"/proc/{process.pid}/task")
        wait_for(lambda: any((each / "children").read_text() for each in children.iterdir()))  # the probe is at work
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    with serving(tmp_path, "--set", "follow.poll_seconds=0") as (process, target), rc.RetrievalClient(target) as client:
        assert client.describe().generations[0].generation == new
        file = tmp_path / "pin" / "generations" / bad / "shard-00000" / "vectors.npy"
        right = file.read_bytes()
        file.write_bytes(right[:-1])
        store.publish("pin", bad)
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(client.describe().following[0].quarantined) == 1)
        (state,) = client.describe().following
        assert (state.generation, state.published) == (new, bad)
        assert "shard-00000/vectors.npy has" in state.quarantined[0]
        file.write_bytes(right)
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: client.describe().following[0].generation == bad)
        assert client.describe().following[0].canary_recall == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.mark.usefixtures("no_child")
def test_a_store_at_a_url_is_followed_through_a_local_copy(tmp_path: Path) -> None:
    far = tmp_path / "far"
    names = generations(far, 3)
    store = Store(far)
    store.publish("pin", names[0])
    cache = tmp_path / "near"
    settings = make_settings(store=f"file://{far}", port=0, follow={**FOLLOW, "cache": cache})
    engine = open_engine(settings)
    server = Server(engine, settings)
    server.start()
    try:
        for name in names[1:]:
            store.publish("pin", name)
            wait_for(lambda name=name: engine.describe().generations[0].manifest.id == name)  # type: ignore[misc]
        wait_for(lambda: Store(cache).current("pin") == names[2])
        (far / "pin" / "CURRENT").write_text("garbage")
        wait_for(lambda: "does not name a generation" in engine.describe().following[0].trouble)
        assert engine.describe().following[0].quarantined == ()
    finally:
        server.stop(5).wait()
        engine.close()
    again = open_engine(settings)  # starts with the copy while the store cannot be read
    assert again.describe().generations[0].manifest.id == names[2]
    again.close()
