"""LanceDB: tables of columns with an IVF_HNSW_SQ index, vectors refined from the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.recall_latency.engines.interface import Kind, Params, Search, one_by_one
from retrieval.types import F32

_PARTITION_ROWS = 250_000


class LanceDb:
    """One table; a batch is a query after a query."""

    kind: ClassVar[Kind] = Kind.SYSTEM
    packages: ClassVar[tuple[str, ...]] = ("lancedb",)
    builds: ClassVar[tuple[Params, ...]] = ({"m": 20, "ef_construction": 200},)

    @staticmethod
    def efforts(k: int) -> Sequence[Params]:
        """Pools, and how many candidates are scored again for each answer."""
        return [{"ef": round(factor * k), "refine": 2} for factor in (2, 3, 5, 8)]

    def build(self, xb: F32, folder: Path, params: Params, threads: int) -> None:
        """Write the table, then its index."""
        import lancedb
        import pyarrow as pa

        vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(xb).reshape(-1)), xb.shape[1])
        rows = pa.table({"id": pa.array(np.arange(len(xb))), "vector": vectors})
        table = lancedb.connect(str(folder)).create_table("rows", rows)
        table.create_index(
            metric="dot",
            vector_column_name="vector",
            index_type="IVF_HNSW_SQ",
            num_partitions=max(1, len(xb) // _PARTITION_ROWS),
            **params,
        )

    def open(self, folder: Path, params: Params, threads: int) -> None:
        """Open the table."""
        import lancedb

        self._table: Any = lancedb.connect(str(folder)).open_table("rows")
        self._partitions = max(1, self._table.count_rows() // _PARTITION_ROWS)
        self._threads = threads

    def searcher(self, k: int, effort: Params) -> Search:
        """search over all partitions, ids alone in the answer."""
        table, partitions = self._table, self._partitions

        def ids_of(vector: F32) -> list[int]:
            query = table.search(vector).distance_type("dot").nprobes(partitions).ef(effort["ef"])
            answer = query.refine_factor(effort["refine"]).limit(k).select(["id", "_distance"]).to_arrow()
            ids: list[int] = answer.column("id").to_pylist()
            return ids

        return one_by_one(ids_of, k, self._threads)
