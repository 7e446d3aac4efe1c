"""SVS: the Vamana graph (Subramanya et al. 2019) over two-level 4+8-bit LVQ codes (Aguerrebere et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from bench.recall_latency.engines.interface import Kind, Params, Search, pools
from retrieval.types import F32, AnyArray


class Svs:
    """Vamana under inner product; window size is state of the index, so it is set outside the clock."""

    kind: ClassVar[Kind] = Kind.LIBRARY
    packages: ClassVar[tuple[str, ...]] = ("scalable-vs",)
    builds: ClassVar[tuple[Params, ...]] = ({"degree": 32, "window": 200, "lvq": [4, 8]},)

    @staticmethod
    def efforts(k: int) -> Sequence[Params]:
        """Search windows."""
        return pools("window", k)

    def build(self, xb: F32, folder: Path, params: Params, threads: int) -> None:
        """Compress, then build the graph over the codes."""
        import svs

        raw = folder / "raw.fvecs"
        svs.write_vecs(np.ascontiguousarray(xb), str(raw))
        primary, residual = params["lvq"]
        loader = svs.LVQLoader(
            svs.VectorDataLoader(str(raw), svs.DataType.float32, xb.shape[1]), primary=primary, residual=residual
        )
        graph = svs.VamanaBuildParameters(alpha=0.95, graph_max_degree=params["degree"], window_size=params["window"])
        index = svs.Vamana.build(graph, loader, svs.DistanceType.MIP, num_threads=threads)
        index.save(*(str(folder / part) for part in ("config", "graph", "data")))
        raw.unlink()  # the codes are what is searched

    def open(self, folder: Path, params: Params, threads: int) -> None:
        """Load graph and codes into memory."""
        import svs

        self._index = svs.Vamana(
            str(folder / "config"),
            svs.GraphLoader(str(folder / "graph")),
            svs.LVQLoader(str(folder / "data")),
            svs.DistanceType.MIP,
            num_threads=threads,
        )

    def searcher(self, k: int, effort: Params) -> Search:
        """search with a window."""
        import svs

        index = self._index
        parameters = index.search_parameters
        parameters.buffer_config = svs.SearchBufferConfig(effort["window"])
        index.search_parameters = parameters

        def search(xq: F32) -> AnyArray:
            found: AnyArray = index.search(xq, k)[0]
            return found

        return search
