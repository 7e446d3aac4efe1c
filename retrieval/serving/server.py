"""The server: threads, port, TLS, health, reflection, and an orderly end.

A synchronous gRPC server with a fixed pool: an echo of 100 ids and scores costs 95 microseconds a call on one core, the
asyncio server 155. Healthy only after everything is loaded; at the end unhealthy first, then no new calls, then the
calls in flight are finished. Knows nothing about queries; `process` decides when it starts and stops.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from retrieval.errors import FailedPrecondition
from retrieval.serving.admission import Admission
from retrieval.serving.config import ServingSettings
from retrieval.serving.delta.opening import open_delta
from retrieval.serving.engine import Engine
from retrieval.serving.fleet.broker import Broker
from retrieval.serving.fleet.leaf import SHARD_SERVICE, LeafService
from retrieval.serving.live_recall import LiveRecallMeter
from retrieval.serving.operate.credentials import TlsReloader
from retrieval.serving.operate.load_metrics import watch_load
from retrieval.serving.operate.operations import Operations
from retrieval.serving.operate.ports import check_port
from retrieval.serving.pressure import Ladder
from retrieval.serving.service import SERVICE, RetrievalService
from retrieval.serving.swap.follow import Follower
from retrieval.serving.swap.held import Held
from retrieval.serving.swap.load import check_tower, load_store
from retrieval.serving.swap.metrics import follows
from retrieval.serving.text.path import TextPath
from retrieval.serving.threads import search_pool

_SPARE_THREADS = 8
_UNSEEN_CALLS = (
    32  # in gRPC's own queue, where calls only grow old; refused there, a call gets no hint when to come again
)


class Server:
    """An engine behind a port.

    more: further services by name, beside `Retrieval`. share_port: several processes listen on the same port.
    InvalidParams when certificates or tokens cannot be used, MissingDependency when traces cannot be written.
    """

    def __init__(
        self,
        engine: Engine,
        settings: ServingSettings,
        *,
        more: Sequence[tuple[str, grpc.GenericRpcHandler[Any, Any]]] = (),
        share_port: bool = False,
    ) -> None:
        self._settings = settings
        self._share_port = share_port
        self._tls = None if settings.tls_certificate is None else TlsReloader(settings)
        self.operations = Operations(engine, settings, self._tls)
        threads = settings.threads or max(2, 2 * (os.cpu_count() or 1) // settings.workers)
        self._health = health.HealthServicer()
        options: list[tuple[str, Any]] = [
            # twice the limit gets as far as the service, which refuses it with a sentence; more is cut off here
            ("grpc.max_receive_message_length", 2 * settings.max_message_bytes + 65_536),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", int(share_port)),  # otherwise two servers share a port without a word
        ]
        if settings.connection_seconds:
            options.append(("grpc.max_connection_age_ms", round(settings.connection_seconds * 1e3)))
        self.admission = Admission(threads, settings.admission, ladder=engine.ladder)
        if engine.live is not None:
            engine.live.wait_for(self.admission.is_idle)
        watch_load(self.operations.metrics, self.admission, engine)
        # every call at work or waiting has a thread, and some are left to refuse, to describe and to tell the health
        size = threads + settings.admission.max_queue + _SPARE_THREADS
        self._server = grpc.server(
            search_pool(size, "call"),
            interceptors=[self.operations.gate],
            options=options,
            # gRPC queues what its threads cannot take: beyond a number it refuses by itself
            maximum_concurrent_rpcs=size + _UNSEEN_CALLS,
        )
        self.delta, writer = open_delta(engine, settings, self.operations.metrics)
        own = RetrievalService(
            engine, max_answer_bytes=settings.max_answer_bytes, admission=self.admission, writer=writer
        ).generic_handler()
        follow = settings.follow
        # a broker has no store; Describe and the metrics of the others tell how they follow theirs
        of_leaf = settings.role == "shard"
        self._held = Held(
            engine.shown.base,
            keep_s=max(follow.watch_seconds, follow.grace_seconds if of_leaf else 0.0),
            grace_s=follow.grace_seconds if of_leaf else 0.0,
        )
        self.follower: Follower | None = None
        if settings.role != "broker":
            self.follower = Follower(engine, self._held, settings, idle=self.admission.is_idle)
            self.follower.changed = self._tell_healthy
            engine.following = self.follower.states
            self.operations.metrics.add(follows(self.follower.states))
        services = [(SERVICE, own), *more]
        if settings.role == "shard":
            # part of a generation, which would pass for all of it if it answered callers itself
            leaf = LeafService(self._held, max_message_bytes=2 * settings.max_message_bytes, admission=self.admission)
            services = [(SHARD_SERVICE, leaf.generic_handler()), *more]
        self._server.add_generic_rpc_handlers(tuple(handler for _, handler in services))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = [name for name, _ in services]
        reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        # "" is the server as a whole; a type has its own name, so that a balancer can send its calls elsewhere
        types = [each.manifest.entity_type for each in engine.describe().generations]
        self._healthy = ["", *names, *(f"{SERVICE}/{entity_type}" for entity_type in types)]
        for service in self._healthy:
            self._health.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)

    def start(self) -> int:
        """Listen, turn healthy, return the port; FailedPrecondition when the port cannot be had."""
        host, port = self._settings.host, self._settings.port
        if not self._share_port:
            check_port(host, port)
        try:
            if self._tls is None:
                port = self._server.add_insecure_port(_address(host, port))
            else:
                port = self._server.add_secure_port(_address(host, port), self._tls.credentials())
        except RuntimeError:
            raise FailedPrecondition(f"cannot listen on {host}:{port}: choose another --host or --port") from None
        self._server.start()
        for service in self._healthy:
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        self.operations.is_ready = True
        if self.follower is not None:
            self.follower.start()
        if self.delta is not None:
            self.delta.start()
        return port

    def stop(self, drain_seconds: float) -> threading.Event:
        """Turn unhealthy, take no new calls, give those in flight `drain_seconds`; the event tells the end."""
        self.operations.is_ready = False
        self._health.enter_graceful_shutdown()
        event: threading.Event = self._server.stop(drain_seconds)
        if self.follower is not None:  # while the calls in flight are finished
            self.follower.close()
        if self.delta is not None:
            self.delta.close()
        return event

    def _tell_healthy(self, entity_type: str) -> None:
        self._health.set(f"{SERVICE}/{entity_type}", health_pb2.HealthCheckResponse.SERVING)


def open_engine(settings: ServingSettings) -> Engine:
    """Load the store and, if there is one, the checkpoint; see `load.load_store` for what it raises."""
    broker = Broker(settings) if settings.role == "broker" else None
    served = load_store(settings) if broker is None else broker.load()
    texts = None
    if settings.checkpoint is not None:
        # imported here so that a server of vectors needs no torch
        from retrieval.towers.query import QueryTower

        tower = QueryTower.load(
            settings.checkpoint, threads=settings.torch_threads or None, precision=settings.precision
        )
        if broker is not None:
            broker.spaces = frozenset({tower.space_id, *tower.compatible})
            served = broker.load()
        check_tower(tower, served)
        texts = TextPath(tower, settings.encode)
        texts.encode(["warm-up"])
    engine = Engine(
        served,
        texts,
        limits=settings.limits,
        shard_threads=settings.shard_threads,
        ladder=Ladder(settings.pressure),
        live=None if broker is not None else LiveRecallMeter(settings.live_recall),
    )
    if broker is not None:
        engine.follow(broker)
    return engine


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
