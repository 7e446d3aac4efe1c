"""zvec: an embedded vector database with an HNSW index; a batch is a query after a query."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from bench.recall_latency.engines.interface import Kind, Params, Search, one_by_one, pools
from retrieval.types import F32

_BLOCK = 1_000  # documents of one insert: the most that it takes is 1,024


class Zvec:
    """One collection with a vector field; documents are named by their row."""

    kind: ClassVar[Kind] = Kind.SYSTEM
    packages: ClassVar[tuple[str, ...]] = ("zvec",)
    builds: ClassVar[tuple[Params, ...]] = ({"m": 16, "ef_construction": 200},)

    @staticmethod
    def efforts(k: int) -> Sequence[Params]:
        """Pools."""
        return pools("ef", k)

    def build(self, xb: F32, folder: Path, params: Params, threads: int) -> None:
        """Insert all documents, then merge the segments into one index."""
        import zvec

        zvec.init(log_level=zvec.LogLevel.ERROR, optimize_threads=threads)
        graph = zvec.HnswIndexParam(metric_type=zvec.MetricType.IP, **params)
        field = zvec.VectorSchema("vector", zvec.DataType.VECTOR_FP32, dimension=xb.shape[1], index_param=graph)
        collection = zvec.create_and_open(str(folder / "store"), zvec.CollectionSchema("rows", vectors=field))
        for start in range(0, len(xb), _BLOCK):
            block = xb[start : start + _BLOCK].tolist()
            collection.insert(
                [zvec.Doc(id=str(start + row), vectors={"vector": vector}) for row, vector in enumerate(block)]
            )
        collection.optimize(zvec.OptimizeOption(concurrency=threads))
        collection.flush()

    def open(self, folder: Path, params: Params, threads: int) -> None:
        """Open the collection."""
        import zvec

        zvec.init(log_level=zvec.LogLevel.ERROR, query_threads=threads)
        option = zvec.CollectionOption(read_only=True, enable_mmap=True)
        self._collection: Any = zvec.open(str(folder / "store"), option)
        self._threads = threads

    def searcher(self, k: int, effort: Params) -> Search:
        """query without fields or vectors in the answer."""
        import zvec

        collection, param = self._collection, zvec.HnswQueryParam(ef=effort["ef"])

        def ids_of(vector: F32) -> list[int]:
            query = zvec.Query(field_name="vector", vector=vector.tolist(), param=param)
            return [int(doc.id) for doc in collection.query(query, topk=k, output_fields=[])]

        return one_by_one(ids_of, k, self._threads)
