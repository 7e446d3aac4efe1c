"""The leaf: some shards of the live generations behind the gRPC service `Shard`, asked by a broker.

Every call names the generation it is meant for; a leaf holds the current one of each entity type, and the one before
while brokers ask for it, and refuses any other by name, so that no answer mixes two. A shard that fails is named in the
answer and costs only itself. Calls wait for their turn like those of callers: a full leaf refuses at once, which its
broker takes for a failed try. Knows nothing about texts, towers, merging or other leaves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from retrieval import __version__
from retrieval.errors import FailedPrecondition, InvalidQuery, RetrievalError, SpaceMismatch
from retrieval.params import MAX_K
from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb
from retrieval.serving.admission import Admission
from retrieval.serving.caller import CallerGone, CheckAlive
from retrieval.serving.calls import Priority
from retrieval.serving.fleet import wire
from retrieval.serving.rankings import Served
from retrieval.serving.shards import Shard
from retrieval.serving.status import abort, refuse
from retrieval.serving.swap.held import Held
from retrieval.serving.wire import read_priority
from retrieval.store import Manifest

SHARD_SERVICE = pb.DESCRIPTOR.services_by_name["Shard"].full_name

_log = logging.getLogger(__name__)
_M = TypeVar("_M", bound=Message)
_R = TypeVar("_R")


class LeafService:
    """The methods of the service `Shard` over the shards of `served`.

    admission: where all calls but DescribeShards wait for their turn; None lets all of them work at once.
    """

    def __init__(
        self, served: Mapping[str, Served] | Held, *, max_message_bytes: int, admission: Admission | None = None
    ) -> None:
        self._admission = admission
        self._held = served if isinstance(served, Held) else Held(served)
        self._max_message_bytes = max_message_bytes

    def generic_handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """What a gRPC server registers."""
        methods = {
            "SearchShards": self._method(pb.SearchShardsRequest, self.search),
            "ScoreShards": self._method(pb.ScoreShardsRequest, self.score),
            "FetchVectors": self._method(pb.FetchVectorsRequest, self.vectors),
            "FetchAttributes": self._method(pb.FetchAttributesRequest, self.attributes),
            "ExplainShards": self._method(pb.ExplainShardsRequest, self.explain, priority=Priority.BATCH),
            "DescribeShards": self._method(pb.DescribeShardsRequest, self.describe, admitted=False),
        }
        return grpc.method_handlers_generic_handler(SHARD_SERVICE, methods)

    def search(self, request: pb.SearchShardsRequest) -> pb.SearchShardsResponse:
        """Every named shard's best k for all queries."""
        manifest, shards = self._part(request.part)
        self._check_space(manifest, request.space_id)
        if not 1 <= request.k <= MAX_K:
            raise InvalidQuery(f"k = {request.k:,} is not acceptable: ask for 1 to {MAX_K:,} candidates")
        xq = wire.read_queries(request.vectors, request.queries, manifest.d)
        restriction = wire.read_restriction(request)

        def one(shard: Shard) -> pb.ShardHits:
            params = wire.read_effort(request.effort, shard.kind, manifest.default_search.get(shard.kind, {}))
            return wire.write_hits(shard.name, shard.search(xq, request.k, params, restriction=restriction))

        return pb.SearchShardsResponse(hits=[_guarded(shard, one, pb.ShardHits) for shard in shards])

    def score(self, request: pb.ScoreShardsRequest) -> pb.ScoreShardsResponse:
        """Exact scores of the ids that each named shard holds."""
        manifest, shards = self._part(request.part)
        self._check_space(manifest, request.space_id)
        xq = wire.read_queries(request.vectors, request.queries, manifest.d)
        ids = wire.read_ids(request, manifest.id_type)

        def one(shard: Shard) -> pb.ShardScores:
            scores, found = shard.score(xq, ids)
            return pb.ShardScores(
                shard=shard.name, scores=wire.to_bytes(scores, "<f4"), found=wire.to_bytes(found, "u1")
            )

        return pb.ScoreShardsResponse(scores=[_guarded(shard, one, pb.ShardScores) for shard in shards])

    def vectors(self, request: pb.FetchVectorsRequest) -> pb.FetchVectorsResponse:
        """Stored vectors of the ids that each named shard holds."""
        manifest, shards = self._part(request.part)
        ids = wire.read_ids(request, manifest.id_type)

        def one(shard: Shard) -> pb.ShardVectors:
            vectors, found = shard.vectors(ids)
            return pb.ShardVectors(
                shard=shard.name, vectors=wire.to_bytes(vectors, "<f4"), found=wire.to_bytes(found, "u1")
            )

        return pb.FetchVectorsResponse(vectors=[_guarded(shard, one, pb.ShardVectors) for shard in shards])

    def attributes(self, request: pb.FetchAttributesRequest) -> pb.FetchAttributesResponse:
        """Attribute columns of rows of one shard."""
        _, shards = self._part(request.part)
        if len(shards) != 1:
            raise InvalidQuery(f"attributes of {len(shards)} shards were asked for in one call: name one shard")
        if len(request.rows) % 4:
            raise InvalidQuery(f"rows has {len(request.rows):,} bytes, which is not a multiple of 4")
        rows = wire.read_array(request.rows, "<i4", len(request.rows) // 4, "rows")
        if len(rows) and not 0 <= rows.min() <= rows.max() < shards[0].rows:
            raise InvalidQuery(f"a row lies outside the {shards[0].rows:,} of {shards[0].name}")
        return pb.FetchAttributesResponse(table=wire.write_table(shards[0].attributes(rows, list(request.columns))))

    def explain(self, request: pb.ExplainShardsRequest) -> pb.ExplainShardsResponse:
        """What becomes of one entity in each named shard."""
        manifest, shards = self._part(request.part)
        self._check_space(manifest, request.space_id)
        xq = wire.read_queries(request.vector, 1, manifest.d)
        named = pb.FetchVectorsRequest(int64_ids=request.int64_id, string_ids=[request.string_id])
        ids = wire.read_ids(named, manifest.id_type)
        if len(ids) != 1:
            raise InvalidQuery(f"{len(ids)} ids were sent, one can be explained")
        limits = pb.SearchShardsRequest(
            filter=request.filter if request.HasField("filter") else None,
            crowding_column=request.crowding.column,
            crowding_at_most=request.crowding.at_most,
        )
        restriction = wire.read_restriction(limits)
        score = request.score if request.HasField("score") else None

        def one(shard: Shard) -> pb.ShardExplanation | None:
            params = wire.read_effort(request.effort, shard.kind, manifest.default_search.get(shard.kind, {}))
            found = shard.explain(xq, ids, request.k, params, restriction=restriction, score=score)
            return wire.write_explanation(found)

        # one that failed is left out
        told = [_guarded(shard, one, lambda **_: None) for shard in shards]
        return pb.ExplainShardsResponse(explanations=[each for each in told if each is not None])

    def describe(self, request: pb.DescribeShardsRequest) -> pb.DescribeShardsResponse:
        """Which shards of which generations are here."""
        parts = [
            pb.ServedPart(
                part=pb.Part(
                    entity_type=each.about.manifest.entity_type,
                    generation=each.about.manifest.id,
                    shards=[shard.name for shard in each.shards],
                ),
                manifest_json=each.about.manifest.to_bytes().decode(),
                columns=each.about.columns,
                schema=each.schema.serialize().to_pybytes(),
            )
            for each in self._held.every()
            if each.shards
        ]
        return pb.DescribeShardsResponse(version=__version__, parts=parts)

    def _part(self, part: pb.Part) -> tuple[Manifest, list[Shard]]:
        current = self._held.current
        if part.entity_type not in current:
            raise FailedPrecondition(
                f"entity type {part.entity_type!r} is not on this leaf; these are: {', '.join(current)}"
            )
        served = self._held.find(part.entity_type, part.generation)
        if served is None:
            raise FailedPrecondition(
                f"the call is for generation {part.generation} of {part.entity_type}, this leaf serves "
                f"{current[part.entity_type].about.manifest.id}: describe it again"
            )
        manifest = served.about.manifest
        held = {shard.name: shard for shard in served.shards}
        missing = [name for name in part.shards if name not in held]
        if missing or not part.shards:
            named = missing[0] if missing else "no shard at all"
            raise FailedPrecondition(f"{named} of {part.entity_type} is not on this leaf; it has {', '.join(held)}")
        return manifest, [held[name] for name in dict.fromkeys(part.shards)]

    @staticmethod
    def _check_space(manifest: Manifest, space_id: str) -> None:
        if space_id != manifest.space_id:
            raise SpaceMismatch(
                f"the vectors are of space {space_id}, generation {manifest.id} of {manifest.entity_type} is of space "
                f"{manifest.space_id}: send vectors made for it"
            )

    def _method(
        self,
        request_type: type[_M],
        answer: Callable[[_M], Message],
        *,
        priority: Priority | None = None,
        admitted: bool = True,
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """priority: None takes the request's own."""
        admission = self._admission if admitted else None

        def handle(data: bytes, context: grpc.ServicerContext) -> bytes:
            check_alive = CheckAlive(context)
            try:
                check_alive()
                if admission is None:
                    return answer(self._parsed(data, request_type)).SerializeToString()
                admission.check_room()  # before the parsing, which a full leaf has no time for
                request = self._parsed(data, request_type)
                urgency = read_priority(request) if priority is None else priority
                with admission.turn(urgency, remaining_s=check_alive.remaining_s, check_alive=check_alive):
                    return answer(request).SerializeToString()
            except RetrievalError as error:
                refuse(context, error)
            except CallerGone as gone:
                abort(context, gone.code, str(gone))
            except Exception:
                _log.exception("a call to this leaf failed")
                abort(context, grpc.StatusCode.INTERNAL, "the leaf failed; its log has the reason")

        return grpc.unary_unary_rpc_method_handler(handle)

    def _parsed(self, data: bytes, request_type: type[_M]) -> _M:
        if len(data) > self._max_message_bytes:
            raise InvalidQuery(
                f"the message has {len(data):,} bytes, the limit is {self._max_message_bytes:,}: send less"
            )
        try:
            return request_type.FromString(data)
        except DecodeError:
            name = request_type.DESCRIPTOR.full_name
            raise InvalidQuery(f"the message is not a {name}: encode it with this .proto") from None


def _guarded(shard: Shard, question: Callable[[Shard], _R], empty: Callable[..., _R]) -> _R:
    try:
        return question(shard)
    except RetrievalError:
        raise
    except Exception as error:
        _log.exception("%s failed", shard.name)
        return empty(shard=shard.name, failure=type(error).__name__)
