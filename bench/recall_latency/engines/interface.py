"""What an engine is to the measurement: it builds files in a folder, opens them, and answers queries with ids.

An adapter knows its library and nothing about recall, clocks or reports. It runs in a child process of its own, pinned
to as many cores as it may use, so neither its threads nor its memory meet those of another. Ids are the row numbers of
the base; scores are not asked for, since they would not be believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np

from retrieval.errors import InvalidParams
from retrieval.types import F32, I64, AnyArray, StrEnum

Params: TypeAlias = Mapping[str, Any]
Search: TypeAlias = Callable[[F32], AnyArray]  # queries [q, d] -> ids [q, k], -1 where there is none


class Kind(StrEnum):
    """What an engine is, to whoever reads a table."""

    OURS = "ours"
    LIBRARY = "library"
    SYSTEM = "system"  # documents with ids, storage and a query planner, perhaps a server


class Engine(Protocol):
    """One engine over one data set of unit vectors, compared by inner product."""

    kind: ClassVar[Kind]
    packages: ClassVar[tuple[str, ...]]  # distributions whose versions belong into the rows
    builds: ClassVar[tuple[Params, ...]]  # build parameters that are measured

    @staticmethod
    def efforts(k: int) -> Sequence[Params]:
        """Search parameters that are measured at k, in ascending effort."""
        ...

    def build(self, xb: F32, folder: Path, params: Params, threads: int) -> None:
        """Index xb float32 [n, d] and leave in `folder` (there, empty) all that `open` needs."""
        ...

    def open(self, folder: Path, params: Params, threads: int) -> None:
        """Get ready to search with that many threads."""
        ...

    def searcher(self, k: int, effort: Params) -> Search:
        """The search at one setting. Each call of what it returns is timed; setting it up is not."""
        ...


_MEMBERS = ("kind", "packages", "builds", "efforts", "build", "open", "searcher")

ENGINES = {
    "flat": "bench.recall_latency.engines.ours:Flat",
    "hnsw": "bench.recall_latency.engines.ours:Hnsw",
    "ivfpq": "bench.recall_latency.engines.ours:Ivfpq",
    "hnswlib": "bench.recall_latency.engines.hnswlib:Hnswlib",
    "faiss-hnsw": "bench.recall_latency.engines.faiss:FaissHnsw",
    "faiss-ivfpq": "bench.recall_latency.engines.faiss:FaissIvfpq",
    "faiss-rabitq": "bench.recall_latency.engines.faiss:FaissRabitq",
    "scann": "bench.recall_latency.engines.scann:Scann",
    "usearch": "bench.recall_latency.engines.usearch:Usearch",
    "svs": "bench.recall_latency.engines.svs:Svs",
    "symphonyqg": "bench.recall_latency.engines.rabitq:SymphonyQg",
    "qdrant-edge": "bench.recall_latency.engines.qdrant:QdrantEdge",
    "qdrant-edge-4bit": "bench.recall_latency.engines.qdrant:QdrantEdge4Bit",
    "zvec": "bench.recall_latency.engines.zvec:Zvec",
    "lancedb": "bench.recall_latency.engines.lancedb:LanceDb",
    "chroma": "bench.recall_latency.engines.chroma:Chroma",
    "milvus-lite": "bench.recall_latency.engines.milvus:MilvusLite",
}


def engine_class(name: str) -> type[Engine]:
    """The adapter of a listed engine, or of `module:Class` for one's own. InvalidParams when there is none."""
    module, _, attribute = ENGINES.get(name, name).partition(":")
    if not attribute:
        raise InvalidParams(
            f"engine {name!r} is not known: choose from {', '.join(ENGINES)}, or write module:Class for your own"
        )
    try:
        found: type[Engine] = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InvalidParams(f"engine {name!r} cannot be loaded: {error}") from None
    lacking = [member for member in _MEMBERS if not hasattr(found, member)]
    if lacking:
        raise InvalidParams(f"engine {name!r} has no {lacking[0]}: an adapter has what `Engine` has")
    return found


def versions(engine: type[Engine]) -> dict[str, str]:
    """Versions of the engine's packages; one that is not installed is left out."""
    found = {}
    for package in (*engine.packages, "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def one_of(name: str, values: Sequence[float]) -> list[Params]:
    """An effort for each value of one parameter."""
    return [{name: value} for value in values]


def pools(name: str, k: int) -> list[Params]:
    """Candidate pools of a graph search at k, from k to a small multiple of it, the same close ones for all engines."""
    steps = {
        10: (10, 14, 20, 27, 35, 45, 60, 80, 100, 130, 160),
        100: (100, 110, 120, 130, 150, 170, 190, 210, 250, 300, 450, 700),
        1000: (1_000, 1_150, 1_300, 1_600, 2_000, 3_000),
    }
    return one_of(name, steps.get(k) or sorted({round(k * factor) for factor in (1, 1.5, 2.5, 4)}))


def one_by_one(ids_of: Callable[[F32], Iterable[int]], k: int, threads: int) -> Search:
    """The search of an engine that takes one query [d] a call: a batch goes through a pool of `threads` callers."""
    pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def search(xq: F32) -> AnyArray:
        run = pool.map if pool is not None and len(xq) > 1 else map
        return padded(run(ids_of, xq), k)

    return search


def padded(lists: Iterable[Iterable[int]], k: int) -> I64:
    """Ids int64 [q, k] of ragged answers, -1 where one is short; ids beyond k stay away."""
    rows = []
    for line in lists:
        ids = list(line)[:k]
        rows.append(ids + [-1] * (k - len(ids)))
    return np.array(rows, np.int64).reshape(len(rows), k)
