"""SIGTERM and SIGINT as events: stop after draining, and, asked again, stop now. SIGHUP as one: load anew."""

from __future__ import annotations

import signal
import sys
import threading


class Signals:
    """Two events that the signals set, in this order. To be made in the main thread.

    of_worker: SIGINT and SIGHUP do nothing; a terminal sends them to a whole process group, whose parent acts on them.
    """

    def __init__(self, *, of_worker: bool = False) -> None:
        self.stop = threading.Event()
        self.now = threading.Event()
        self.load_anew = threading.Event()
        signal.signal(signal.SIGTERM, self._heard)
        signal.signal(signal.SIGINT, signal.SIG_IGN if of_worker else self._heard)
        if of_worker:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        elif not sys.stdin or not sys.stdin.isatty():  # on a terminal it means that the terminal is gone
            signal.signal(signal.SIGHUP, lambda number, frame: self.load_anew.set())

    def ask(self) -> None:
        """Do what a signal does."""
        (self.now if self.stop.is_set() else self.stop).set()

    def _heard(self, number: int, frame: object) -> None:
        self.ask()
