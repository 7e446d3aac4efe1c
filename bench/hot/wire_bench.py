"""A search request read and an answer of 100 candidates written, beside protobuf alone parsing and serialising them."""

from typing import Any

import numpy as np
import pytest

from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb
from retrieval.serving import wire
from retrieval.serving.calls import DEFAULT_EFFORT, Ranking, SearchAnswer, Source, Timings

D, K = 256, 100


def _request() -> bytes:
    values = np.random.default_rng(0).standard_normal(D, dtype=np.float32).tolist()
    vector = pb.Vector(values=values, space_id="a-space")
    return pb.SearchRequest(query=pb.Query(vector=vector), entity_types=["pin"], k=K).SerializeToString()


def _answer() -> SearchAnswer:
    rng = np.random.default_rng(1)
    ranking = Ranking(
        entity_type="pin",
        ids=rng.integers(0, 10**12, K),
        scores=rng.random(K, dtype=np.float32),
        source_index=np.zeros(K, np.int32),
        attributes={},
    )
    source = Source(
        entity_type="pin",
        generation="000001-00000000",
        space_id="a-space",
        coverage=1.0,
        effort=DEFAULT_EFFORT,
        recall_at_10=0.99,
        recall_at_100=0.97,
        degraded=(),
        rows=10**6,
    )
    timings = Timings(encode_ns=1, search_ns=2, merge_ns=3, total_ns=6)
    return SearchAnswer(rankings=(ranking,), sources=(source,), query_space_id="a-space", timings=timings)


@pytest.mark.benchmark(group="wire")
def test_reference(benchmark: Any) -> None:
    request, answer = _request(), wire.write_search(_answer())
    benchmark(lambda: (pb.SearchRequest.FromString(request), answer.SerializeToString()))


@pytest.mark.benchmark(group="wire")
def test_ours(benchmark: Any) -> None:
    data, answer = _request(), _answer()

    def both() -> bytes:
        request = pb.SearchRequest.FromString(data)
        wire.read_query(request.query)
        wire.read_wanted(request)
        return wire.write_search(answer).SerializeToString()

    written = pb.SearchResponse.FromString(benchmark(both))
    assert list(written.candidates[0].int64_ids) == answer.rankings[0].ids.tolist()
