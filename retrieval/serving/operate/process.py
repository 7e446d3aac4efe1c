"""`retrieval serve` as one process: load, serve until a signal, drain, end.

With several workers `workers` starts this many times and talks to each through a pipe. Knows nothing about queries.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable

from retrieval.serving.config import ServingSettings
from retrieval.serving.engine import Engine
from retrieval.serving.operate.metrics_http import MetricsServer
from retrieval.serving.operate.ports import check_port
from retrieval.serving.operate.signals import Signals
from retrieval.serving.server import Server, open_engine

_log = logging.getLogger(__name__)
_POLL_SECONDS = 0.2


def run(settings: ServingSettings, say: Callable[[str], None]) -> None:
    """Load, serve until SIGTERM or SIGINT, drain, return. `say` gets the line that tells where it serves.

    Raises what loading raises, FailedPrecondition when a port cannot be had.
    """
    check_port(settings.host, settings.port)  # before minutes of loading
    engine = open_engine(settings)
    server = Server(engine, settings)
    watched = None
    if settings.metrics_port is not None:
        operations = server.operations
        watched = MetricsServer(
            settings.metrics_host, settings.metrics_port, operations.metrics.page, lambda: operations.is_ready
        )
    signals = Signals()
    keep_out_of_collections()
    port = server.start()
    say(announcement(engine, settings, port, watched))
    while not signals.stop.wait(_POLL_SECONDS):
        if signals.load_anew.is_set():
            signals.load_anew.clear()
            if server.follower is not None:
                server.follower.ask()
    drain(server, settings, signals)
    if watched is not None:
        watched.close()
    server.operations.close()
    engine.close()


def keep_out_of_collections() -> None:
    """Take what is loaded by now out of the garbage collector's sight: it stays, and to walk it stops all calls.

    A full collection after loading takes some 25 ms, one that sees only what came later less than one.
    """
    gc.collect()
    gc.freeze()


def announcement(engine: Engine, settings: ServingSettings, port: int, watched: MetricsServer | None = None) -> str:
    """The line that tells where what is served."""
    parts = [
        f"{each.manifest.entity_type} {each.manifest.id} ({each.manifest.rows:,} rows)"
        for each in engine.describe().generations
    ]
    more = "" if watched is None else f"; metrics on {settings.metrics_host}:{watched.port}"
    return f"serving on {settings.host}:{port}: {', '.join(parts)}{more}"


def drain(server: Server, settings: ServingSettings, signals: Signals) -> None:
    """Finish the calls in flight, for at most the settings' time or until asked again."""
    _log.info("draining for at most %s s", settings.drain_seconds)
    stopped = server.stop(settings.drain_seconds)
    while not stopped.wait(0.1):
        if signals.now.is_set():
            server.stop(0)
