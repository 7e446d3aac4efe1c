"""ScaNN: partitions with spilling to a second one (SOAR, Sun et al. 2023), anisotropic 4-bit codes, reordering."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from bench.recall_latency.engines.interface import Kind, Params, Search
from retrieval.types import F32, AnyArray


class Scann:
    """One searcher; threads of a batch are a pool of its own, single queries use one."""

    kind: ClassVar[Kind] = Kind.LIBRARY
    packages: ClassVar[tuple[str, ...]] = ("scann",)
    builds: ClassVar[tuple[Params, ...]] = ({"soar": True},)

    @staticmethod
    def efforts(k: int) -> Sequence[Params]:
        """Leaves searched, and candidates reordered exactly."""
        return [{"leaves": leaves, "reorder": 3 * k} for leaves in (8, 16, 32, 64, 128)] + [
            {"leaves": leaves, "reorder": 6 * k} for leaves in (128, 256)
        ]

    def build(self, xb: F32, folder: Path, params: Params, threads: int) -> None:
        """The library's recommended tree of 2 sqrt(n) leaves, two dimensions a code."""
        from scann import scann_ops_pybind

        n = len(xb)
        builder = scann_ops_pybind.builder(xb, 10, "dot_product").set_n_training_threads(threads)
        builder = builder.tree(
            num_leaves=max(2, round(2 * math.sqrt(n))),
            num_leaves_to_search=32,
            training_sample_size=min(n, 250_000),
            soar_lambda=1.5 if params["soar"] else None,
        )
        builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100)
        builder.build().serialize(str(folder), relative_path=True)

    def open(self, folder: Path, params: Params, threads: int) -> None:
        """Load all of it into memory."""
        from scann import scann_ops_pybind

        self._index = scann_ops_pybind.load_searcher(str(folder))
        self._index.set_num_threads(threads)
        self._threads = threads

    def searcher(self, k: int, effort: Params) -> Search:
        """search for one query, search_batched for several."""
        index, threads = self._index, self._threads
        options = {"leaves_to_search": effort["leaves"], "pre_reorder_num_neighbors": effort["reorder"]}

        def search(xq: F32) -> AnyArray:
            if len(xq) == 1:
                found: AnyArray = index.search(xq[0], final_num_neighbors=k, **options)[0][None]
            elif threads == 1:
                found = index.search_batched(xq, final_num_neighbors=k, **options)[0]
            else:
                found = index.search_batched_parallel(xq, final_num_neighbors=k, **options)[0]
            return found

        return search
