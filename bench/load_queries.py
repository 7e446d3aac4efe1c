"""The requests of a load, serialised once: vectors or texts, for whatever a server says it serves.

Knows nothing about rates and schedules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from bench.data import clustered_queries
from bench.load_store import SEED
from retrieval import catalogue
from retrieval.errors import InvalidData, Unavailable
from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb
from retrieval.pb.retrieval.v1 import retrieval_pb2_grpc
from retrieval.types import F32

QUERIES = 2_000
MAX_TEXTS = 100_000
_OWN_TEXTS, _TITLE_WORDS = 500, 4
_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class ServedType:
    """The first entity type that a server serves; only it is searched."""

    entity_type: str
    generation: str
    space_id: str
    d: int
    rows: int
    shards: int
    kind: str
    ef: int | None = None  # asked of every search; None leaves it to the server

    def line(self) -> str:
        """For people."""
        return f"{self.entity_type} {self.generation}: {self.rows:,} x {self.d}, {self.shards} {self.kind} shards"


def describe(target: str, *, ef: int | None = None) -> ServedType:
    """What the server at `target` serves, and the ef of the searches; Unavailable when it does not answer or serve."""
    with grpc.insecure_channel(target) as channel:
        try:
            found = _stub(channel).Describe(pb.DescribeRequest(), timeout=10)
        except grpc.RpcError as error:
            raise _unavailable(target, error) from None
    if not found.generations:
        raise Unavailable(f"the server at {target} serves no generation: publish one and restart it")
    first = found.generations[0]
    return ServedType(
        entity_type=first.entity_type,
        generation=first.generation,
        space_id=first.space_id,
        d=first.d,
        rows=first.rows,
        shards=len(first.shards),
        kind=first.shards[0].kind if first.shards else "",
        ef=ef,
    )


def vector_requests(served: ServedType, k: int, vectors: F32 | None = None) -> list[bytes]:
    """A request per vector (float32 [q, d]); without vectors, of held-out queries of the clustered data."""
    return [_request(query, served, k) for query in _vector_queries(served, vectors)]


def batch_requests(served: ServedType, k: int, per_call: int) -> list[bytes]:
    """Requests of SearchBatch with `per_call` held-out queries of the clustered data each, no two alike."""
    queries = _vector_queries(served, None)
    doubled = queries + queries
    return [
        pb.SearchBatchRequest(
            queries=doubled[first : first + per_call], entity_types=[served.entity_type], k=k, effort=_effort(served)
        ).SerializeToString()
        for first in range(len(queries))
    ]


def _vector_queries(served: ServedType, vectors: F32 | None) -> list[pb.Query]:
    xq = clustered_queries(QUERIES, served.d, seed=SEED) if vectors is None else vectors
    return [pb.Query(vector=pb.Vector(values=row, space_id=served.space_id)) for row in xq.tolist()]


def text_requests(served: ServedType, texts: Sequence[str], k: int) -> list[bytes]:
    """A request per text."""
    return [_request(pb.Query(text=text), served, k) for text in texts]


def texts_of(path: Path | None) -> list[str]:
    """Texts of a file, one a line, or the shipped catalogue's judged queries and first words of titles.

    Without doubles. Raises InvalidData for a file without a text or one that cannot be read.
    """
    if path is None:
        judged = catalogue.judgments().column("query").to_pylist()
        titles = catalogue.products().column("title").to_pylist()
        cut = [" ".join(title.split()[:_TITLE_WORDS]).lower() for title in titles]
        return list(dict.fromkeys(text for text in judged + cut if text))[:_OWN_TEXTS]
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidData(f"texts of {path} cannot be read ({error}): give a UTF-8 file with one text a line") from None
    texts = list(dict.fromkeys(line.strip() for line in lines if line.strip()))[:MAX_TEXTS]
    if not texts:
        raise InvalidData(f"{path} has no text: give a UTF-8 file with one text a line")
    return texts


def vectors_of(target: str, texts: Sequence[str]) -> F32:
    """The server's vectors of texts, float32 [n, d]; the cache of the worker that answered has them afterwards."""
    with grpc.insecure_channel(target) as channel:
        rows = []
        for first in range(0, len(texts), _BATCH):
            try:
                answer = _stub(channel).Embed(pb.EmbedRequest(texts=texts[first : first + _BATCH]), timeout=120)
            except grpc.RpcError as error:
                raise _unavailable(target, error) from None
            rows += [np.array(vector.values, np.float32) for vector in answer.vectors]
    return np.stack(rows)


def _request(query: pb.Query, served: ServedType, k: int) -> bytes:
    request = pb.SearchRequest(query=query, entity_types=[served.entity_type], k=k, effort=_effort(served))
    data: bytes = request.SerializeToString()
    return data


def _effort(served: ServedType) -> pb.Effort | None:
    return None if served.ef is None else pb.Effort(ef=served.ef)


def _stub(channel: grpc.Channel) -> retrieval_pb2_grpc.RetrievalStub:
    return retrieval_pb2_grpc.RetrievalStub(channel)  # type: ignore[no-untyped-call, unused-ignore]


def _unavailable(target: str, error: grpc.RpcError) -> Unavailable:
    detail = f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else str(error)
    return Unavailable(f"the server at {target} does not answer ({detail}): start one, or give its host:port")
