"""Around every call: who calls, a request id, what it took, and who wants to know about it.

One gRPC interceptor admits the caller, gives the call a record, lets the handler work and hands the finished record to
the observers (metrics, log, traces). A handler adds what it knows through `current`. Health stays open to everybody,
because probes carry no tokens. Knows nothing about queries or about what observers do.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc

from retrieval.errors import RetrievalError
from retrieval.serving.operate.auth import Callers
from retrieval.serving.status import refuse

REQUEST_ID_KEY = "x-request-id"  # metadata of the call, and trailing metadata of the answer
TRACE_KEY = "traceparent"  # W3C trace context
_OPEN_SERVICE = "grpc.health.v1.Health"
_MAX_REQUEST_ID = 128
Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class CallRecord:
    """What is known of one call. Times in nanoseconds; stages in the order they happened."""

    service: str
    method: str
    request_id: str
    trace_parent: str | None = None
    caller: str = ""
    began_ns: int = 0  # UNIX time
    queue_ns: int = 0  # from the arrival to a free thread
    total_ns: int = 0
    stages: dict[str, int] = field(default_factory=dict)
    coverage: dict[str, float] = field(default_factory=dict)  # of each entity type that answered
    degraded: tuple[str, ...] = ()  # entity types whose answer is worth less than asked
    status: str = "OK"
    detail: str = ""


Observer: TypeAlias = Callable[[CallRecord], None]
_current: ContextVar[CallRecord | None] = ContextVar("call", default=None)


def current() -> CallRecord | None:
    """The record of the call that this thread answers; None outside one."""
    return _current.get()


def outgoing_metadata() -> tuple[tuple[str, str], ...]:
    """Metadata for calls made on behalf of the current one, so that logs and traces of several hosts meet."""
    record = _current.get()
    if record is None:
        return ()
    trace = () if record.trace_parent is None else ((TRACE_KEY, record.trace_parent),)
    return ((REQUEST_ID_KEY, record.request_id), *trace)


class Gate(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """The interceptor. callers: None admits everybody. observers: called in the call's thread, must be quick."""

    def __init__(self, callers: Callers | None, observers: Sequence[Observer]) -> None:
        self._callers = callers
        self._observers = tuple(observers)

    def intercept_service(
        self, continuation: Callable[[Any], grpc.RpcMethodHandler[Any, Any] | None], details: Any
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the handler of a call that has arrived."""
        arrived_ns = time.perf_counter_ns()
        handler: Any = continuation(details)
        service, _, method = str(details.method).lstrip("/").partition("/")
        if handler is None or service == _OPEN_SERVICE:
            return handler  # type: ignore[no-any-return]
        metadata: Metadata = details.invocation_metadata or ()
        if handler.unary_unary is not None:
            answer = handler.unary_unary

            def answered(request: Any, context: grpc.ServicerContext) -> Any:
                with self._observed(service, method, metadata, context, arrived_ns):
                    return answer(request, context)

            return grpc.unary_unary_rpc_method_handler(
                answered, handler.request_deserializer, handler.response_serializer
            )
        if handler.stream_stream is not None:
            stream = handler.stream_stream

            def streamed(requests: Any, context: grpc.ServicerContext) -> Any:
                self._admit(metadata, context)
                return stream(requests, context)

            return grpc.stream_stream_rpc_method_handler(
                streamed, handler.request_deserializer, handler.response_serializer
            )
        raise AssertionError(f"{details.method} is of a kind that this server does not have")

    @contextmanager
    def _observed(
        self, service: str, method: str, metadata: Metadata, context: grpc.ServicerContext, arrived_ns: int
    ) -> Iterator[None]:
        began = time.perf_counter_ns()
        record = CallRecord(
            service=service,
            method=method,
            request_id=_request_id(metadata),
            trace_parent=_text(metadata, TRACE_KEY),
            began_ns=time.time_ns(),
            queue_ns=began - arrived_ns,
        )
        context.set_trailing_metadata(((REQUEST_ID_KEY, record.request_id),))
        token = _current.set(record)
        try:
            record.caller = self._admit(metadata, context)
            yield
        except BaseException:
            record.status = "INTERNAL"
            raise
        finally:
            _current.reset(token)
            record.total_ns = time.perf_counter_ns() - began
            _note_status(record, context)
            for observer in self._observers:
                _tell(observer, record)

    def _admit(self, metadata: Metadata, context: grpc.ServicerContext) -> str:
        if self._callers is None:
            return ""
        try:
            return self._callers.admit(metadata)
        except RetrievalError as error:
            refuse(context, error)


def _note_status(record: CallRecord, context: Any) -> None:
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        record.status = code.name
        detail = context.details() or b""
        record.detail = detail.decode(errors="replace") if isinstance(detail, bytes) else str(detail)


def _tell(observer: Observer, record: CallRecord) -> None:
    try:
        observer(record)
    except Exception:  # an answer is not lost to a fault in counting it
        _log.exception("an observer of calls failed")


def _request_id(metadata: Metadata) -> str:
    given = _text(metadata, REQUEST_ID_KEY) or ""
    acceptable = 0 < len(given) <= _MAX_REQUEST_ID and given.isascii() and given.isprintable()
    return given if acceptable else os.urandom(16).hex()


def _text(metadata: Iterable[tuple[str, str | bytes]], key: str) -> str | None:
    return next((value for name, value in metadata if name == key and isinstance(value, str)), None)
