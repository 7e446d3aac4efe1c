"""Our own kinds: one shard, written and opened as a build and a server do, searched through the same reader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from bench.recall_latency.engines.interface import Kind, Params, Search, pools
from index_builders import flat, hnsw, ivfpq
from retrieval.indexes import ShardIndex, open_index
from retrieval.params import SEARCH_PARAMS, FlatBuild, HnswBuild, IvfpqBuild, make_params
from retrieval.types import F32, I64, IndexKind, Metric

_ORDER = "order.npy"
_SEED = 1
_POINTS_PER_LIST = 78  # training rows for each list, as `retrieval build` samples them


class _Shard:
    kind: ClassVar[Kind] = Kind.OURS
    packages: ClassVar[tuple[str, ...]] = ("retrieval",)
    index_kind: ClassVar[IndexKind]

    def open(self, folder: Path, params: Params, threads: int) -> None:
        """Map the shard; what its rows are in the data comes last, and -1 (no row) finds the last entry."""
        self._index: ShardIndex = open_index(self.index_kind, folder)
        self._ids: I64 = np.append(np.load(folder / _ORDER), -1)
        self._threads = threads

    def searcher(self, k: int, effort: Params) -> Search:
        """Search, then rows of the shard as rows of the data."""
        index, ids, threads = self._index, self._ids, self._threads
        params = make_params(SEARCH_PARAMS[self.index_kind], dict(effort))
        return lambda xq: ids[index.search(xq, k, params, threads=threads).rows]


class Flat(_Shard):
    """Exact search over float16 vectors."""

    index_kind = IndexKind.FLAT
    builds: ClassVar[tuple[Params, ...]] = ({},)

    @staticmethod
    def efforts(k: int) -> Sequence[Params]:
        """Exact search has none to choose."""
        return [{}]

    def build(self, xb: F32, folder: Path, params: Params, threads: int) -> None:
        """Write the shard."""
        built = make_params(FlatBuild, dict(params))
        report = flat.build_shard(xb, folder, params=built, metric=Metric.COSINE, seed=_SEED, threads=threads)
        np.save(folder / _ORDER, np.asarray(report["order"]))


class Hnsw(_Shard):
    """The graph with quantised codes."""

    index_kind = IndexKind.HNSW
    builds: ClassVar[tuple[Params, ...]] = ({"m": 24, "ef_construction": 200}, {"m": 16, "ef_construction": 200})

    @staticmethod
    def efforts(k: int) -> Sequence[Params]:
        """Pools."""
        return pools("ef", k)

    def build(self, xb: F32, folder: Path, params: Params, threads: int) -> None:
        """Write the shard."""
        built = make_params(HnswBuild, dict(params))
        report = hnsw.build_shard(xb, folder, params=built, metric=Metric.COSINE, seed=_SEED, threads=threads)
        np.save(folder / _ORDER, np.asarray(report["order"]))


class Ivfpq(_Shard):
    """Inverted lists with 4-bit codes and exact rescoring."""

    index_kind = IndexKind.IVFPQ
    builds: ClassVar[tuple[Params, ...]] = ({},)

    @staticmethod
    def efforts(k: int) -> Sequence[Params]:
        """Lists visited, and candidates rescored."""
        return [{"nprobe": nprobe, "rescore": max(4 * k, 100)} for nprobe in (8, 16, 32, 64, 128)] + [
            {"nprobe": nprobe, "rescore": max(8 * k, 200)} for nprobe in (128, 256)
        ]

    def build(self, xb: F32, folder: Path, params: Params, threads: int) -> None:
        """Train on a seeded sample, then write the shard."""
        n, d = xb.shape
        built = ivfpq.resolve(make_params(IvfpqBuild, dict(params)), rows=n, shards=1, d=d)
        size = min(n, max(_POINTS_PER_LIST * built.nlist, 10_000), built.train_rows)
        sample = xb[np.sort(np.random.default_rng(_SEED).permutation(n)[:size])]
        options = {"params": built, "metric": Metric.COSINE, "seed": _SEED, "threads": threads}
        trained = ivfpq.train(sample, folder, **options)  # type: ignore[arg-type]
        report = ivfpq.build_shard(xb, folder, trained=trained, **options)  # type: ignore[arg-type]
        np.save(folder / _ORDER, np.asarray(report["order"]))
