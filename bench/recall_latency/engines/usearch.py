"""usearch: a compact HNSW over float32 vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from bench.recall_latency.engines.interface import Kind, Params, Search, padded, pools
from retrieval.types import F32, AnyArray


class Usearch:
    """Index under inner product; expansion_search is state of the index, so it is set outside the clock."""

    kind: ClassVar[Kind] = Kind.LIBRARY
    packages: ClassVar[tuple[str, ...]] = ("usearch",)
    builds: ClassVar[tuple[Params, ...]] = ({"connectivity": 16, "expansion_add": 200},)

    @staticmethod
    def efforts(k: int) -> Sequence[Params]:
        """Pools."""
        return pools("expansion", k)

    def build(self, xb: F32, folder: Path, params: Params, threads: int) -> None:
        """Add all rows under their numbers."""
        from usearch.index import Index

        index = Index(ndim=xb.shape[1], metric="ip", dtype="f32", **params)
        index.add(np.arange(len(xb)), xb, threads=threads)
        index.save(str(folder / "graph.usearch"))

    def open(self, folder: Path, params: Params, threads: int) -> None:
        """Load the file into memory."""
        from usearch.index import Index

        self._index = Index.restore(str(folder / "graph.usearch"))
        self._threads = threads

    def searcher(self, k: int, effort: Params) -> Search:
        """search; a batch says how many answers each query has."""
        index, threads = self._index, self._threads
        index.expansion_search = effort["expansion"]

        def search(xq: F32) -> AnyArray:
            if len(xq) == 1:
                keys: AnyArray = index.search(xq[0], k, threads=1).keys
                return keys[None] if len(keys) == k else padded([keys.tolist()], k)
            found = index.search(xq, k, threads=threads)
            return np.where(np.arange(k) < np.asarray(found.counts)[:, None], found.keys.astype(np.int64), -1)

        return search
