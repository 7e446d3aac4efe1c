"""Milvus Lite: Milvus' interface over gRPC to a server of threads in the same process, HNSW inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from bench.recall_latency.engines.interface import Kind, Params, Search, padded, pools
from retrieval.types import F32, AnyArray

_BLOCK = 5_000  # rows of one insert
_NAME = "rows"


class MilvusLite:
    """One collection with int64 ids."""

    kind: ClassVar[Kind] = Kind.SYSTEM
    packages: ClassVar[tuple[str, ...]] = ("milvus-lite", "pymilvus")
    builds: ClassVar[tuple[Params, ...]] = ({"M": 16, "efConstruction": 200},)

    @staticmethod
    def efforts(k: int) -> Sequence[Params]:
        """Pools."""
        return pools("ef", k)

    def build(self, xb: F32, folder: Path, params: Params, threads: int) -> None:
        """Insert blocks of rows, flush, then build the index."""
        from pymilvus import DataType, MilvusClient

        client = MilvusClient(str(folder / "milvus.db"))
        schema = client.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=xb.shape[1])
        index = client.prepare_index_params()
        index.add_index("vector", index_type="HNSW", metric_type="IP", params=dict(params))
        client.create_collection(_NAME, schema=schema)
        for start in range(0, len(xb), _BLOCK):
            block = xb[start : start + _BLOCK].tolist()
            client.insert(_NAME, [{"id": start + row, "vector": vector} for row, vector in enumerate(block)])
        client.flush(_NAME)
        client.create_index(_NAME, index)
        client.load_collection(_NAME)
        client.close()

    def open(self, folder: Path, params: Params, threads: int) -> None:
        """Start the server and load the collection."""
        from pymilvus import MilvusClient

        self._client: Any = MilvusClient(str(folder / "milvus.db"))
        self._client.load_collection(_NAME)

    def searcher(self, k: int, effort: Params) -> Search:
        """search; a batch is one call."""
        client = self._client
        options = {"metric_type": "IP", "params": dict(effort)}

        def search(xq: F32) -> AnyArray:
            answers = client.search(_NAME, xq.tolist(), anns_field="vector", limit=k, search_params=options)
            return padded([[hit["id"] for hit in answer] for answer in answers], k)

        return search
