"""The gRPC service: bytes in, one engine call, bytes out, errors as a status and one sentence.

Handlers take raw bytes and parse them here, because a size over the limit and a broken message each deserve a sentence
of their own. Work whose caller has gone is dropped before it starts. Knows no towers and no indexes.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from retrieval.errors import InvalidQuery, RetrievalError
from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb
from retrieval.serving import wire
from retrieval.serving.engine import Engine
from retrieval.serving.status import ERROR_METADATA_KEY, STATUS

SERVICE = pb.DESCRIPTOR.services_by_name["Retrieval"].full_name

_MAX_DETAIL = 2_000  # characters of a status message: it travels in an HTTP/2 header

_log = logging.getLogger(__name__)
_M = TypeVar("_M", bound=Message)
_CheckAlive = Callable[[], None]


class _CallerGone(Exception):
    """Nobody waits for the answer any more."""

    def __init__(self, code: grpc.StatusCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class RetrievalService:
    """The methods of the service `Retrieval`, answered by an engine.

    max_answer_bytes: an answer larger than this is refused with a sentence.
    """

    def __init__(self, engine: Engine, *, max_answer_bytes: int) -> None:
        self._engine = engine
        self._max_answer_bytes = max_answer_bytes

    def generic_handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """What a gRPC server registers."""
        methods = {
            "Search": self._method(pb.SearchRequest, self._search),
            "SearchBatch": self._method(pb.SearchBatchRequest, self._search_batch),
            "Embed": self._method(pb.EmbedRequest, self._embed),
            "Score": self._method(pb.ScoreRequest, self._score),
            "Describe": self._method(pb.DescribeRequest, self._describe),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _search(self, request: pb.SearchRequest, check_alive: _CheckAlive) -> Message:
        answer = self._engine.search(wire.read_query(request.query), wire.read_wanted(request), check_alive=check_alive)
        return wire.write_search(answer)

    def _search_batch(self, request: pb.SearchBatchRequest, check_alive: _CheckAlive) -> Message:
        queries = [wire.read_query(query) for query in request.queries]
        answers = self._engine.search_batch(queries, wire.read_wanted(request), check_alive=check_alive)
        return pb.SearchBatchResponse(responses=[wire.write_search(answer) for answer in answers])

    def _embed(self, request: pb.EmbedRequest, check_alive: _CheckAlive) -> Message:
        return wire.write_embedding(self._engine.embed(request.texts, check_alive=check_alive))

    def _score(self, request: pb.ScoreRequest, check_alive: _CheckAlive) -> Message:
        query, ids = wire.read_query(request.query), wire.read_ids(request)
        return wire.write_score(self._engine.score(query, request.entity_type, ids, check_alive=check_alive))

    def _describe(self, request: pb.DescribeRequest, check_alive: _CheckAlive) -> Message:
        return wire.write_description(self._engine.describe())

    def _method(
        self, request_type: type[_M], answer: Callable[[_M, _CheckAlive], Message]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        def handle(data: bytes, context: grpc.ServicerContext) -> bytes:
            def check_alive() -> None:
                _check_alive(context)

            try:
                return self._sized(answer(self._parsed(data, request_type), check_alive))
            except RetrievalError as error:
                context.set_trailing_metadata(((ERROR_METADATA_KEY, type(error).__name__),))
                _abort(context, STATUS[type(error)], str(error))
            except _CallerGone as gone:
                _abort(context, gone.code, str(gone))
            except Exception:
                request_id = uuid.uuid4().hex[:12]
                _log.exception("request %s failed", request_id)
                _abort(
                    context, grpc.StatusCode.INTERNAL, f"the server failed; its log has the reason under {request_id}"
                )

        return grpc.unary_unary_rpc_method_handler(handle)

    def _parsed(self, data: bytes, request_type: type[_M]) -> _M:
        limit = self._engine.limits.max_message_bytes
        if len(data) > limit:
            raise InvalidQuery(
                f"the message has {len(data):,} bytes, the limit is {limit:,}: send fewer queries in one call"
            )
        try:
            return request_type.FromString(data)
        except DecodeError:
            name = request_type.DESCRIPTOR.full_name
            raise InvalidQuery(f"the message is not a {name}: encode it with this service's .proto file") from None

    def _sized(self, answer: Message) -> bytes:
        data = answer.SerializeToString()
        if len(data) > self._max_answer_bytes:
            raise InvalidQuery(
                f"the answer would have {len(data):,} bytes, the limit is {self._max_answer_bytes:,}: ask for fewer "
                "queries, candidates or attributes in one call"
            )
        return data


def _check_alive(context: grpc.ServicerContext) -> None:
    remaining = context.time_remaining()
    if remaining is not None and remaining <= 0:
        raise _CallerGone(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the search began")
    if not context.is_active():
        raise _CallerGone(grpc.StatusCode.CANCELLED, "the caller went away before the search began")


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, sentence: str) -> NoReturn:
    context.abort(code, sentence[:_MAX_DETAIL])
    raise AssertionError("abort always raises")
