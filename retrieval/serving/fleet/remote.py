"""Shards on other hosts: the same five questions as a shard in this process, asked over gRPC.

`RemoteShards` are all shards of one generation, asked together with one call per leaf; `RemoteShard` is one of them.
How many candidates a shard returns follows from the wanted probability of a complete top k (`completeness`), except
under crowding, where what others crowd out is not known beforehand. Knows nothing about merging or entity types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa

from retrieval.errors import DamagedData, Overloaded, Unavailable
from retrieval.params import SearchParams
from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb
from retrieval.serving import caller
from retrieval.serving.filtering.filters import UNRESTRICTED, Restriction
from retrieval.serving.fleet import wire
from retrieval.serving.fleet.completeness import shard_k
from retrieval.serving.fleet.gather import Question, gather
from retrieval.serving.fleet.leaves import Hedging, Leaf
from retrieval.serving.shards import Hits, ShardExplanation
from retrieval.store import Manifest
from retrieval.store.manifest import ShardManifest
from retrieval.types import F32, I32, AnyArray, Bool, IndexKind

_A = TypeVar("_A")


class RemoteShard:
    """One shard on one or several leaves; Unavailable names the leaf when it cannot be had."""

    def __init__(self, manifest: ShardManifest, schema: pa.Schema, together: RemoteShards) -> None:
        self.name: str = manifest.name
        self.rows: int = manifest.rows
        self.kind: IndexKind = manifest.kind
        self.schema = schema
        self._together = together

    def search(self, xq: F32, k: int, params: SearchParams, *, restriction: Restriction = UNRESTRICTED) -> Hits:
        """See `Shard.search`."""
        return _one(self._together.search(xq, k, {self.kind: params}, restriction, only=[self]))

    def score(self, xq: F32, ids: AnyArray) -> tuple[F32, Bool]:
        """See `Shard.score`."""
        return _one(self._together.score(xq, ids, only=[self]))

    def vectors(self, ids: AnyArray) -> tuple[F32, Bool]:
        """See `Shard.vectors`."""
        return _one(self._together.vectors(ids, only=[self]))

    def attributes(self, rows: I32, columns: Sequence[str]) -> dict[str, pa.Array]:
        """See `Shard.attributes`."""
        return _one(self._together.attributes(self, rows, columns))

    def explain(
        self,
        xq: F32,
        ids: AnyArray,
        k: int,
        params: SearchParams,
        *,
        restriction: Restriction = UNRESTRICTED,
        score: float | None = None,
    ) -> ShardExplanation:
        """See `Shard.explain`."""
        found = self._together.explain(xq, ids, k, {self.kind: params}, restriction, score, only=[self])
        return _one(found)


class RemoteShards(tuple[RemoteShard, ...]):
    """All shards of one generation, in the manifest's order; what was asked of all comes back in that order.

    holders: the leaves of each shard, empty for a shard that nobody serves. Each answer is the shard's, or the
    exception that stands for it. timeout_s: seconds that a question may take, asked for each call.
    """

    _manifest: Manifest
    _holders: dict[str, tuple[Leaf, ...]]

    @classmethod
    def over(
        cls,
        manifest: Manifest,
        schemas: Mapping[str, pa.Schema],
        holders: Mapping[str, Sequence[Leaf]],
        *,
        hedging: Hedging,
        timeout_s: Callable[[], float],
        completeness: float,
        on_stale: Callable[[], None],
    ) -> RemoteShards:
        """Put together from what the leaves told."""
        # the shards know the tuple they are in, which therefore has to exist before them: they share its state
        state = cls()
        state._manifest, state._completeness, state._hedging = manifest, completeness, hedging
        state._timeout_s, state._on_stale = timeout_s, on_stale
        state._holders = {each.name: tuple(holders.get(each.name, ())) for each in manifest.shards}
        nothing = pa.schema([])
        shards = cls(RemoteShard(each, schemas.get(each.name, nothing), state) for each in manifest.shards)
        shards.__dict__.update(state.__dict__)
        return shards

    def search(
        self,
        xq: F32,
        k: int,
        params: Mapping[IndexKind, SearchParams],
        restriction: Restriction = UNRESTRICTED,
        *,
        only: Sequence[RemoteShard] | None = None,
    ) -> list[Hits | Exception]:
        """The best of each shard for each of xq [q, d]."""
        shards = self if only is None else only
        crowded = restriction.crowding is not None
        by_name = {shard.name: shard for shard in shards}
        data = wire.to_bytes(xq, "<f4")
        # one number for all shards of a call: that of the largest
        share = max(shard.rows for shard in shards) / self._manifest.rows
        wanted = k if crowded or only else shard_k(k, share, len(self), self._completeness)
        merged = _merged(params)

        def request(names: Sequence[str]) -> pb.SearchShardsRequest:
            message = pb.SearchShardsRequest(
                part=self._part(names),
                vectors=data,
                queries=len(xq),
                space_id=self._manifest.space_id,
                k=wanted,
                effort=merged,
                priority=wire.write_priority(caller.priority()),
            )
            wire.write_restriction(message, restriction)
            return message

        def read(message: pb.ShardHits) -> Hits:
            return wire.read_hits(
                message,
                queries=len(xq),
                rows=by_name[message.shard].rows,
                id_type=self._manifest.id_type,
                crowded=crowded,
            )

        return self._ask("SearchShards", request, lambda answer: answer.hits, read, shards)

    def score(
        self, xq: F32, ids: AnyArray, *, only: Sequence[RemoteShard] | None = None
    ) -> list[tuple[F32, Bool] | Exception]:
        """Exact scores and which ids each shard holds."""

        def request(names: Sequence[str]) -> pb.ScoreShardsRequest:
            message = pb.ScoreShardsRequest(
                part=self._part(names),
                vectors=wire.to_bytes(xq, "<f4"),
                queries=len(xq),
                space_id=self._manifest.space_id,
            )
            wire.write_ids(message, ids)
            return message

        def read(message: pb.ShardScores) -> tuple[F32, Bool]:
            return wire.read_found(message.scores, message.found, (len(xq), len(ids)), len(ids), "scores")

        return self._ask("ScoreShards", request, lambda answer: answer.scores, read, only or self)

    def vectors(
        self, ids: AnyArray, *, only: Sequence[RemoteShard] | None = None
    ) -> list[tuple[F32, Bool] | Exception]:
        """Stored vectors and which ids each shard holds."""

        def request(names: Sequence[str]) -> pb.FetchVectorsRequest:
            message = pb.FetchVectorsRequest(part=self._part(names))
            wire.write_ids(message, ids)
            return message

        def read(message: pb.ShardVectors) -> tuple[F32, Bool]:
            return wire.read_found(message.vectors, message.found, (len(ids), self._manifest.d), len(ids), "vectors")

        return self._ask("FetchVectors", request, lambda answer: answer.vectors, read, only or self)

    def attributes(
        self, shard: RemoteShard, rows: I32, columns: Sequence[str]
    ) -> list[dict[str, pa.Array] | Exception]:
        """Attribute columns of rows of one shard, as a list of one."""

        def request(names: Sequence[str]) -> pb.FetchAttributesRequest:
            return pb.FetchAttributesRequest(part=self._part(names), rows=wire.to_bytes(rows, "<i4"), columns=columns)

        def decode(answer: Any, names: Sequence[str]) -> dict[str, dict[str, pa.Array] | Exception]:
            return {names[0]: wire.read_table(answer.table, len(rows))}

        return self._gather(Question(method="FetchAttributes", request=request, decode=decode), [shard])

    def explain(
        self,
        xq: F32,
        ids: AnyArray,
        k: int,
        params: Mapping[IndexKind, SearchParams],
        restriction: Restriction = UNRESTRICTED,
        score: float | None = None,
        *,
        only: Sequence[RemoteShard] | None = None,
    ) -> list[ShardExplanation | Exception]:
        """What becomes of one id [1] in each shard, which are asked side by side."""
        limits = pb.SearchShardsRequest()
        wire.write_restriction(limits, restriction)

        def request(names: Sequence[str]) -> pb.ExplainShardsRequest:
            message = pb.ExplainShardsRequest(
                part=self._part(names),
                vector=wire.to_bytes(xq, "<f4"),
                space_id=self._manifest.space_id,
                k=k,
                effort=_merged(params),
                filter=limits.filter if limits.HasField("filter") else None,
                score=score,
            )
            if limits.crowding_column:
                message.crowding.column, message.crowding.at_most = limits.crowding_column, limits.crowding_at_most
            if ids.dtype == object:
                message.string_id = ids[0]
            else:
                message.int64_id = wire.to_bytes(ids, "<i8")
            return message

        def decode(answer: Any, names: Sequence[str]) -> dict[str, ShardExplanation | Exception]:
            found: dict[str, ShardExplanation | Exception] = {
                each.shard: wire.read_explanation(each) for each in answer.explanations
            }
            if not set(found) <= set(names):
                raise DamagedData(f"it answered for {', '.join(sorted(found))}")
            missing = Unavailable("its leaf could not explain it")
            return {name: found.get(name, missing) for name in names}

        return self._gather(Question(method="ExplainShards", request=request, decode=decode), only or self)

    def _part(self, names: Sequence[str]) -> pb.Part:
        return pb.Part(entity_type=self._manifest.entity_type, generation=self._manifest.id, shards=names)

    def _ask(
        self,
        method: str,
        request: Callable[[Sequence[str]], Any],
        parts: Callable[[Any], Sequence[Any]],
        read: Callable[[Any], _A],
        shards: Sequence[RemoteShard],
    ) -> list[_A | Exception]:
        def decode(answer: Any, names: Sequence[str]) -> dict[str, _A | Exception]:
            found = {part.shard: part for part in parts(answer)}
            if set(found) != set(names):
                raise DamagedData(f"it answered for {', '.join(sorted(found)) or 'no shard'}")
            failed = {name: getattr(part, "failure", "") for name, part in found.items()}
            return {name: Unavailable(failed[name]) if failed[name] else read(found[name]) for name in found}

        return self._gather(Question(method=method, request=request, decode=decode), shards)

    def _gather(self, question: Question[_A], shards: Sequence[RemoteShard]) -> list[_A | Exception]:
        holders = {shard.name: self._holders[shard.name] for shard in shards}
        answers = gather(question, holders, self._hedging, self._timeout_s(), self._on_stale)
        found = [answers[shard.name] for shard in shards]
        full = [each for each in found if isinstance(each, Overloaded)]
        if full and len(full) == len(found):  # the callers shall wait, and not try again at once
            wait_ms = max(each.retry_after_ms or 1 for each in full)
            raise Overloaded(f"no leaf has room ({full[0]})", retry_after_ms=wait_ms)
        return found

    _hedging: Hedging
    _timeout_s: Callable[[], float]
    _completeness: float
    _on_stale: Callable[[], None]


def _merged(params: Mapping[IndexKind, SearchParams]) -> pb.Effort:
    """The search parameters of all kinds in one message: each kind reads its own."""
    merged = pb.Effort()
    for each in params.values():
        merged.MergeFrom(wire.write_effort(each))
    return merged


def _one(answers: list[_A | Exception]) -> _A:
    (answer,) = answers
    if isinstance(answer, Exception):
        raise answer
    return answer
