"""The server as a process: one line when healthy, an orderly end on SIGTERM, one sentence when it cannot start."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from tiny_store import SPACE, make_store
from tiny_tower import make_tiny_checkpoint

from retrieval import client as rc
from retrieval.errors import FailedPrecondition
from retrieval.serving.config import make_settings
from retrieval.serving.engine import Engine
from retrieval.serving.server import Server
from retrieval.serving.swap.load import load_store

COMMAND = [sys.executable, "-c", "from retrieval.cli import main; main()"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@contextmanager
def serving(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [*COMMAND, "serve", "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"serving on (127\.0\.0\.1:\d+): (pin|product) \d{6}-[0-9a-f]{8} \(\d+ rows\)", line)
        assert found, (line, process.stderr.read() if process.stderr else "")
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


def fails(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, env=ENVIRONMENT, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.strip().splitlines()[-1]


def test_serve_search_and_terminate(tmp_path: Path) -> None:
    from retrieval.towers.query import QueryTower

    checkpoint = make_tiny_checkpoint(tmp_path / "checkpoint", d=16)
    space = QueryTower.load(checkpoint).space_id
    make_store(tmp_path / "store", 100, 16, 2, "string", "hnsw", space_id=space, canaries=True)
    with serving("--store", str(tmp_path / "store"), "--checkpoint", str(checkpoint)) as (process, target):
        ask = [*COMMAND, "search", "red chair", "--target", target, "-k", "3", "--entity-type", "pin", "--ef", "50"]
        table = subprocess.run(ask, capture_output=True, text=True, env=ENVIRONMENT, check=True, timeout=60).stdout
        assert "pin e" in table
        assert "coverage 1.000 of 100 rows" in table
        assert "effort ef 50" in table
        plain = subprocess.run(
            [*ask, "--json"], capture_output=True, text=True, env=ENVIRONMENT, check=True, timeout=60
        )
        answer = json.loads(plain.stdout.splitlines()[-1])
        ranking = answer["candidates"][0]["ranking"]
        assert [each["rank"] for each in ranking] == [1, 2, 3]
        assert ranking[0]["attributes"]["title"] == f"pin {ranking[0]['id']}"
        code, sentence = fails("search", " ", "--target", target)
        assert (code, sentence[:36]) == (2, "retrieval: the query text is empty: ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        code, sentence = fails("search", "red", "--target", target, "--timeout", "2")
        assert code == 1
        assert sentence.startswith("retrieval: ")


class Slow:
    """A tower-less engine's shard that takes its time."""

    def __init__(self, engine: Engine, seconds: float) -> None:
        self.began = threading.Event()
        (served,) = engine.shown.all.values()
        shard = served.shards[0]
        search = shard.search

        def slowly(*arguments: object, **named: object) -> object:
            self.began.set()
            time.sleep(seconds)
            return search(*arguments, **named)  # type: ignore[arg-type]

        shard.search = slowly  # type: ignore[method-assign, assignment]


def test_calls_in_flight_are_finished_and_new_ones_refused(tmp_path: Path) -> None:
    make_store(tmp_path, 50, 8, 1)
    settings = make_settings(store=tmp_path, port=0, threads=4)
    engine = Engine(load_store(settings))
    slow = Slow(engine, 1.0)
    server = Server(engine, settings)
    query = rc.Vector(values=np.ones(8), space_id=SPACE)
    with rc.RetrievalClient(f"127.0.0.1:{server.start()}") as client, ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(client.search, query, k=5) for _ in range(3)]
        assert slow.began.wait(5)
        end = time.monotonic() + 10
        while server.admission.stats().at_work + server.admission.stats().waiting < len(calls):
            assert time.monotonic() < end, "the calls did not all come in"
            time.sleep(0.01)
        stopped = server.stop(10)
        with pytest.raises(Exception, match=r"UNAVAILABLE|CANCELLED|no answer within"):
            client.search(query, k=5, timeout_s=0.5)
        assert [len(call.result(10).candidates[0]) for call in calls] == [5, 5, 5]
        assert stopped.wait(5)


def test_work_whose_caller_has_gone_is_dropped(tmp_path: Path) -> None:
    make_store(tmp_path, 50, 8, 1)
    settings = make_settings(store=tmp_path, port=0, threads=1)
    engine = Engine(load_store(settings))
    slow = Slow(engine, 0.5)
    searches = []
    (served,) = engine.shown.all.values()
    search = served.shards[0].search
    served.shards[0].search = lambda *a, **n: searches.append(1) or search(*a, **n)  # type: ignore[method-assign, assignment]
    server = Server(engine, settings)
    query = rc.Vector(values=np.ones(8), space_id=SPACE)
    with rc.RetrievalClient(f"127.0.0.1:{server.start()}") as client, ThreadPoolExecutor(3) as pool:
        first = pool.submit(client.search, query, k=5)
        assert slow.began.wait(5)
        # these wait behind the first in the only thread, and give up before it is done
        gone = [pool.submit(client.search, query, k=5, timeout_s=0.1) for _ in range(2)]
        for call in gone:
            with pytest.raises(Exception, match=r"no answer within 0\.1 s"):
                call.result(5)
        assert len(first.result(5).candidates[0]) == 5
        assert len(client.search(query, k=5).candidates[0]) == 5
    server.stop(0).wait()
    assert len(searches) == 2


def test_port_in_use(tmp_path: Path) -> None:
    make_store(tmp_path, 20, 8, 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = make_settings(store=tmp_path, port=port)
        with pytest.raises(
            FailedPrecondition, match=rf"cannot listen on 127.0.0.1:{port}: address already in use; choose"
        ):
            Server(Engine({}), settings).start()
        code, sentence = fails("serve", "--store", str(tmp_path), "--port", str(port))
    assert code == 1
    assert sentence.startswith(f"retrieval: cannot listen on 127.0.0.1:{port}: address already in use; choose another")


def test_what_cannot_be_served_is_one_sentence_and_an_exit_code(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("no store")
    code, sentence = fails("serve", "--store", str(tmp_path), "--port", "0")
    assert code == 1
    assert f"{tmp_path} is not a store" in sentence
    code, sentence = fails("serve", "--store", str(tmp_path), "--port", "70000")
    assert code == 2
    assert "port = 70000 is not acceptable" in sentence
    make_store(tmp_path / "store", 20, 8, 1)
    (vectors,) = (tmp_path / "store").rglob("vectors.npy")
    vectors.write_bytes(b"rubbish")
    code, sentence = fails("serve", "--store", str(tmp_path / "store"), "--port", "0")
    assert code == 1
    assert "no good generation of pin in" in sentence


def test_the_client_tries_an_unavailable_server_again(tmp_path: Path) -> None:
    attempts = []

    def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
        attempts.append(1)
        if len(attempts) < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "starting")
        return b""

    server = grpc.server(ThreadPoolExecutor(1))
    handlers = {"Describe": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("retrieval.v1.Retrieval", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with rc.RetrievalClient(f"127.0.0.1:{port}") as client:
        client.describe()
    server.stop(0).wait()
    assert len(attempts) == 3
