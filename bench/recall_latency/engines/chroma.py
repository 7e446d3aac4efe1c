"""Chroma: documents in SQLite with an HNSW index beside them, in the process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from bench.recall_latency.engines.interface import Kind, Params, Search, padded, pools
from retrieval.types import F32, AnyArray

_BLOCK = 5_000  # rows of one add; the client takes no more than 5,461


class Chroma:
    """One collection, ids are row numbers as text; ef_search is state of it, so it is set outside the clock."""

    kind: ClassVar[Kind] = Kind.SYSTEM
    packages: ClassVar[tuple[str, ...]] = ("chromadb",)
    builds: ClassVar[tuple[Params, ...]] = ({"max_neighbors": 16, "ef_construction": 200},)

    @staticmethod
    def efforts(k: int) -> Sequence[Params]:
        """Pools."""
        return pools("ef_search", k)

    def build(self, xb: F32, folder: Path, params: Params, threads: int) -> None:
        """Add blocks of rows."""
        graph = {"space": "ip", "num_threads": threads, **params}
        collection = _client(folder).create_collection(
            "rows", metadata={"d": xb.shape[1]}, configuration={"hnsw": graph}, embedding_function=None
        )
        for start in range(0, len(xb), _BLOCK):
            block = xb[start : start + _BLOCK]
            collection.add(ids=[str(row) for row in range(start, start + len(block))], embeddings=block)

    def open(self, folder: Path, params: Params, threads: int) -> None:
        """Open the collection; the index itself is read at the first query."""
        self._folder = folder
        self._collection: Any = _client(folder).get_collection("rows", embedding_function=None)

    def searcher(self, k: int, effort: Params) -> Search:
        """query with no documents or distances in the answer."""
        _client(self._folder).get_collection("rows", embedding_function=None).modify(
            configuration={"hnsw": dict(effort)}
        )
        self.open(self._folder, {}, 0)  # an index that is open keeps the ef_search it was opened with
        collection = self._collection
        collection.query(query_embeddings=[[0.0] * collection.metadata["d"]], n_results=1, include=[])

        def search(xq: F32) -> AnyArray:
            answer = collection.query(query_embeddings=xq, n_results=k, include=[])
            return padded([[int(text) for text in ids] for ids in answer["ids"]], k)

        return search


def _client(folder: Path) -> Any:
    import chromadb
    from chromadb.api.shared_system_client import SharedSystemClient

    SharedSystemClient.clear_system_cache()
    return chromadb.PersistentClient(str(folder), chromadb.Settings(anonymized_telemetry=False))
