"""What a broker and a leaf say to each other, between bytes and arrays, both ways.

Arrays travel as little-endian bytes. What comes from a leaf is held against what was asked before it is used: sizes,
bounds, rows inside the shard, finite scores. Knows nothing about channels, replicas or time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from retrieval.errors import DamagedData, InvalidQuery
from retrieval.params import SEARCH_PARAMS, HnswSearch, IvfpqSearch, SearchParams, make_params
from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb
from retrieval.serving.calls import Priority
from retrieval.serving.explaining.shard import ShardExplanation
from retrieval.serving.filtering.filters import UNRESTRICTED, Crowding, Restriction
from retrieval.serving.filtering.wire import read_filter, write_filter
from retrieval.serving.shards import Hits
from retrieval.types import F32, AnyArray, Bool, IdType, IndexKind

_CROWD = "crowd"
_EXPLAINED = ("list_rank", "nprobe", "approximate_rank", "pool", "row")


def to_bytes(values: AnyArray, dtype: str) -> bytes:
    """The array as bytes of a little-endian dtype."""
    return np.ascontiguousarray(values, np.dtype(dtype)).tobytes()


def read_queries(data: bytes, queries: int, d: int) -> F32:
    """Query vectors float32 [queries, d]; InvalidQuery when the size is another or a value is not finite."""
    if queries < 1 or len(data) != 4 * queries * d:
        raise InvalidQuery(f"the vectors have {len(data):,} bytes, {queries:,} queries x {d} float32 were announced")
    vectors = np.frombuffer(data, "<f4").reshape(queries, d)
    if not np.isfinite(vectors).all():
        raise InvalidQuery("a query vector holds NaN or infinity: send finite values")
    return vectors.astype(np.float32)


def read_array(data: bytes, dtype: str, size: int, what: str) -> Any:
    """An array [size]; DamagedData when the bytes are of another size."""
    expected = np.dtype(dtype)
    if len(data) != expected.itemsize * size:
        raise DamagedData(f"{what} has {len(data):,} bytes instead of {expected.itemsize * size:,}")
    return np.frombuffer(data, expected).astype(expected.newbyteorder("="))


def write_effort(params: SearchParams) -> pb.Effort:
    """The search parameters of one index kind."""
    if isinstance(params, HnswSearch):
        return pb.Effort(ef=params.ef)
    if isinstance(params, IvfpqSearch):
        return pb.Effort(nprobe=params.nprobe, rescore=params.rescore)
    return pb.Effort()


def read_effort(message: pb.Effort, kind: IndexKind, defaults: dict[str, Any]) -> SearchParams:
    """The search parameters for one index kind; InvalidParams for one outside its limits."""
    cls = SEARCH_PARAMS[kind]
    given = {name: getattr(message, name) for name in ("ef", "nprobe", "rescore") if message.HasField(name)}
    return make_params(cls, {**defaults, **{name: value for name, value in given.items() if name in cls.model_fields}})


def write_priority(priority: Priority) -> pb.Priority:
    """How urgent a call is."""
    return pb.BATCH if priority is Priority.BATCH else pb.INTERACTIVE


def write_restriction(message: pb.SearchShardsRequest, restriction: Restriction) -> None:
    """Set the filter and the crowding of a search."""
    if restriction.filter is not None:
        message.filter.CopyFrom(write_filter(restriction.filter))
    if restriction.crowding is not None:
        message.crowding_column = restriction.crowding.column
        message.crowding_at_most = restriction.crowding.at_most


def read_restriction(message: pb.SearchShardsRequest) -> Restriction:
    """The filter and the crowding of a search; InvalidQuery for a bad filter."""
    if not message.HasField("filter") and not message.crowding_column:
        return UNRESTRICTED
    crowding = None
    if message.crowding_column:
        crowding = Crowding(column=message.crowding_column, at_most=message.crowding_at_most)
    return Restriction(filter=read_filter(message.filter) if message.HasField("filter") else None, crowding=crowding)


def write_ids(message: Any, ids: AnyArray) -> None:
    """Set int64_ids as bytes, or string_ids."""
    if ids.dtype == object:
        message.string_ids.extend(ids.tolist())
    else:
        message.int64_ids = to_bytes(ids, "<i8")


def read_ids(message: Any, id_type: IdType) -> AnyArray:
    """Ids int64 [n] or object [n]; InvalidQuery when the bytes are not whole int64."""
    if id_type is IdType.STRING:
        return _strings(message.string_ids)
    if len(message.int64_ids) % 8:
        raise InvalidQuery(f"int64_ids has {len(message.int64_ids):,} bytes, which is not a multiple of 8")
    return np.frombuffer(message.int64_ids, "<i8").astype(np.int64)


def write_hits(name: str, hits: Hits) -> pb.ShardHits:
    """One shard's answer."""
    message = pb.ShardHits(
        shard=name,
        rows=to_bytes(hits.rows, "<i4"),
        scores=to_bytes(hits.scores, "<f4"),
        bounds=to_bytes(hits.bounds, "<i8"),
        matches=hits.matches,
    )
    write_ids(message, hits.ids)
    if hits.crowd is not None:
        message.crowd = write_table({_CROWD: hits.crowd})
    return message


