"""A leaf in this process, which can be slow or garbling, and parts of what was loaded for it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from retrieval.serving.admission import Admission
from retrieval.serving.fleet.leaf import SHARD_SERVICE, LeafService
from retrieval.serving.rankings import Served


class LeafProcess:
    """A leaf in this process, which can be slow, garbling, or gone."""

    def __init__(
        self,
        served: dict[str, Served],
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        admission: Admission | None = None,
        interceptors: Sequence[grpc.ServerInterceptor[Any, Any]] = (),
    ) -> None:
        self.delay_s, self.explain_delay_s, self.garbles = 0.0, 0.0, False
        inner = LeafService(served, max_message_bytes=1 << 24, admission=admission)
        search, explain = inner.search, inner.explain

        def troubled(request):  # type: ignore[no-untyped-def]
            time.sleep(self.delay_s)
            answer = search(request)
            if self.garbles:
                for hits in answer.hits:
                    hits.scores = hits.scores[:-1]
            return answer

        def explained(request):  # type: ignore[no-untyped-def]
            time.sleep(self.explain_delay_s)
            return explain(request)

        inner.search = troubled  # type: ignore[method-assign]
        inner.explain = explained  # type: ignore[method-assign]
        self._handlers = inner.generic_handler()
        self.server = grpc.server(ThreadPoolExecutor(4), interceptors=interceptors, options=[("grpc.so_reuseport", 0)])
        self.server.add_generic_rpc_handlers((self._handlers,))
        self.port = self.server.add_insecure_port(f"{host}:{port}")
        self.server.start()

    def handler(self, method: str) -> Any:
        """What answers a method: (bytes, context) -> bytes."""

        class Details:
            invocation_metadata = ()

        Details.method = f"/{SHARD_SERVICE}/{method}"  # type: ignore[attr-defined]
        found: Any = self._handlers.service(Details())  # type: ignore[arg-type]
        return found.unary_unary

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
