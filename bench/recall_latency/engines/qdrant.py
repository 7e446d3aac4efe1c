"""Qdrant Edge: Qdrant's storage and search in the process, full vectors or TurboQuant 4-bit codes and rescoring."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from bench.recall_latency.engines.interface import Kind, Params, Search, padded, pools
from retrieval.types import F32, AnyArray

_BLOCK = 2_000  # points of one update


class QdrantEdge:
    """One shard, one segment; a batch goes through query_batch."""

    kind: ClassVar[Kind] = Kind.SYSTEM
    packages: ClassVar[tuple[str, ...]] = ("qdrant-edge-py",)
    builds: ClassVar[tuple[Params, ...]] = ({"m": 16, "ef_construct": 200},)

    @staticmethod
    def efforts(k: int) -> Sequence[Params]:
        """Pools."""
        return pools("ef", k)

    @staticmethod
    def _codes() -> Any:
        """The configuration of compressed vectors; none here."""
        return None

    def build(self, xb: F32, folder: Path, params: Params, threads: int) -> None:
        """Upsert blocks of points, then let the optimiser build the graph."""
        import qdrant_edge as q

        config = q.EdgeConfig(
            vectors=q.EdgeVectorParams(size=xb.shape[1], distance=q.Distance.Dot),
            hnsw_config=q.HnswIndexConfig(
                m=params["m"], ef_construct=params["ef_construct"], full_scan_threshold=10, max_indexing_threads=threads
            ),
            quantization_config=self._codes(),
            optimizers=q.EdgeOptimizersConfig(default_segment_number=1, indexing_threshold=1),
        )
        (folder / "shard").mkdir()
        shard = q.EdgeShard.create(str(folder / "shard"), config)
        for start in range(0, len(xb), _BLOCK):
            block = xb[start : start + _BLOCK].tolist()
            points = [q.Point(start + row, vector) for row, vector in enumerate(block)]
            shard.update(q.UpdateOperation.upsert_points(points))
        while shard.optimize():
            pass
        shard.flush()
        shard.close()

    def open(self, folder: Path, params: Params, threads: int) -> None:
        """Load the shard."""
        import qdrant_edge as q

        self._shard: Any = q.EdgeShard.load(str(folder / "shard"))

    def searcher(self, k: int, effort: Params) -> Search:
        """query for one, query_batch for several."""
        import qdrant_edge as q

        shard = self._shard
        factor = effort.get("oversampling")
        codes = None if factor is None else q.QuantizationSearchParams(rescore=True, oversampling=factor)
        params = q.SearchParams(hnsw_ef=effort["ef"], quantization=codes)

        def request(vector: F32) -> Any:
            return q.QueryRequest(limit=k, query=q.Query.Nearest(vector.tolist()), params=params)

        def search(xq: F32) -> AnyArray:
            if len(xq) == 1:
                return padded([[point.id for point in shard.query(request(xq[0]))]], k)
            answers = shard.query_batch(q.QueryBatchRequest([request(vector) for vector in xq]))
            return padded([[point.id for point in answer] for answer in answers], k)

        return search


class QdrantEdge4Bit(QdrantEdge):
    """TurboQuant codes of 4 bits in memory steer the walk; `oversampling` times k candidates are scored again."""

    @staticmethod
    def efforts(k: int) -> Sequence[Params]:
        """Pools, with no more candidates than answers and with half as many again."""
        narrow = [{**effort, "oversampling": 1.0} for effort in pools("ef", k)]
        return narrow + [{**effort, "oversampling": 1.5} for effort in pools("ef", k)[2::2]]

    @staticmethod
    def _codes() -> Any:
        import qdrant_edge as q

        return q.TurboQuantQuantizationConfig(always_ram=True, bits=q.TurboQuantBitSize.Bits4)
