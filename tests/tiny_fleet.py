"""A leaf in this process, which can be slow or garbling, and parts of what was loaded for it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import grpc

from retrieval.serving.leaf import LeafService
from retrieval.serving.rankings import Served


class LeafProcess:
    """A leaf in this process, which can be slow, garbling, or gone."""

    def __init__(self, served: dict[str, Served], port: int = 0) -> None:
        self.delay_s, self.garbles = 0.0, False
        inner = LeafService(served, max_message_bytes=1 << 24)
        search = inner.search

        def troubled(request):  # type: ignore[no-untyped-def]
            time.sleep(self.delay_s)
            answer = search(request)
            if self.garbles:
                for hits in answer.hits:
                    hits.scores = hits.scores[:-1]
            return answer

        inner.search = troubled  # type: ignore[method-assign]
        self.server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        self.server.add_generic_rpc_handlers((inner.generic_handler(),))
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        self.server.start()

    def stop(self) -> None:
        self.server.stop(0).wait()


def part_of(served: dict[str, Served], numbers: set[int]) -> dict[str, Served]:
    """The shards of these numbers, without the types that have none of them."""
    parts = {}
    for name, each in served.items():
        shards = tuple(shard for number, shard in enumerate(each.shards) if number in numbers)
        if shards:
            parts[name] = Served(about=each.about, shards=shards, efforts=each.efforts)
    return parts
