"""A process kept ready to probe generations beside calls at work, each in a fork of it, in time that nobody else wants.

To start an interpreter and import the libraries takes half a second of a core, and calls beside it wait for
milliseconds each time the kernel maps a library; this way that is done once, when a server starts to follow. The
process takes the arguments of one probe after the other and sends back exit codes and verdicts. Knows nothing about
what a probe does or what follows from it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from retrieval.errors import StoreError

_MODULE = "retrieval.serving.swap.probe"
WAIT = "--wait"  # and the number of a pipe: to be the process
# Gives way before it imports anything: at the normal priority imports made calls beside it wait for milliseconds. A
# group of its own is killed together with the probe in it; a session of its own would get a share of the processor of
# its own where the kernel groups tasks by session, and give way to nobody.
_GIVE_WAY = f"""
import os
os.setpgid(0, 0)
if hasattr(os, "SCHED_IDLE"):
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
else:
    os.nice(19)
import site
site.main()
import runpy
runpy.run_module({_MODULE!r}, run_name="__main__", alter_sys=True)
"""


class ReadyProber:
    """The process, started by `start` or the first probe, and again after it died. Any thread may ask."""

    def __init__(self) -> None:
        self._lock, self._closed = threading.Lock(), False
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def start(self) -> None:
        """Have the process import everything now, before a probe has to wait for it; where it cannot, a probe tells."""
        with self._lock, suppress(StoreError):
            self._ready()

    def run(self, arguments: Sequence[str], seconds: float) -> tuple[int, str]:
        """Exit code of a probe, negative for a signal, and the last thing it said.

        Raises TimeoutError after `seconds`, when the probe is killed, and StoreError when the process dies.
        """
        with self._lock:
            pipe = self._ready()
            try:
                pipe.send(list(arguments))
                if not pipe.poll(seconds):
                    self._end()
                    raise TimeoutError(f"no verdict in {seconds:g} s")
                code, said = pipe.recv()
            except (EOFError, BrokenPipeError, ConnectionError):
                self._end()
                raise StoreError("the process that probes generations died, most likely for memory") from None
            return int(code), str(said)

    def close(self) -> None:
        """End the process for good; a probe at work ends with it."""
        self._closed = True
        self._kill()  # which ends the wait of the probe that holds the lock
        with self._lock:
            self._end()

    def _ready(self) -> Connection:
        if self._pipe is not None and self._process is not None and self._process.poll() is None:
            return self._pipe
        self._end()
        if self._closed:
            raise StoreError("generations are not probed any more: the server ends")
        here, there = Pipe()
        path = os.pathsep.join(each for each in sys.path if each)
        # the threads of a linear algebra library do not survive a fork, and a probe needs none
        environment = {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-c", _GIVE_WAY, WAIT, str(there.fileno())],
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment,
            )
        except OSError as error:
            here.close()
            raise StoreError(f"no process can be started that probes generations: {error.strerror}") from error
        finally:
            there.close()
        self._pipe = here
        return here

    def _kill(self) -> None:
        process = self._process
        if process is not None:
            process.kill()
            with suppress(ProcessLookupError):  # nothing of it is left, or it had no group yet
                os.killpg(process.pid, signal.SIGKILL)

    def _end(self) -> None:
        self._kill()
        if self._process is not None:
            self._process.wait()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


def serve(pipe: Connection, probe: Callable[[Sequence[str]], tuple[int, str]]) -> None:
    """Be the process: probe in forks until nobody asks any more. probe: exit code and what to say, from arguments."""
    with suppress(EOFError, BrokenPipeError, ConnectionError):
        while True:
            pipe.send(_forked(pipe, probe, pipe.recv()))


def _forked(
    pipe: Connection, probe: Callable[[Sequence[str]], tuple[int, str]], arguments: Sequence[str]
) -> tuple[int, str]:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            pipe.close()  # so that the server sees its end when this process's parent dies
            code, said = probe(arguments)
            os.write(write, said.encode())
        finally:
            os._exit(code)
    os.close(write)
    with open(read, encoding="utf-8", errors="replace") as told:
        said = told.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), said
