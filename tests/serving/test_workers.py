"""Several processes on one port: all or none at the start, a dead one comes back, the end is orderly."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tiny_store import SPACE, make_store

from retrieval import client as rc
from retrieval.errors import FailedPrecondition
from retrieval.serving.config import make_settings
from retrieval.serving.operate.ports import check_port, hold_port
from retrieval.serving.operate.workers import supervise

COMMAND = [sys.executable, "-c", "from retrieval.cli import main; main()", "serve"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
QUERY = rc.Vector(values=np.ones(8), space_id=SPACE)


@contextmanager
def serving(store: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    process = subprocess.Popen(
        [*COMMAND, "--store", str(store), "--port", "0", "--metrics-port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        found = re.match(
            r"serving on (127\.0\.0\.1:\d+): pin .* rows\); 2 workers; metrics on (127\.0\.0\.1:\d+)", line
        )
        assert found, (line, process.stderr.read())
        yield process, found[1], found[2]
    finally:
        process.kill()
        process.communicate()


def page(place: str) -> str:
    with urllib.request.urlopen(f"http://{place}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def wait_for(what: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def children(pid: int) -> list[int]:
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((each / "stat").read_text().rsplit(")", 1)[1].split()[1])
            command = (each / "cmdline").read_bytes()
        except OSError:  # ended meanwhile
            continue
        if parent == pid and b"spawn_main" in command:
            found.append(int(each.name))
    return sorted(found)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the workers through /proc")
def test_workers_share_the_port_come_back_and_end(tmp_path: Path) -> None:
    make_store(tmp_path, 50, 8, 1)
    with serving(tmp_path, "--workers", "2") as (process, target, metrics):
        first = children(process.pid)
        assert len(first) == 2
        with rc.RetrievalClient(target, connections=8) as client:
            for _ in range(16):
                assert len(client.search(QUERY, k=5).candidates[0]) == 5
            counted = re.findall(r'retrieval_requests_total\{worker="(\d)".*?} (\d+)', page(metrics))
            assert sum(int(number) for _, number in counted) == 16
            os.kill(first[0], signal.SIGKILL)
            wait_for(lambda: "retrieval_workers 1" in page(metrics), 5)
            assert len(client.search(QUERY, k=5).candidates[0]) == 5  # the other answers
            wait_for(lambda: "retrieval_workers 2" in page(metrics), 30)
            again = children(process.pid)
            assert len(again) == 2
            assert len(set(again) & set(first)) == 1
            assert len(client.search(QUERY, k=5).candidates[0]) == 5
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert not [pid for pid in again if Path(f"/proc/{pid}").exists()]


def rows(place: str) -> set[str]:
    return set(re.findall(r"^retrieval_rows\{.*?} ([\d.]+)", page(place), re.MULTILINE))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the workers through /proc")
@pytest.mark.long
def test_a_new_generation_is_taken_up_without_a_pause_and_a_bad_one_is_not(tmp_path: Path) -> None:
    make_store(tmp_path, 50, 8, 1)
    with (
        serving(tmp_path, "--workers", "2", "--set", "log_calls=none") as (process, target, metrics),
        rc.RetrievalClient(target, connections=4, timeout_s=5) as client,
    ):
        first = children(process.pid)
        make_store(tmp_path, 60, 8, 1, seed=1)
        process.send_signal(signal.SIGHUP)

        def searched_and(what: Callable[[], bool]) -> bool:
            assert len(client.search(QUERY, k=5).candidates[0]) == 5
            return what()

        wait_for(lambda: searched_and(lambda: rows(metrics) == {"60.0"} and len(children(process.pid)) == 2), 30)
        second = children(process.pid)
        assert not set(first) & set(second)
        shutil.rmtree(tmp_path / "pin")
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: searched_and(lambda: len(children(process.pid)) == 3), 10)
        wait_for(lambda: searched_and(lambda: children(process.pid) == second), 20)
        time.sleep(0.5)  # the parent looks ten times a second
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr is not None
        told = process.stderr.read()
        assert "all workers are replaced" in told
        assert "worker 0 cannot start: " in told
        assert "the new worker 0 did not come up, the old workers that are left go on serving" in told


def test_what_cannot_be_served_is_the_parents_sentence(tmp_path: Path) -> None:
    make_store(tmp_path, 20, 8, 1)
    (vectors,) = tmp_path.rglob("vectors.npy")
    vectors.write_bytes(b"rubbish")
    done = subprocess.run(
        [*COMMAND, "--store", str(tmp_path), "--port", "0", "--workers", "2"],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("retrieval: no good generation of pin in ")
    assert done.stdout == ""


def test_a_port_is_held_for_those_that_share_it_only() -> None:
    with hold_port("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        with pytest.raises(FailedPrecondition, match=f"cannot listen on 127.0.0.1:{port}: address already in use"):
            check_port("127.0.0.1", port)
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.bind(("127.0.0.1", port))
        with pytest.raises(FailedPrecondition, match=f"cannot listen on 127.0.0.1:{port}: address already in use"):
            supervise(make_settings(store="x", port=port, workers=2), print)
    with pytest.raises(FailedPrecondition, match=r"cannot listen on no\.such\.host\.invalid:1: "):
        check_port("no.such.host.invalid", 1)