def read_hits(message: pb.ShardHits, *, queries: int, rows: int, id_type: IdType, crowded: bool) -> Hits:
    """One shard's answer; DamagedData names the first thing about it that cannot be right."""
    bounds = read_array(message.bounds, "<i8", queries + 1, "bounds")
    if bounds[0] != 0 or (np.diff(bounds) < 0).any():
        raise DamagedData("bounds do not ascend from 0")
    n = int(bounds[-1])
    found, scores = read_array(message.rows, "<i4", n, "rows"), read_array(message.scores, "<f4", n, "scores")
    if not np.isfinite(scores).all():
        raise DamagedData("a score is not finite")
    if n and not (found.min() >= 0 and found.max() < rows):
        raise DamagedData(f"a row lies outside the shard's {rows:,}")
    if id_type is IdType.STRING:
        ids = _strings(message.string_ids)
        if len(ids) != n:
            raise DamagedData(f"there are {len(ids):,} ids for {n:,} hits")
    else:
        ids = read_array(message.int64_ids, "<i8", n, "int64_ids")
    crowd = read_table(message.crowd, n)[_CROWD] if crowded else None
    return Hits(
        ids=ids,
        rows=found,
        scores=scores,
        bounds=bounds,
        matches=message.matches if message.HasField("matches") else None,
        crowd=crowd,
    )


def read_found(scores: bytes, found: bytes, shape: tuple[int, int], ids: int, what: str) -> tuple[F32, Bool]:
    """Float32 of a shape and bool [ids]; DamagedData when sizes or values cannot be right."""
    values = read_array(scores, "<f4", shape[0] * shape[1], what).reshape(shape)
    if not np.isfinite(values).all():
        raise DamagedData(f"a value of {what} is not finite")
    return values, read_array(found, "u1", ids, "found") != 0


def write_table(columns: dict[str, pa.Array]) -> bytes:
    """Columns as an Arrow IPC stream."""
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def read_table(data: bytes, rows: int) -> dict[str, pa.Array]:
    """Columns [rows] of an Arrow IPC stream; DamagedData when it is none, or of another length."""
    try:
        table = pa.ipc.open_stream(data).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise DamagedData(f"attributes are not an Arrow stream: {error}") from None
    if table.num_rows != rows:
        raise DamagedData(f"attributes have {table.num_rows:,} rows instead of {rows:,}")
    return {name: pa.concat_arrays(table.column(name).chunks or [pa.nulls(0)]) for name in table.column_names}


def write_explanation(each: ShardExplanation) -> pb.ShardExplanation:
    """What became of an entity in one shard."""
    return pb.ShardExplanation(
        shard=each.shard,
        held=each.held,
        allowed=each.allowed,
        score=each.score,
        rank=each.rank,
        returned=each.returned,
        shard_k=each.shard_k,
        **{name: getattr(each, name) for name in _EXPLAINED},
    )


def read_explanation(message: pb.ShardExplanation) -> ShardExplanation:
    """The same, read back."""
    return ShardExplanation(
        shard=message.shard,
        held=message.held,
        allowed=message.allowed,
        score=message.score,
        rank=message.rank,
        returned=message.returned,
        shard_k=message.shard_k,
        **{name: getattr(message, name) if message.HasField(name) else None for name in _EXPLAINED},
    )


def _strings(values: Sequence[str]) -> AnyArray:
    array = np.empty(len(values), object)
    array[:] = list(values)
    return array
