"""Leaves and a broker as processes of their own, with faults on demand, for the measurement of a fleet.

A leaf is told through a pipe to be late or to answer rubbish, and is stopped or killed by signals. Knows nothing about
load or figures.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb
from retrieval.serving.calls import GenerationDescription
from retrieval.serving.config import ServingSettings
from retrieval.serving.effort.efforts import Efforts
from retrieval.serving.engine import Engine
from retrieval.serving.fleet.broker import Broker
from retrieval.serving.fleet.leaf import LeafService
from retrieval.serving.rankings import Served
from retrieval.serving.server import Server
from retrieval.serving.shards import LocalShard
from retrieval.store import Store

_CONTEXT = multiprocessing.get_context("spawn")
_THREADS = 8


class LeafProcess:
    """A leaf with some shards of the store's pins; answers once made."""

    def __init__(self, store: Path, numbers: list[int], port: int = 0) -> None:
        self._store, self._numbers = store, numbers
        self.port = port
        self._start()

    def _start(self) -> None:
        self._pipe, there = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve_leaf, args=(there, self._store, self._numbers, self.port))
        self._process.start()

    def wait(self) -> None:
        """Until it listens."""
        self.port = self._pipe.recv()

    def trouble(self, *, delay_s: float = 0.0, share: float = 1.0, garbles: bool = False) -> None:
        """Searches of a share wait first; answers are cut short if it garbles. Without arguments it is well again."""
        self._pipe.send((delay_s, share, garbles))

    def pause(self) -> None:
        """SIGSTOP: connections stay, nothing answers."""
        os.kill(self._pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        os.kill(self._pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it without a farewell."""
        self._process.kill()
        self._process.join()

    def restart(self) -> None:
        """A new process at the same port; returns when it listens."""
        self._start()
        self.wait()

    @property
    def _pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid


class BrokerProcess:
    """A broker over leaves, as `retrieval serve --role broker` makes it."""

    def __init__(self, settings: ServingSettings) -> None:
        self._pipe, there = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve_broker, args=(there, settings))
        self._process.start()
        self.port: int = self._pipe.recv()

    def calls(self) -> tuple[int, int]:
        """Calls to leaves so far, hedges not counted, and hedges."""
        self._pipe.send("calls")
        first, extra = self._pipe.recv()
        return first, extra

    def stop(self) -> None:
        """End it."""
        self._pipe.send("stop")
        self._process.join(10)
        self._process.kill()


def open_part(store: Path, numbers: list[int]) -> dict[str, Served]:
    """Some shards of the live pins, every file checked; the probe in a child process is left out to start sooner."""
    place = Store(store)
    generation = place.open("pin", place.current("pin"))
    shards = tuple(LocalShard.open(generation.shards[number]) for number in numbers)
    about = GenerationDescription(manifest=generation.manifest, columns=tuple(shards[0].columns))
    return {"pin": Served(about=about, shards=shards, efforts=Efforts(generation.manifest))}


class _Faulty(LeafService):
    delay_s, share, garbles = 0.0, 1.0, False

    def __init__(self, served: dict[str, Served], *, seed: int) -> None:
        super().__init__(served, max_message_bytes=1 << 24)
        self._rng = np.random.default_rng(seed)

    def search(self, request: pb.SearchShardsRequest) -> pb.SearchShardsResponse:
        if self.delay_s and self._rng.random() < self.share:
            time.sleep(self.delay_s)
        answer = super().search(request)
        if self.garbles:
            for hits in answer.hits:
                hits.scores = hits.scores[:-1]
        return answer


def _serve_leaf(pipe: Connection, store: Path, numbers: list[int], port: int) -> None:
    service = _Faulty(open_part(store, numbers), seed=numbers[0])
    options: list[tuple[str, Any]] = [("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(_THREADS), options=options)
    server.add_generic_rpc_handlers((service.generic_handler(),))
    pipe.send(server.add_insecure_port(f"127.0.0.1:{port}"))
    server.start()
    while True:
        try:
            service.delay_s, service.share, service.garbles = pipe.recv()
        except (EOFError, ConnectionResetError):
            return


def _serve_broker(pipe: Connection, settings: ServingSettings) -> None:
    broker = Broker(settings)
    engine = Engine(broker.load(), limits=settings.limits)
    engine.follow(broker)
    server = Server(engine, settings)
    pipe.send(server.start())
    while pipe.recv() != "stop":
        pipe.send((broker.hedging.calls, broker.hedging.extra))
    server.stop(0).wait()
    engine.close()
