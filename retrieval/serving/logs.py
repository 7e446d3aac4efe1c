"""The server's log on standard error: lines for people, or one JSON object per event for a collector.

Every line written while a call is answered carries the call's request id. The standard library's logging does the work.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Literal

from retrieval.serving.observing import CallRecord, Observer, current

_log = logging.getLogger("retrieval.calls")
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


def call_log(which: Literal["none", "errors", "all"]) -> Observer | None:
    """An observer that logs finished calls; None for none. Texts and vectors of queries are never logged."""
    if which == "none":
        return None

    def write(record: CallRecord) -> None:
        failed = record.status != "OK"
        if not failed and which == "errors":
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
            "%s %s in %.3f ms, request %s%s",
            record.method,
            record.status,
            record.total_ns / 1e6,
            record.request_id,
            f": {record.detail}" if record.detail else "",
            extra={"call": call},
        )

    return write
