"""The gRPC service: bytes in, one engine call, bytes out, errors as a status and one sentence.

Handlers take raw bytes and parse them here, because a size over the limit and a broken message each deserve a sentence
of their own. Work whose caller has gone is dropped before it starts. Knows no towers and no indexes.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from retrieval.errors import FailedPrecondition, InvalidQuery, RetrievalError
from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb
from retrieval.serving import deadline, wire
from retrieval.serving.admission import Admission
from retrieval.serving.caller import CallerGone, CheckAlive, note_priority
from retrieval.serving.calls import Priority, ScoreAnswer, SearchAnswer
from retrieval.serving.delta import wire as delta_wire
from retrieval.serving.delta.writer import DeltaWriter
from retrieval.serving.engine import Engine
from retrieval.serving.explaining import wire as wire_explain
from retrieval.serving.operate import observing
from retrieval.serving.status import abort, refuse

SERVICE = pb.DESCRIPTOR.services_by_name["Retrieval"].full_name

_log = logging.getLogger(__name__)
_M = TypeVar("_M", bound=Message)


class RetrievalService:
    """The methods of the service `Retrieval`, answered by an engine.

    max_answer_bytes: an answer larger than this is refused with a sentence. admission: where all calls but Describe
    wait for their turn; None lets all of them work at once. writer: None refuses upserts and deletes.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_answer_bytes: int,
        admission: Admission | None = None,
        writer: DeltaWriter | None = None,
    ) -> None:
        self._writer = writer
        self._admission = admission
        self._engine = engine
        self._max_answer_bytes = max_answer_bytes

    def generic_handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """What a gRPC server registers."""
        methods = {
            "Search": self._method(pb.SearchRequest, self._search),
            "SearchBatch": self._method(pb.SearchBatchRequest, self._search_batch),
            "Embed": self._method(pb.EmbedRequest, self._embed),
            "Score": self._method(pb.ScoreRequest, self._score),
            "Explain": self._method(pb.ExplainRequest, self._explain, priority=Priority.BATCH),
            "Upsert": self._method(pb.UpsertRequest, self._upsert),
            "Delete": self._method(pb.DeleteRequest, self._delete),
            "Describe": self._method(pb.DescribeRequest, self._describe, admitted=False),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _search(self, request: pb.SearchRequest, check_alive: CheckAlive) -> Message:
        query, wanted = wire.read_query(request.query), wire.read_wanted(request)
        answer = self._engine.search(query, wanted, check_alive=check_alive, remaining_s=check_alive.remaining_s)
        _note([answer])
        return wire.write_search(answer)

    def _search_batch(self, request: pb.SearchBatchRequest, check_alive: CheckAlive) -> Message:
        queries = [wire.read_query(query) for query in request.queries]
        wanted = wire.read_wanted(request)
        answers = self._engine.search_batch(
            queries, wanted, check_alive=check_alive, remaining_s=check_alive.remaining_s
        )
        _note(answers)
        return pb.SearchBatchResponse(responses=[wire.write_search(answer) for answer in answers])

    def _embed(self, request: pb.EmbedRequest, check_alive: CheckAlive) -> Message:
        return wire.write_embedding(self._engine.embed(request.texts, check_alive=check_alive))

    def _score(self, request: pb.ScoreRequest, check_alive: CheckAlive) -> Message:
        query, ids = wire.read_query(request.query), wire.read_ids(request)
        answer = self._engine.score(query, request.entity_type, ids, check_alive=check_alive)
        _note([answer])
        return wire.write_score(answer)

    def _explain(self, request: pb.ExplainRequest, check_alive: CheckAlive) -> Message:
        query, entity, wanted = wire_explain.read_explain(request)
        return wire_explain.write_explanation(self._engine.explain(query, entity, wanted, check_alive=check_alive))

    def _upsert(self, request: pb.UpsertRequest, check_alive: CheckAlive) -> Message:
        ids, vectors, attributes = delta_wire.read_upsert(request)
        check_alive()
        position = self._writes().upsert(request.entity_type, request.space_id, ids, vectors, attributes)
        return pb.WriteResponse(position=position, entities=len(ids))

    def _delete(self, request: pb.DeleteRequest, check_alive: CheckAlive) -> Message:
        ids = delta_wire.read_delete(request)
        check_alive()
        return pb.WriteResponse(position=self._writes().delete(request.entity_type, ids), entities=len(ids))

    def _writes(self) -> DeltaWriter:
        if self._writer is None:
            raise FailedPrecondition("this server takes no upserts and deletes: send them to one that serves a store")
        return self._writer

    def _describe(self, request: pb.DescribeRequest, check_alive: CheckAlive) -> Message:
        return wire.write_description(self._engine.describe())

    def _method(
        self,
        request_type: type[_M],
        answer: Callable[[_M, CheckAlive], Message],
        *,
        priority: Priority | None = None,
        admitted: bool = True,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """priority: None takes the request's own."""
        admission = self._admission if admitted else None

        def handle(data: bytes, context: grpc.ServicerContext) -> bytes:
            check_alive = CheckAlive(context)
            deadline.note(context.time_remaining())  # for leaves on other hosts
            try:
                if admission is None:
                    return self._sized(answer(self._parsed(data, request_type), check_alive))
                admission.check_room()  # before the parsing, which a full server has no time for
                request = self._parsed(data, request_type)
                urgency = wire.read_priority(request) if priority is None else priority
                note_priority(urgency)  # for leaves on other hosts
                with admission.turn(urgency, remaining_s=check_alive.remaining_s, check_alive=check_alive):
                    return self._sized(answer(request, check_alive))
            except RetrievalError as error:
                refuse(context, error)
            except CallerGone as gone:
                abort(context, gone.code, str(gone))
            except Exception:
                record = observing.current()
                request_id = uuid.uuid4().hex[:12] if record is None else record.request_id
                _log.exception("request %s failed", request_id)
                abort(
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


def _note(answers: Sequence[SearchAnswer | ScoreAnswer]) -> None:
    """Tell the call's record what the answers took and are worth; those of a batch share both."""
    record = observing.current()
    if record is None or not answers:
        return
    first = answers[0]
    timings = first.timings
    record.stages = {"encode": timings.encode_ns, "search": timings.search_ns, "merge": timings.merge_ns}
    sources = (first.source,) if isinstance(first, ScoreAnswer) else first.sources
    record.coverage = {source.entity_type: source.coverage for source in sources}
    record.degraded = tuple(source.entity_type for source in sources if source.degraded)
