"""Errors at the wire's edge: one table from this package's exceptions to gRPC status codes.

The name of the exception's class travels beside the status, so that a client raises the same class again. Knows nothing
about calls.
"""

from __future__ import annotations

from typing import NoReturn

import grpc

from retrieval import errors

ERROR_METADATA_KEY = "retrieval-error"  # trailing metadata: name of the class in `retrieval.errors`
RETRY_METADATA_KEY = "retry-after-ms"  # trailing metadata: when a refused call may come again

_MAX_DETAIL = 2_000  # characters of a status message: it travels in an HTTP/2 header

STATUS: dict[type[errors.RetrievalError], grpc.StatusCode] = {
    errors.RetrievalError: grpc.StatusCode.INTERNAL,
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidQuery: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidParams: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidData: grpc.StatusCode.INVALID_ARGUMENT,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.SpaceMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NoGeneration: grpc.StatusCode.FAILED_PRECONDITION,
    errors.MissingDependency: grpc.StatusCode.FAILED_PRECONDITION,
    errors.DamagedData: grpc.StatusCode.DATA_LOSS,
    errors.StoreError: grpc.StatusCode.INTERNAL,
    errors.BuildFailed: grpc.StatusCode.INTERNAL,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.NotAuthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.QuotaExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def refuse(context: grpc.ServicerContext, error: errors.RetrievalError) -> NoReturn:
    """End a call with the error's status, sentence and class, and with the hint when to come back if it has one."""
    more = [(ERROR_METADATA_KEY, type(error).__name__)]
    wait_ms = getattr(error, "retry_after_ms", None)
    if wait_ms is not None:
        more.append((RETRY_METADATA_KEY, str(wait_ms)))
    context.set_trailing_metadata((*(context.trailing_metadata() or ()), *more))
    abort(context, STATUS[type(error)], str(error))


def abort(context: grpc.ServicerContext, code: grpc.StatusCode, sentence: str) -> NoReturn:
    """End a call with a status and a sentence that fits a header."""
    context.abort(code, sentence[:_MAX_DETAIL])
    raise AssertionError("abort always raises")
