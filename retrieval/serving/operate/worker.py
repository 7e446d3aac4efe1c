"""One of several serving processes: loads, waits for the word, serves, tells its metrics, ends with its parent.

Talks to `workers` through a pipe: it sends that it is loaded, serving or failed, and gets GO and METRICS. Knows nothing
of the other workers.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from multiprocessing.connection import Connection

from retrieval.errors import RetrievalError
from retrieval.serving.config import ServingSettings
from retrieval.serving.operate import logs
from retrieval.serving.operate.process import announcement, drain, keep_out_of_collections
from retrieval.serving.operate.signals import Signals
from retrieval.serving.operate.worker_messages import Ask, State
from retrieval.serving.server import Server, open_engine
from retrieval.serving.text.cache_file import worker_path

_log = logging.getLogger(__name__)


def work(settings: ServingSettings, number: int, pipe: Connection) -> None:
    """Serve until SIGTERM or the end of the parent; the target of a process."""
    signals = Signals(of_worker=True)
    logs.set_up(settings.log_format)
    if settings.torch_threads == 0:
        # the cores are shared by the workers
        settings = settings.model_copy(update={"torch_threads": max(1, (os.cpu_count() or 1) // settings.workers)})
    if settings.encode.cache_file is not None:
        # each writes its own: of one file only the last writer's texts would be left
        own = worker_path(settings.encode.cache_file, number)
        settings = settings.model_copy(update={"encode": settings.encode.model_copy(update={"cache_file": own})})
    try:
        engine = open_engine(settings)
        server = Server(engine, settings, share_port=True)
        pipe.send((State.LOADED, announcement(engine, settings, settings.port), ""))
        if not _wait_for_go(pipe, signals):
            return
        keep_out_of_collections()
        server.start()
        pipe.send((State.SERVING, "", ""))
    except RetrievalError as error:
        pipe.send((State.FAILED, str(error), type(error).__name__))
        sys.exit(1)
    except (EOFError, OSError):
        _log.error("worker %d ends, because its parent is gone", number)
        sys.exit(1)
    answering = threading.Thread(target=_answer, args=(server, pipe, signals), name="parent", daemon=True)
    answering.start()
    signals.stop.wait()
    drain(server, settings, signals)
    answering.join()
    server.operations.close()
    engine.close()


def _wait_for_go(pipe: Connection, signals: Signals) -> bool:
    while not pipe.poll(0.1):
        if signals.stop.is_set():
            return False
    return bool(pipe.recv() is Ask.GO)


def _answer(server: Server, pipe: Connection, signals: Signals) -> None:
    try:
        while not signals.stop.is_set():
            if pipe.poll(0.1) and pipe.recv() is Ask.METRICS:
                pipe.send(server.operations.metrics.page())
    except (EOFError, OSError):
        if not signals.stop.is_set():
            _log.error("the parent is gone: draining")
            signals.ask()
