"""hnswlib: the graph of its authors (Malkov and Yashunin, 2016), float32 vectors inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from bench.recall_latency.engines.interface import Kind, Params, Search, pools
from retrieval.types import F32, AnyArray


class Hnswlib:
    """Inner product over unit vectors; ef is state of the index, so it is set outside the clock."""

    kind: ClassVar[Kind] = Kind.LIBRARY
    packages: ClassVar[tuple[str, ...]] = ("hnswlib",)
    builds: ClassVar[tuple[Params, ...]] = ({"m": 16, "ef_construction": 200}, {"m": 24, "ef_construction": 200})

    @staticmethod
    def efforts(k: int) -> Sequence[Params]:
        """Pools."""
        return pools("ef", k)

    def build(self, xb: F32, folder: Path, params: Params, threads: int) -> None:
        """Add all rows at once."""
        import hnswlib

        n, d = xb.shape
        index = hnswlib.Index("ip", d)
        index.init_index(n, M=params["m"], ef_construction=params["ef_construction"], random_seed=1)
        index.add_items(xb, num_threads=threads)
        index.save_index(str(folder / "graph.bin"))
        (folder / "d").write_text(str(d))

    def open(self, folder: Path, params: Params, threads: int) -> None:
        """Load the file."""
        import hnswlib

        self._index = hnswlib.Index("ip", int((folder / "d").read_text()))
        self._index.load_index(str(folder / "graph.bin"))
        self._threads = threads

    def searcher(self, k: int, effort: Params) -> Search:
        """knn_query."""
        index, threads = self._index, self._threads
        index.set_ef(effort["ef"])

        def search(xq: F32) -> AnyArray:
            found: AnyArray = index.knn_query(xq, k=k, num_threads=threads)[0]
            return found

        return search
