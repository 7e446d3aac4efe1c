"""rabitqlib: SymphonyQG (Gou et al. 2025), a graph whose edges carry RaBitQ codes of its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from bench.recall_latency.engines.interface import Kind, Params, Search, one_of
from retrieval.types import F32, AnyArray

_FILE = "index.rabitq"


class SymphonyQg:
    """A quantised graph with exact distances of the rows it visits."""

    kind: ClassVar[Kind] = Kind.LIBRARY
    packages: ClassVar[tuple[str, ...]] = ("rabitqlib",)
    builds: ClassVar[tuple[Params, ...]] = (
        {"degree": 32, "ef_construction": 200},
        {"degree": 64, "ef_construction": 200},
    )

    @staticmethod
    def efforts(k: int) -> Sequence[Params]:
        """Pools, larger than of other graphs: short codes steer the walk. Close ones where it is the next to ours."""
        return one_of("ef", sorted({round(factor * k) for factor in (1.2, 1.6, 2, 2.3, 2.6, 3, 3.5, 4, 5, 7, 10)}))

    def build(self, xb: F32, folder: Path, params: Params, threads: int) -> None:
        """Unit vectors under L2, which orders them as the cosine does."""
        from rabitqlib import SymqgIndex

        index = SymqgIndex(xb.shape[1], params["degree"], metric="l2")
        index.build(xb, params["ef_construction"], num_threads=threads)
        index.save(str(folder / _FILE))

    def open(self, folder: Path, params: Params, threads: int) -> None:
        """Load the file."""
        from rabitqlib import SymqgIndex

        self._index: Any = SymqgIndex.load(str(folder / _FILE))
        self._threads = threads

    def searcher(self, k: int, effort: Params) -> Search:
        """search for one query, search_batch for several."""
        index, threads, ef = self._index, self._threads, effort["ef"]

        def search(xq: F32) -> AnyArray:
            run = index.search if len(xq) == 1 else index.search_batch
            found: AnyArray = run(xq, k, ef, num_threads=threads)[0]
            return found

        return search
