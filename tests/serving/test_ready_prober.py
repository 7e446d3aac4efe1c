"""The process that probes beside calls at work: one for many probes, none of which takes it or the server along."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_store import make_store

from retrieval.errors import DamagedData, StoreError
from retrieval.serving.swap import ready
from retrieval.serving.swap.probe import probe
from retrieval.serving.swap.ready import ReadyProber
from retrieval.store import Generation
from retrieval.store.generation import read_manifest

# what the arguments ask for instead of a probe
PROBES = """
import os, signal, sys, time
from multiprocessing.connection import Connection
from retrieval.serving.swap import ready

def probe(arguments):
    what, *more = arguments
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "hang":
        time.sleep(60)
    return (3, more[0]) if more else (0, f"{os.getppid()} {os.sched_getscheduler(0)}")

ready.serve(Connection(int(sys.argv[-1])), probe)
"""


@pytest.fixture
def prober(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReadyProber]:
    head, _, _ = ready._GIVE_WAY.partition("import runpy")
    monkeypatch.setattr(ready, "_GIVE_WAY", head + PROBES)
    made = ReadyProber()
    yield made
    made.close()


def gone(pid: int, within_s: float = 10.0) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this system has no idle scheduling")
def test_one_process_probes_again_and_again_in_time_that_nobody_else_wants(prober: ReadyProber) -> None:
    prober.start()
    told = {prober.run(["look"], 30) for _ in range(3)}
    ((code, said),) = told
    process, scheduler = said.split()
    assert (code, int(scheduler)) == (0, os.SCHED_IDLE)
    assert int(process) != os.getpid()
    assert prober.run(["look", "a verdict"], 30) == (3, "a verdict")


def test_a_probe_that_crashes_costs_itself_alone(prober: ReadyProber) -> None:
    _, before = prober.run(["look"], 30)
    assert prober.run(["crash"], 30) == (-signal.SIGSEGV, "")
    assert prober.run(["look"], 30) == (0, before)


def test_a_probe_that_hangs_is_killed_and_the_next_one_gets_a_new_process(prober: ReadyProber) -> None:
    before = int(prober.run(["look"], 30)[1].split()[0])
    with pytest.raises(TimeoutError, match=r"no verdict in 0\.2 s"):
        prober.run(["hang"], 0.2)
    assert gone(before)
    assert int(prober.run(["look"], 30)[1].split()[0]) != before


def test_a_process_that_died_is_trouble_once(prober: ReadyProber) -> None:
    process = int(prober.run(["look"], 30)[1].split()[0])
    threading.Timer(0.2, os.kill, (process, signal.SIGKILL)).start()
    with pytest.raises(StoreError, match="the process that probes generations died"):
        prober.run(["hang"], 30)
    assert prober.run(["look"], 30)[0] == 0


def test_closing_ends_a_probe_at_work_at_once(prober: ReadyProber) -> None:
    prober.run(["look"], 30)
    threading.Timer(0.2, prober.close).start()
    began = time.monotonic()
    with pytest.raises(StoreError, match="died"):
        prober.run(["hang"], 30)
    assert time.monotonic() - began < 10
    with pytest.raises(StoreError, match="not probed any more: the server ends"):
        prober.run(["look"], 30)


def test_a_process_that_cannot_be_started_is_trouble(prober: ReadyProber, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    prober.start()
    with pytest.raises(StoreError, match="no process can be started that probes generations: No such file"):
        prober.run(["look"], 30)


def test_it_ends_with_the_server_that_started_it(tmp_path: Path) -> None:
    server = (
        "import sys, time; from retrieval.serving.swap.ready import ReadyProber\n"
        "p = ReadyProber(); p.start(); print(p._process.pid, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    started = subprocess.Popen([sys.executable, "-c", server], stdout=subprocess.PIPE, text=True, env=environment)
    with started:
        assert started.stdout is not None
        process = int(started.stdout.readline())
        started.kill()
    assert gone(process, 30)


def test_it_verifies_opens_and_searches_a_generation(tmp_path: Path) -> None:
    path = make_store(tmp_path, 40, 8, 2, seed=1, canaries=True).path
    generation = Generation(path=path, manifest=read_manifest(path))
    prober = ReadyProber()
    try:
        probe(generation, seconds=60, gently=prober)
        file = path / "shard-00001" / "vectors.npy"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(bytes(data))
        with pytest.raises(DamagedData, match=r"vectors\.npy"):
            probe(generation, seconds=60, gently=prober)
    finally:
        prober.close()
