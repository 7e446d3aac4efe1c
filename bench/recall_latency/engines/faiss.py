"""faiss: HNSW over float32, fast-scan IVF-PQ with an fp16 refine, and IVF-RaBitQ with the same refine.

Threads are those of OpenMP, set when an index is opened. RaBitQ: Gao and Long (2024).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.recall_latency.engines.interface import Kind, Params, Search, pools
from retrieval.types import F32, AnyArray

_FILE = "index.faiss"
_TRAIN_ROWS = 262_144


class _Faiss:
    kind: ClassVar[Kind] = Kind.LIBRARY
    packages: ClassVar[tuple[str, ...]] = ("faiss-cpu", "faiss-gpu")

    def open(self, folder: Path, params: Params, threads: int) -> None:
        """Read the file."""
        faiss = _library()
        faiss.omp_set_num_threads(threads)
        self._index: Any = faiss.read_index(str(folder / _FILE))

    def _search(self, k: int, parameters: Any) -> Search:
        index = self._index

        def search(xq: F32) -> AnyArray:
            found: AnyArray = index.search(xq, k, params=parameters)[1]
            return found

        return search


class FaissHnsw(_Faiss):
    """IndexHNSWFlat; unit vectors under L2, which orders them as the cosine does."""

    builds: ClassVar[tuple[Params, ...]] = ({"m": 16, "ef_construction": 200},)

    @staticmethod
    def efforts(k: int) -> Sequence[Params]:
        """Pools."""
        return pools("ef", k)

    def build(self, xb: F32, folder: Path, params: Params, threads: int) -> None:
        """Add all rows."""
        faiss = _library()
        faiss.omp_set_num_threads(threads)
        index = faiss.IndexHNSWFlat(xb.shape[1], params["m"])
        index.hnsw.efConstruction = params["ef_construction"]
        index.add(xb)
        faiss.write_index(index, str(folder / _FILE))

    def searcher(self, k: int, effort: Params) -> Search:
        """search with efSearch."""
        faiss = _library()
        return self._search(k, faiss.SearchParametersHNSW(efSearch=effort["ef"]))


class _Ivf(_Faiss):
    @staticmethod
    def codes(d: int) -> str:
        """What stands between the lists and the refine in the factory's string."""
        raise NotImplementedError

    def build(self, xb: F32, folder: Path, params: Params, threads: int) -> None:
        """2 sqrt(n) lists, trained on a seeded sample; `refine` candidates are scored again in fp16."""
        faiss = _library()
        faiss.omp_set_num_threads(threads)
        n, d = xb.shape
        nlist = max(1, min(round(2 * math.sqrt(n)), n // 39))
        index = faiss.index_factory(d, f"IVF{nlist},{self.codes(d)},Refine(SQfp16)", faiss.METRIC_L2)
        index.train(xb[np.sort(np.random.default_rng(1).permutation(n)[:_TRAIN_ROWS])])
        index.add(xb)
        faiss.write_index(index, str(folder / _FILE))

    def searcher(self, k: int, effort: Params) -> Search:
        """search with nprobe and the refine's factor."""
        faiss = _library()
        inner = self._inner(effort)
        return self._search(k, faiss.IndexRefineSearchParameters(k_factor=effort["refine"], base_index_params=inner))

    def _inner(self, effort: Params) -> Any:
        faiss = _library()
        return faiss.SearchParametersIVF(nprobe=effort["nprobe"])


class FaissIvfpq(_Ivf):
    """IVF, 4-bit codes of 2 dimensions scanned in registers, fp16 refine."""

    builds: ClassVar[tuple[Params, ...]] = ({},)

    @staticmethod
    def codes(d: int) -> str:
        """One code for two dimensions."""
        return f"PQ{d // 2 if d % 2 == 0 else d}x4fs"

    @staticmethod
    def efforts(k: int) -> Sequence[Params]:
        """Lists visited, and candidates refined for each answer."""
        return _lists((8, 16, 32, 64, 128), 4) + _lists((128, 256), 8)


class FaissRabitq(_Ivf):
    """IVF, 1-bit RaBitQ codes in fast-scan layout, fp16 refine."""

    builds: ClassVar[tuple[Params, ...]] = ({},)

    @staticmethod
    def codes(d: int) -> str:
        """Fast-scan blocks of 32 rows."""
        return "RaBitQfs"

    @staticmethod
    def efforts(k: int) -> Sequence[Params]:
        """Lists visited, and candidates refined for each answer."""
        return _lists((8, 16, 32, 64, 128), 6) + _lists((128, 256), 12)


def _lists(nprobes: Sequence[int], refine: int) -> list[Params]:
    return [{"nprobe": nprobe, "refine": refine} for nprobe in nprobes]


def _library() -> Any:
    return import_module("faiss")  # Any, since the types that it ships do not know its search parameters
