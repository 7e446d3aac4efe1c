"""`serve --workers N`: processes that share a port, and the small parent that keeps them up.

Each worker loads on its own and listens with SO_REUSEPORT; index files are mapped, so that the workers' pages are the
same memory. The first worker is the trial: when it cannot start, nothing starts and the reason is the parent's error.
Nobody listens before all are loaded. A worker that dies is started again, at once the first time, later after pauses
that double. On SIGHUP worker after worker is replaced by one that has loaded anew, and goes only when that one serves.
The parent holds no index and answers for the workers on the metrics port. A worker whose parent is gone
drains and ends.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from retrieval import errors
from retrieval.errors import FailedPrecondition, RetrievalError
from retrieval.serving.config import ServingSettings
from retrieval.serving.operate.metrics import merge_pages
from retrieval.serving.operate.metrics_http import MetricsServer
from retrieval.serving.operate.ports import hold_port
from retrieval.serving.operate.signals import Signals
from retrieval.serving.operate.worker_messages import Ask, State

_log = logging.getLogger(__name__)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds before a worker is started again
_STEADY_SECONDS = 60.0  # a worker that lived so long starts again at once
_ANSWER_SECONDS = 2.0  # a worker that does not give its metrics in time is left out of the page
_POLL_SECONDS = 0.1


@dataclass
class _Worker:
    number: int
    process: BaseProcess
    pipe: Connection
    started: float
    state: State = State.LOADING
    lock: threading.Lock = field(default_factory=threading.Lock)  # one question at a time


class Supervisor:
    """The parent. settings with the port that was chosen; `say` gets the line that tells where it serves."""

    def __init__(self, settings: ServingSettings, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._say = say
        self._workers: dict[int, _Worker] = {}
        self._rolling: list[int] = []  # workers that are still to be replaced
        self._replaced: dict[int, _Worker] = {}  # those that serve until their successor does
        self._draining: list[_Worker] = []
        self._again: dict[int, tuple[float, float]] = {}  # number -> (when to start it, pause after the next death)
        self._context = multiprocessing.get_context("spawn")  # threads of gRPC and torch do not survive a fork
        self._signals = Signals()

    @property
    def is_ready(self) -> bool:
        """Whether calls are answered: all workers were loaded, and one of them serves now."""
        return any(each.state == State.SERVING for each in self._answering())

    def run(self, more: str = "") -> None:
        """Start all, keep them up until a signal, end them; raises why the first worker could not start.

        more: what the line that tells where it serves ends with.
        """
        try:
            if not self._start_all(more):
                return
            while not self._signals.stop.wait(_POLL_SECONDS):
                self._look_after()
                self._roll()
        finally:
            self._end_all()

    def page(self) -> bytes:
        """The metrics of all workers that answer, each line labelled with its worker."""
        pages = {}
        for each in self._answering():
            found = self._ask_metrics(each)
            if found is not None:
                pages[str(each.number)] = found
        serving = sum(each.state == State.SERVING for each in self._answering())
        own = (
            "# HELP retrieval_workers Workers that serve\n# TYPE retrieval_workers gauge\n"
            f"retrieval_workers {serving}\n"
        )
        return own.encode() + merge_pages(pages)

    def _start_all(self, more: str) -> bool:
        lines: list[str] = []
        for number in range(self._settings.workers):  # one after the other: loading takes memory of its own
            self._spawn(number)
            if not self._wait_loaded(number, lines):
                return False
        for each in self._workers.values():
            each.pipe.send(Ask.GO)
        while any(each.state != State.SERVING for each in self._workers.values()):
            if self._signals.stop.wait(_POLL_SECONDS):
                return False
            for each in self._workers.values():
                self._listen(each)
                if not each.process.is_alive():
                    raise FailedPrecondition(f"worker {each.number} ended before it served; its log has the reason")
        self._say(f"{lines[0]}; {len(self._workers)} workers{more}")
        return True

    def _wait_loaded(self, number: int, lines: list[str]) -> bool:
        each = self._workers[number]
        while each.state == State.LOADING:
            if self._signals.stop.wait(_POLL_SECONDS):
                return False
            self._listen(each, lines)
            if not each.process.is_alive() and not each.pipe.poll() and each.state == State.LOADING:
                raise FailedPrecondition(
                    f"worker {number} ended while it loaded (exit status {each.process.exitcode}): see its log above"
                )
        return True

    def _spawn(self, number: int) -> None:
        here, there = self._context.Pipe()
        # not a daemon: a worker starts a child of its own to probe a generation
        process = self._context.Process(target=_work, args=(self._settings, number, there), name=f"worker-{number}")
        process.start()
        there.close()
        self._workers[number] = _Worker(number, process, here, time.monotonic())

    def _listen(self, each: _Worker, lines: list[str] | None = None) -> None:
        with each.lock:
            try:
                while each.pipe.poll():
                    message = each.pipe.recv()
                    if not isinstance(message, bytes):  # a page of metrics that came too late
                        self._take(each, message, lines)
            except (EOFError, OSError):
                each.state = State.GONE

    def _take(self, each: _Worker, message: tuple[State, str, str], lines: list[str] | None) -> None:
        kind, text, error_class = message
        if kind is State.FAILED:
            error = getattr(errors, error_class, RetrievalError)(text)
            if lines is not None:
                raise error
            _log.error("worker %d cannot start: %s", each.number, error)
            return
        each.state = kind
        if kind is State.LOADED and lines is not None:
            lines.append(text)

    def _look_after(self) -> None:
        now = time.monotonic()
        for number, each in list(self._workers.items()):
            self._listen(each)
            if each.state == State.LOADED:  # one that was started again: the others serve already
                each.state = State.STARTING
                _try_send(each.pipe, Ask.GO)
            if each.process.is_alive():
                continue
            if number in self._replaced:
                self._keep_old(number, each)
                continue
            pause = self._again.pop(number, (0.0, 0.0))[1]
            if now - each.started > _STEADY_SECONDS:
                pause = 0.0
            _log.error(
                "worker %d died (exit status %s), starting it again in %g s", number, each.process.exitcode, pause
            )
            each.process.join()
            each.pipe.close()
            del self._workers[number]
            self._again[number] = (now + pause, min(_LONGEST_PAUSE, max(_FIRST_PAUSE, 2 * pause)))
        for number, (due, _) in list(self._again.items()):
            if number not in self._workers and due <= now:
                self._spawn(number)

    def _answering(self) -> list[_Worker]:
        return [self._replaced.get(number, each) for number, each in list(self._workers.items())]

    def _roll(self) -> None:
        if self._signals.load_anew.is_set() and not self._rolling:
            self._signals.load_anew.clear()
            self._rolling = sorted(self._workers)
            _log.info("replacing %d workers, one after the other", len(self._rolling))
        for each in [each for each in self._draining if not each.process.is_alive()]:
            each.process.join()
            each.pipe.close()
            self._draining.remove(each)
        if not self._rolling:
            return
        number = self._rolling[0]
        if number not in self._workers:  # it died and starts anew anyway
            self._rolling.pop(0)
        elif number not in self._replaced:
            self._replaced[number] = self._workers[number]
            self._spawn(number)
        elif self._workers[number].state == State.SERVING:
            old = self._replaced.pop(number)
            old.process.terminate()
            self._draining.append(old)
            self._rolling.pop(0)
            if not self._rolling:
                _log.info("all workers are replaced")

    def _keep_old(self, number: int, new: _Worker) -> None:
        _log.error("the new worker %d did not come up, the old workers that are left go on serving", number)
        new.process.join()
        new.pipe.close()
        self._workers[number] = self._replaced.pop(number)
        self._rolling.clear()

    def _end_all(self) -> None:
        deadline = time.monotonic() + self._settings.drain_seconds + 5
        processes = [each.process for each in (*self._workers.values(), *self._replaced.values(), *self._draining)]
        for process in processes:
            process.terminate()
        hurried = False
        while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
            if self._signals.now.wait(_POLL_SECONDS) and not hurried:
                hurried = True
                for process in processes:
                    process.terminate()
            elif hurried:
                time.sleep(_POLL_SECONDS)
        for process in processes:
            process.kill()
            process.join()

    def _ask_metrics(self, each: _Worker) -> bytes | None:
        if each.state != State.SERVING:
            return None
        with each.lock:
            try:
                each.pipe.send(Ask.METRICS)
                while each.pipe.poll(_ANSWER_SECONDS):
                    message = each.pipe.recv()
                    if isinstance(message, bytes):
                        return message
            except (EOFError, OSError):
                pass
        return None


def supervise(settings: ServingSettings, say: Callable[[str], None]) -> None:
    """Serve with several workers until SIGTERM or SIGINT; raises what one process raises when it cannot start."""
    with hold_port(settings.host, settings.port) as held:
        port = held.getsockname()[1]
        supervisor = Supervisor(settings.model_copy(update={"port": port}), say)
        watched = None
        if settings.metrics_port is not None:
            watched = MetricsServer(
                settings.metrics_host, settings.metrics_port, supervisor.page, lambda: supervisor.is_ready
            )
        try:
            supervisor.run("" if watched is None else f"; metrics on {settings.metrics_host}:{watched.port}")
        finally:
            if watched is not None:
                watched.close()


def _work(settings: ServingSettings, number: int, pipe: Connection) -> None:
    # imported in the worker only: the parent shall stay small
    from retrieval.serving.operate.worker import work

    work(settings, number, pipe)


def _try_send(pipe: Connection, message: str) -> None:
    with contextlib.suppress(OSError):  # it died, which the next look finds
        pipe.send(message)
