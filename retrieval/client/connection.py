"""The connection: one channel, a deadline on every call, bounded retries, errors as this package's classes.

Knows nothing about how messages are laid out (`messages`).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import grpc
import numpy as np

from retrieval import errors
from retrieval.client import messages
from retrieval.client.answers import Effort, Entity, Explanation, ScoreResult, SearchResult, Vector
from retrieval.client.filters import Crowding, Filter
from retrieval.client.tls import Tls
from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb
from retrieval.pb.retrieval.v1 import retrieval_pb2_grpc
from retrieval.types import F32, AnyArray

_ERROR_METADATA_KEY = "retrieval-error"
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": "retrieval.v1.Retrieval"}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
# what a status means when the server did not name the class: it came from gRPC itself or from another program
_BY_STATUS: dict[grpc.StatusCode, type[errors.RetrievalError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgument,
    grpc.StatusCode.FAILED_PRECONDITION: errors.FailedPrecondition,
    grpc.StatusCode.DATA_LOSS: errors.DamagedData,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.Unavailable,
    grpc.StatusCode.CANCELLED: errors.Unavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Unavailable,
    grpc.StatusCode.UNAUTHENTICATED: errors.NotAuthenticated,
}


class RetrievalClient:
    """A connection to one server, or to several behind one name; any number of threads may use it.

    target: host:port or any gRPC target. timeout_s: deadline of a call that does not bring its own, retries included.
    tls: None speaks plainly. token: sent with every call. connections: calls go to them in turn; a server of several
    workers needs some, because one connection stays with one worker.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float = 10.0,
        tls: Tls | None = None,
        token: str | None = None,
        connections: int = 1,
    ) -> None:
        if not 1 <= connections <= 256:
            raise errors.InvalidParams(f"connections = {connections} is not acceptable: 1 to 256")
        self._target = target
        self._timeout_s = timeout_s
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self._channels = [_channel(target, tls, alone=connections > 1) for _ in range(connections)]
        # grpc's generated stub has no types
        stubs: list[Any] = [retrieval_pb2_grpc.RetrievalStub(each) for each in self._channels]  # type: ignore[no-untyped-call]
        self._turns = itertools.cycle(stubs)

    def __enter__(self) -> RetrievalClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        for channel in self._channels:
            channel.close()

    def search(
        self,
        query: str | Vector | Entity,
        *,
        entity_types: Sequence[str] = (),
        k: int = 10,
        effort: Effort | None = None,
        grouped: bool = False,
        attributes: Sequence[str] = (),
        minimum_coverage: float = 0.0,
        filter: Filter | None = None,
        crowding: Crowding | None = None,
        min_recall: float | None = None,
        batch_priority: bool = False,
        timeout_s: float | None = None,
    ) -> SearchResult:
        """Candidates of one query; entity_types empty searches all, grouped gives k of each type.

        min_recall: the server picks the effort (give no effort then); batch_priority: shed first under load.
        Raises the errors of `retrieval.errors`: InvalidQuery, InvalidParams, SpaceMismatch, FailedPrecondition, and
        Unavailable when the server, its shards or the time do not suffice.
        """
        request = messages.build(
            pb.SearchRequest,
            query=messages.write_query(query),
            **messages.write_wanted(
                entity_types,
                k,
                effort,
                grouped,
                attributes,
                minimum_coverage,
                messages.write_narrowed(filter, crowding, min_recall),
                batch_priority,
            ),
        )
        return messages.read_search(self._call(self._stub.Search, request, timeout_s))

    def search_batch(
        self,
        queries: Sequence[str | Vector | Entity],
        *,
        entity_types: Sequence[str] = (),
        k: int = 10,
        effort: Effort | None = None,
        grouped: bool = False,
        attributes: Sequence[str] = (),
        minimum_coverage: float = 0.0,
        filter: Filter | None = None,
        crowding: Crowding | None = None,
        min_recall: float | None = None,
        batch_priority: bool = False,
        timeout_s: float | None = None,
    ) -> list[SearchResult]:
        """Candidates of several queries, answered together in their order; raises what `search` raises."""
        request = messages.build(
            pb.SearchBatchRequest,
            queries=[messages.write_query(query) for query in queries],
            **messages.write_wanted(
                entity_types,
                k,
                effort,
                grouped,
                attributes,
                minimum_coverage,
                messages.write_narrowed(filter, crowding, min_recall),
                batch_priority,
            ),
        )
        response = self._call(self._stub.SearchBatch, request, timeout_s)
        return [messages.read_search(answer) for answer in response.responses]

    def embed(self, texts: Sequence[str], *, timeout_s: float | None = None) -> tuple[F32, str]:
        """Unit vectors float32 [n, d] of texts, and their space id; FailedPrecondition where no tower is served."""
        response = self._call(self._stub.Embed, messages.build(pb.EmbedRequest, texts=list(texts)), timeout_s)
        vectors = [np.array(vector.values, np.float32) for vector in response.vectors]
        return np.stack(vectors), response.vectors[0].space_id

    def score(
        self,
        query: str | Vector | Entity,
        entity_type: str,
        ids: Sequence[int] | Sequence[str] | AnyArray,
        *,
        timeout_s: float | None = None,
    ) -> ScoreResult:
        """Exact scores of given entities for one query; raises what `search` raises."""
        request = messages.build(
            pb.ScoreRequest, query=messages.write_query(query), entity_type=entity_type, **messages.write_ids(ids)
        )
        response = self._call(self._stub.Score, request, timeout_s)
        return messages.read_score(response)

    def explain(
        self,
        query: str | Vector | Entity,
        entity: Entity,
        *,
        k: int = 10,
        effort: Effort | None = None,
        filter: Filter | None = None,
        crowding: Crowding | None = None,
        min_recall: float | None = None,
        timeout_s: float | None = None,
    ) -> Explanation:
        """Why an entity is or is not among the k candidates of its type; raises what `search` raises."""
        shared = messages.write_wanted(
            (), k, effort, False, (), 0.0, messages.write_narrowed(filter, crowding, min_recall), False
        )
        fields = {name: value for name, value in shared.items() if name in pb.ExplainRequest.DESCRIPTOR.fields_by_name}
        request = messages.build(
            pb.ExplainRequest,
            query=messages.write_query(query),
            entity=messages.write_query(entity).entity,
            **fields,
        )
        return messages.read_explanation(self._call(self._stub.Explain, request, timeout_s))

    def upsert(
        self,
        entity_type: str,
        ids: Sequence[int] | Sequence[str] | AnyArray,
        vectors: F32,
        *,
        space_id: str,
        attributes: Sequence[dict[str, Any]] | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Put entities in place: ids [n], vectors float32 [n, d] of space_id, a dict of attributes each.

        Returns the number of the last write, durable at the server. Raises InvalidQuery, SpaceMismatch,
        FailedPrecondition (the server takes no writes), Overloaded (rebuild first) and Unavailable.
        """
        request = messages.write_upsert(entity_type, ids, vectors, space_id, attributes)
        return int(self._call(self._stub.Upsert, request, timeout_s).position)

    def delete(
        self,
        entity_type: str,
        ids: Sequence[int] | Sequence[str] | AnyArray,
        *,
        timeout_s: float | None = None,
    ) -> int:
        """Take entities away, whether they are there or not; returns and raises what `upsert` does."""
        request = messages.build(pb.DeleteRequest, entity_type=entity_type, **messages.write_ids(ids))
        return int(self._call(self._stub.Delete, request, timeout_s).position)

    def describe(self, *, timeout_s: float | None = None) -> pb.DescribeResponse:
        """What is served, as the wire message: generations, spaces, limits."""
        response: pb.DescribeResponse = self._call(self._stub.Describe, pb.DescribeRequest(), timeout_s)
        return response

    @property
    def _stub(self) -> Any:
        return next(self._turns)

    def _call(self, method: Callable[..., Any], request: Any, timeout_s: float | None) -> Any:
        seconds = self._timeout_s if timeout_s is None else timeout_s
        try:
            return method(request, timeout=seconds, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _translated(error, seconds, self._target) from None


def _channel(target: str, tls: Tls | None, *, alone: bool) -> grpc.Channel:
    options: list[tuple[str, Any]] = [
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.use_local_subchannel_pool", int(alone)),  # otherwise equal channels share one connection
    ]
    if tls is None:
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target, tls.credentials(), options=[*options, *tls.options()])


def _translated(error: Any, seconds: float, target: str) -> errors.RetrievalError:
    code, sentence = error.code(), error.details() or ""
    named = dict(error.trailing_metadata() or ()).get(_ERROR_METADATA_KEY)
    kind = getattr(errors, str(named), None) if named else None
    if isinstance(kind, type) and issubclass(kind, errors.RetrievalError):
        return kind(sentence)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in sentence:
        return errors.InvalidQuery(f"the message is over the server's size limit ({sentence}): send less in one call")
    if code is grpc.StatusCode.UNAVAILABLE and "handshake" in sentence.lower():
        return errors.Unavailable(
            f"no secure connection to {target}: {_tls_reason(sentence)}; check the authority, the certificates and "
            "their dates on both sides"
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.Unavailable(f"no answer within {seconds:g} s: try again, or allow more time")
    return _BY_STATUS.get(code, errors.RetrievalError)(f"{sentence or 'the call failed'} ({code.name})")


def _tls_reason(sentence: str) -> str:
    # the C core names OpenSSL's reason in the middle of a longer text
    if "CERTIFICATE_VERIFY_FAILED" in sentence:
        return "the server's certificate is not one that this authority signed, or has expired"
    return "the handshake failed"
