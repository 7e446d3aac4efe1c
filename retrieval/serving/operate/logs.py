"""The server's log on standard error: lines for people, or one JSON object per event for a collector.

Every line written while a call is answered carries the call's request id. The standard library's logging does the work.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Literal

from retrieval.serving.operate.observing import CallRecord, Observer, current

_log = logging.getLogger("retrieval.calls")
_MOST_A_SECOND = 10  # lines of one status: under overload a line for every refused call would cost more than the calls
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class JsonLines(logging.Formatter):
    """An event as one line of JSON: time (UTC), level, logger, message, request_id, and the extra field `call`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        event: dict[str, object] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        call = getattr(record, "call", None)
        answered = current()
        if call is not None:
            event |= call
        elif answered is not None:
            event["request_id"] = answered.request_id
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, ensure_ascii=False, default=str)


def set_up(form: Literal["text", "json"]) -> None:
    """Send the process's log to standard error in the given form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it tells of every build variant it does not find


class _Share:
    """Which of many events are told: the first few of each second, by name; the rest are counted."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seconds: dict[str, int] = {}
        self._counts: dict[str, int] = {}

    def left_out(self, name: str) -> int | None:
        """None when this event is not told; else how many of its name were left out before it."""
        second = int(self._clock())
        with self._lock:
            count, before = self._counts.get(name, 0), 0
            if self._seconds.get(name) != second:
                self._seconds[name], before, count = second, max(0, count - _MOST_A_SECOND), 0
            self._counts[name] = count + 1
            return before if count < _MOST_A_SECOND else None


def call_log(
    which: Literal["none", "errors", "all"], *, clock: Callable[[], float] = time.monotonic
) -> Observer | None:
    """An observer that logs finished calls; None for none. Texts and vectors of queries are never logged.

    Of calls that failed, at most ten a second and status have a line of their own; the next line counts the others.
    """
    if which == "none":
        return None
    share = _Share(clock)

    def write(record: CallRecord) -> None:
        failed = record.status != "OK"
        if not failed and which == "errors":
            return
        left_out = share.left_out(record.status) if failed else 0
        if left_out is None:
            return
        milliseconds = {name: round(took / 1e6, 3) for name, took in record.stages.items()}
        call = {
            "request_id": record.request_id,
            "method": record.method,
            "status": record.status,
            "caller": record.caller,
            "queue_ms": round(record.queue_ns / 1e6, 3),
            "total_ms": round(record.total_ns / 1e6, 3),
            **{f"{name}_ms": took for name, took in milliseconds.items()},
            "coverage": record.coverage,
        }
        level = logging.WARNING if failed else logging.INFO
        _log.log(
            level,
            "%s %s in %.3f ms, request %s%s%s",
            record.method,
            record.status,
            record.total_ns / 1e6,
            record.request_id,
            f": {record.detail}" if record.detail else "",
            f" ({left_out:,} more calls ended so before this one)" if left_out else "",
            extra={"call": call},
        )

    return write
