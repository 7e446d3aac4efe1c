"""The leaf: some shards of the live generations behind the gRPC service `Shard`, asked by a broker.

Every call names the generation it is meant for; a leaf holds one generation per entity type and refuses any other by
name, so that no answer mixes two. A shard that fails is named in the answer and costs only itself. Knows nothing about
texts, towers, merging or other leaves.
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
from retrieval.serving import shard_wire as wire
from retrieval.serving.rankings import Served
from retrieval.serving.shards import Shard
from retrieval.serving.status import abort, refuse
from retrieval.store import Manifest

SHARD_SERVICE = pb.DESCRIPTOR.services_by_name["Shard"].full_name

_log = logging.getLogger(__name__)
_M = TypeVar("_M", bound=Message)


class LeafService:
    """The methods of the service `Shard` over the shards of `served`."""

    def __init__(self, served: Mapping[str, Served], *, max_message_bytes: int) -> None:
        self._served = {name: each for name, each in served.items() if each.shards}
        self._max_message_bytes = max_message_bytes

    def generic_handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """What a gRPC server registers."""
        methods = {
            "SearchShards": self._method(pb.SearchShardsRequest, self.search),
            "ScoreShards": self._method(pb.ScoreShardsRequest, self.score),
            "FetchVectors": self._method(pb.FetchVectorsRequest, self.vectors),
            "FetchAttributes": self._method(pb.FetchAttributesRequest, self.attributes),
            "ExplainShards": self._method(pb.ExplainShardsRequest, self.explain),
            "DescribeShards": self._method(pb.DescribeShardsRequest, self.describe),
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

        def one(shard: Shard) -> pb.ShardExplanation:
            params = wire.read_effort(request.effort, shard.kind, manifest.default_search.get(shard.kind, {}))
            found = shard.explain(xq, ids, request.k, params, restriction=restriction, score=score)
            return wire.write_explanation(found)

        return pb.ExplainShardsResponse(explanations=[one(shard) for shard in shards])

    def describe(self, request: pb.DescribeShardsRequest) -> pb.DescribeShardsResponse:
        """Which shards of which generations are here."""
        parts = [
            pb.ServedPart(
                part=pb.Part(
                    entity_type=name, generation=each.about.manifest.id, shards=[shard.name for shard in each.shards]
                ),
                manifest_json=each.about.manifest.to_bytes().decode(),
                columns=each.about.columns,
                schema=each.schema.serialize().to_pybytes(),
            )
            for name, each in self._served.items()
        ]
        return pb.DescribeShardsResponse(version=__version__, parts=parts)

    def _part(self, part: pb.Part) -> tuple[Manifest, list[Shard]]:
        served = self._served.get(part.entity_type)
        if served is None:
            raise FailedPrecondition(
                f"entity type {part.entity_type!r} is not on this leaf; these are: {', '.join(self._served)}"
            )
        manifest = served.about.manifest
        if part.generation != manifest.id:
            raise FailedPrecondition(
                f"the call is for generation {part.generation} of {part.entity_type}, this leaf serves {manifest.id}: "
                "describe it again"
            )
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

    def _method(self, request_type: type[_M], answer: Callable[[_M], Message]) -> grpc.RpcMethodHandler[bytes, bytes]:
        def handle(data: bytes, context: grpc.ServicerContext) -> bytes:
            if not context.is_active():
                abort(context, grpc.StatusCode.CANCELLED, "the broker went away before the work began")
            try:
                if len(data) > self._max_message_bytes:
                    raise InvalidQuery(
                        f"the message has {len(data):,} bytes, the limit is {self._max_message_bytes:,}: send less"
                    )
                return answer(request_type.FromString(data)).SerializeToString()
            except DecodeError:
                abort(
                    context,
                    grpc.StatusCode.INVALID_ARGUMENT,
                    f"the message is not a {request_type.DESCRIPTOR.full_name}: encode it with this .proto",
                )
            except RetrievalError as error:
                refuse(context, error)
            except Exception:
                _log.exception("a call to this leaf failed")
                abort(context, grpc.StatusCode.INTERNAL, "the leaf failed; its log has the reason")

        return grpc.unary_unary_rpc_method_handler(handle)


def _guarded(shard: Shard, question: Callable[[Shard], _M], empty: Callable[..., _M]) -> _M:
    try:
        return question(shard)
    except RetrievalError:
        raise
    except Exception as error:
        _log.exception("%s failed", shard.name)
        return empty(shard=shard.name, failure=type(error).__name__)
