"""Errors at the wire's edge: one table from this package's exceptions to gRPC status codes.

The name of the exception's class travels beside the status, so that a client raises the same class again. Knows nothing
about calls.
"""

from __future__ import annotations

import grpc

from retrieval import errors

ERROR_METADATA_KEY = "retrieval-error"  # trailing metadata: name of the class in `retrieval.errors`

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
}
