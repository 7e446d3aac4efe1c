"""Rubbish on the wire: no crash, no hang, only INVALID_ARGUMENT or RESOURCE_EXHAUSTED, memory flat."""

from __future__ import annotations

import collections
import random
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from tiny_store import SPACE, make_store

from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb
from retrieval.serving.config import make_settings
from retrieval.serving.engine import Engine
from retrieval.serving.server import Server
from retrieval.serving.swap.load import load_store

METHODS = ["Search", "SearchBatch", "Embed", "Score", "Explain"]
ACCEPTED = {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
LIMIT = 20_000  # bytes of a message
CALLS_AT_ONCE = 32


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = tmp_path_factory.mktemp("store")
    make_store(store, 50, 8, 1)
    settings = make_settings(store=store, port=0, threads=4, max_message_bytes=LIMIT, log_calls="none")
    server = Server(Engine(load_store(settings)), settings)
    yield f"127.0.0.1:{server.start()}"
    server.stop(0).wait()


def messages() -> dict[str, bytes]:
    query = pb.Query(vector=pb.Vector(values=np.ones(8), space_id=SPACE))
    wanted = {
        "k": 5,
        "entity_types": ["pin"],
        "filter": pb.Filter(all_of=pb.FilterList(filters=[pb.Filter(equal=pb.Equal(column="title"))])),
        "effort": pb.Effort(ef=9),
    }
    return {
        "Search": pb.SearchRequest(query=query, **wanted).SerializeToString(),
        "SearchBatch": pb.SearchBatchRequest(queries=[query, query], **wanted).SerializeToString(),
        "Embed": pb.EmbedRequest(texts=["red", "blue"]).SerializeToString(),
        "Explain": pb.ExplainRequest(
            query=query, entity=pb.EntityRef(entity_type="pin", int64_id=4), k=5
        ).SerializeToString(),
        "Score": pb.ScoreRequest(query=query, entity_type="pin", int64_ids=[1, 2]).SerializeToString(),
    }


def spoiled(rng: random.Random, good: bytes) -> bytes:
    """Random bytes, or a good message with bits turned, a part cut out, doubled, nested, or blown up."""
    kind = rng.randrange(7)
    if kind == 0:
        return rng.randbytes(rng.randrange(300))
    if kind == 1:
        return good[: rng.randrange(len(good))]
    if kind == 2:
        begin = rng.randrange(len(good))
        return good[:begin] + good[begin + rng.randrange(9) :]
    if kind == 3:
        return b"\x42" + bytes([127, 127, 127]) * rng.randrange(1, 200)  # a filter that promises more than follows
    if kind == 4:
        nested = b""
        for _ in range(rng.randrange(1, 400)):  # negations within negations
            nested = b"\x32" + _varint(len(nested)) + nested
        return good + b"\x42" + _varint(len(nested)) + nested
    if kind == 5:
        return good + rng.randbytes(rng.randrange(LIMIT, 2 * LIMIT)) if rng.random() < 0.1 else good + good[:7]
    data = bytearray(good)
    for _ in range(rng.randrange(1, 8)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def throw(target: str, count: int, seed: int) -> collections.Counter[str]:
    rng, good, seen = random.Random(seed), messages(), collections.Counter[str]()
    with grpc.insecure_channel(target) as channel:
        calls = {method: channel.unary_unary(f"/retrieval.v1.Retrieval/{method}") for method in METHODS}
        for start in range(0, count, CALLS_AT_ONCE):
            sent = []
            for _ in range(min(CALLS_AT_ONCE, count - start)):
                method = rng.choice(METHODS)
                data = spoiled(rng, good[method])
                sent.append((method, data, calls[method].future(data, timeout=20)))
            for method, data, call in sent:
                code = call.code().name
                seen[code] += 1
                # a message that was spoiled into another good one may be answered; texts find no tower
                fine = code in ACCEPTED or code in {"OK", "FAILED_PRECONDITION"}
                assert fine, (seed, method, data.hex(), code, call.details())
    return seen


def check_flat(target: str, count: int) -> None:
    throw(target, 500, seed=1)  # pools and buffers reach their size
    before = resident_bytes()
    seen = throw(target, count, seed=2)
    grown = resident_bytes() - before
    print(f"{count} messages: {dict(seen)}, memory {grown / 2**20:+.1f} MiB")
    assert seen["INVALID_ARGUMENT"] > count / 2, seen
    assert grown < 40 * 2**20, (grown, seen)
    good = messages()["Search"]
    with grpc.insecure_channel(target) as channel:  # and it still answers
        request = pb.SearchRequest.FromString(good)
        request.ClearField("filter")
        request.ClearField("effort")
        answer = channel.unary_unary("/retrieval.v1.Retrieval/Search")(request.SerializeToString(), timeout=20)
    assert len(pb.SearchResponse.FromString(answer).candidates[0].scores) == 5


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
def test_two_thousand_spoiled_messages(target: str) -> None:
    check_flat(target, 2_000)


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
def test_fifty_thousand_spoiled_messages(target: str) -> None:
    check_flat(target, 50_000)
