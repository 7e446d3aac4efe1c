"""Every error this package raises on purpose, drawn once.

    RetrievalError
    ├── InvalidArgument            the caller's input cannot be used, whatever the state of the system
    │   ├── InvalidQuery           query text, vector, k or entity type
    │   ├── InvalidParams          a build or search parameter outside its limits
    │   └── InvalidData            source rows, columns or files of a build
    ├── FailedPrecondition         the input is fine, the state of the system does not allow it
    │   ├── SpaceMismatch          a vector or index of a foreign embedding space
    │   ├── NoGeneration           nothing published (or nothing with that name)
    │   └── MissingDependency      an optional library or model weights are not installed
    ├── DamagedData                bytes on disk are not what the manifest says
    ├── StoreError                 a store path that is not a store, or cannot be read or written
    ├── BuildFailed                a build stopped by one of its own gates
    ├── NotAuthenticated           a server does not know who calls it
    ├── QuotaExceeded              a caller sends more than it was granted
    ├── Overloaded                 a server has more to do than it can
    └── Unavailable                a server or shard cannot answer now; trying again may help

One sentence each: it names the value, the limit and the way out. Knows nothing about gRPC or exit codes; those are
translated at the borders (`retrieval.serving.status`, `retrieval.cli`).
"""


class RetrievalError(Exception):
    """Base of all errors raised on purpose."""


class InvalidArgument(RetrievalError):
    """The caller's input cannot be used."""


class InvalidQuery(InvalidArgument):
    """A query's text, vector, k or entity type is not acceptable."""


class InvalidParams(InvalidArgument):
    """A build or search parameter is outside its limits."""


class InvalidData(InvalidArgument):
    """The source rows, columns or files of a build cannot be used."""


class FailedPrecondition(RetrievalError):
    """The request is well formed but the state of the system does not allow it."""


class SpaceMismatch(FailedPrecondition):
    """A vector, checkpoint or index belongs to another embedding space."""


class NoGeneration(FailedPrecondition):
    """No generation is published, or none has the given name."""


class MissingDependency(FailedPrecondition):
    """An optional library or a model's weights are not installed."""


class DamagedData(RetrievalError):
    """Bytes on disk are not what the manifest or the format says."""


class StoreError(RetrievalError):
    """A store cannot be read or written."""


class BuildFailed(RetrievalError):
    """A build was stopped by one of its own checks."""


class NotAuthenticated(RetrievalError):
    """The call carries no token, or none that the server knows."""


class QuotaExceeded(RetrievalError):
    """The caller sends more requests than it was granted; `retry_after_ms` tells when the next one is due."""

    def __init__(self, sentence: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(sentence)
        self.retry_after_ms = retry_after_ms


class Overloaded(RetrievalError):
    """The server has more to do than it can; `retry_after_ms` tells when a call may come again."""

    def __init__(self, sentence: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(sentence)
        self.retry_after_ms = retry_after_ms


class Unavailable(RetrievalError):
    """The server or shard cannot answer now; trying again may help."""
