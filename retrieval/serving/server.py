"""The server process: threads, port, health, reflection, and an orderly end.

A synchronous gRPC server with a fixed pool: an echo of 100 ids and scores costs 95 microseconds a call on one core, the
asyncio server 155. Healthy only after everything is loaded; on SIGTERM or SIGINT unhealthy first, then no new calls,
then the calls in flight are finished. Knows nothing about queries.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from retrieval.errors import FailedPrecondition
from retrieval.serving.config import ServingSettings
from retrieval.serving.engine import Engine
from retrieval.serving.load import check_tower, load_store
from retrieval.serving.service import SERVICE, RetrievalService
from retrieval.serving.threads import search_pool

_log = logging.getLogger(__name__)


class Server:
    """An engine behind a port."""

    def __init__(self, engine: Engine, settings: ServingSettings) -> None:
        self._settings = settings
        threads = settings.threads or 2 * (os.cpu_count() or 1)
        self._health = health.HealthServicer()
        self._server = grpc.server(
            search_pool(threads, "call"),
            options=[
                # twice the limit gets as far as the service, which refuses it with a sentence; more is cut off here
                ("grpc.max_receive_message_length", 2 * settings.max_message_bytes + 65_536),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # otherwise two servers share a port without a word
            ],
        )
        self._server.add_generic_rpc_handlers(
            (RetrievalService(engine, max_answer_bytes=settings.max_answer_bytes).generic_handler(),)
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    def start(self) -> int:
        """Listen, turn healthy, return the port; FailedPrecondition when the port cannot be had."""
        host, port = self._settings.host, self._settings.port
        _check_port(host, port)
        try:
            port = self._server.add_insecure_port(_address(host, port))
        except RuntimeError:
            raise FailedPrecondition(f"cannot listen on {host}:{port}: choose another --host or --port") from None
        self._server.start()
        for service in ("", SERVICE):
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return port

    def stop(self, drain_seconds: float) -> threading.Event:
        """Turn unhealthy, take no new calls, give those in flight `drain_seconds`; the event tells the end."""
        self._health.enter_graceful_shutdown()
        event: threading.Event = self._server.stop(drain_seconds)
        return event


def open_engine(settings: ServingSettings) -> Engine:
    """Load the store and, if there is one, the checkpoint; see `load.load_store` for what it raises."""
    served = load_store(settings)
    tower = None
    if settings.checkpoint is not None:
        # imported here so that a server of vectors needs no torch
        from retrieval.towers.query import QueryTower

        tower = QueryTower.load(
            settings.checkpoint, threads=settings.torch_threads or None, precision=settings.precision
        )
        check_tower(tower, served)
        tower.encode(["warm-up"])
    return Engine(served, tower, limits=settings.limits, shard_threads=settings.shard_threads)


def run(settings: ServingSettings, say: Callable[[str], None]) -> None:
    """Load, serve until SIGTERM or SIGINT, drain, return. `say` gets the line that tells where it serves."""
    _check_port(settings.host, settings.port)  # before minutes of loading
    engine = open_engine(settings)
    server = Server(engine, settings)
    signals = [threading.Event(), threading.Event()]

    def ask_to_stop(number: int, frame: object) -> None:
        next((event for event in signals if not event.is_set()), signals[-1]).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask_to_stop)
    port = server.start()
    parts = [
        f"{each.manifest.entity_type} {each.manifest.id} ({each.manifest.rows:,} rows)"
        for each in engine.describe().generations
    ]
    say(f"serving on {settings.host}:{port}: {', '.join(parts)}")
    signals[0].wait()
    _log.info("draining for at most %s s", settings.drain_seconds)
    stopped = server.stop(settings.drain_seconds)
    while not stopped.wait(0.1):
        if signals[1].is_set():  # asked twice: now
            server.stop(0)
    engine.close()


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check_port(host: str, port: int) -> None:
    # gRPC's own failure to bind comes with lines of its C core on standard error and without the reason
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        raise FailedPrecondition(
            f"cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}; choose another --host or --port"
        ) from None
