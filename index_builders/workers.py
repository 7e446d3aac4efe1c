"""Where build tasks run: local processes by default, this process for debugging, anything with `submit` beyond that.

A task is a plain function of picklable arguments that writes files into a folder; a distributed engine takes the place
of the processes by offering `concurrent.futures.Executor`. Knows nothing about what the tasks do, and imports nothing
heavy, since every child process imports it first.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any

_THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_TRACKER_FILTER = "ignore:resource_tracker:UserWarning"


def make_executor(workers: int | None) -> Executor:
    """Processes (None: one per core), each with one OpenMP thread; 0 runs tasks in this process, one after another."""
    if workers == 0:
        return InlineExecutor()
    _start_quiet_tracker()
    return ProcessPoolExecutor(
        workers or os.cpu_count() or 1,
        # spawned, not forked: a fork copies locks held by other threads of this process, OpenMP's among them
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
    )


class InlineExecutor(Executor):
    """Runs each task when it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run the task now; its future is done when this returns."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def _start_quiet_tracker() -> None:
    """Start the process that removes the pool's semaphores if this one is killed, and let it do so in silence.

    It removes them in any case; what it warns of, on the terminal of whoever killed the build, is not a leak.
    """
    before = os.environ.get("PYTHONWARNINGS")
    # it reads its filters when it starts; the last that fits a warning decides
    os.environ["PYTHONWARNINGS"] = ",".join([*([before] if before else []), _TRACKER_FILTER])
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before


def _start_worker() -> None:
    for name in _THREAD_SETTINGS:
        os.environ[name] = "1"
    # threads that wait by spinning slow a shared machine tenfold when training asks for several
    os.environ["OMP_WAIT_POLICY"] = "passive"
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """Without this a killed build would leave workers that write into the folder which the next run resumes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
