"""The IVF-PQ index: faiss scans compressed codes of the nearest inverted lists, exact scores come from the vectors.

A shard directory holds index.json, index.faiss and vectors.npy (float16 or float32 [n, d], mapped). Row r of all of
them is the same entity. The quantised distances only choose candidates; what is answered has been scored again on the
stored vectors. Search parameters and the filter go with each call, so one index serves any number of threads. Knows
nothing about how it was built (`index_builders.ivfpq`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from retrieval import kernel
from retrieval.errors import DamagedData, InvalidParams, MissingDependency
from retrieval.indexes.arrays import VECTORS, Description, open_array, read_at_random, read_description
from retrieval.params import MAX_DIM, IvfpqSearch, SearchParams
from retrieval.types import F16, F32, I32, I64, NO_ROW, U8, IndexKind, Metric, Neighbors

# absent, it is asked for by `IvfpqIndex.open`; Any, since the types that faiss ships do not know its search parameters
faiss: Any = import_module("faiss") if find_spec("faiss") else None

FORMAT, VERSION = "retrieval.ivfpq", 1
INDEX_FILE = "index.faiss"
# Rows scanned exactly that cost as much as one candidate, and (2/5) as one code (200,000 x 256: a scan of 13,000 rows
# takes as long as 128 of 894 lists and 400 candidates).
SCAN_FACTOR = 4
_WIDEN = 4  # how much further a search looks each time its answer is short


class IvfpqDescription(Description):
    """index.json of an IVF-PQ shard."""

    n: int = Field(ge=1, lt=2**31)
    d: int = Field(ge=1, le=MAX_DIM)
    metric: Literal["cosine", "ip", "l2"]
    vectors: Literal["float16", "float32"]
    nlist: int = Field(ge=1)
    pq_dims: int = Field(ge=1)
    pq_bits: int = Field(ge=4, le=8)


@dataclass(frozen=True, kw_only=True)
class Trace:
    """How a search meets one row; ranks count from 1, and approximate_rank is None where its list was not visited."""

    list_rank: int
    nprobe: int
    approximate_rank: int | None
    pool: int


class IvfpqIndex:
    """An opened IVF-PQ shard; see `retrieval.indexes.interface.ShardIndex`."""

    kind = IndexKind.IVFPQ

    def __init__(self, index: Any, list_sizes: I64, vectors: F16 | F32, metric: Metric) -> None:
        self.n: int
        self.d: int
        self.n, self.d = vectors.shape
        self.metric = metric
        self._index, self._list_sizes, self._vectors = index, list_sizes, vectors
        self.nlist = len(list_sizes)

    @classmethod
    def open(cls, path: Path) -> IvfpqIndex:
        """Open the shard directory `path`; DamagedData when its files do not hold together.

        Raises MissingDependency when faiss is not installed.
        """
        if faiss is None:
            raise MissingDependency(
                f"{path} is an IVF-PQ shard, which needs faiss: pip install 'retrieval[cpu]' or 'retrieval[gpu]'"
            )
        description = read_description(path, IvfpqDescription, FORMAT, VERSION)
        vectors = open_array(path, VECTORS, description.vectors, (description.n, description.d))
        read_at_random(vectors)
        file = path / INDEX_FILE
        try:
            index = faiss.read_index(str(file))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise DamagedData(f"{file} is not an index that faiss can read: {reason}") from None
        return cls(index, _check(index, description, file), vectors, Metric(description.metric))

    def search(self, xq: F32, k: int, params: SearchParams, *, allow: U8 | None = None, threads: int = 1) -> Neighbors:
        """Nearest rows among the allowed ones, with exact scores.

        Few allowed rows are scanned exactly where that is cheaper. A query whose lists hold fewer than min(k, allowed)
        rows looks into more lists, in the end into all. work counts "codes" (compressed rows of the visited lists),
        "distances" (exact scores) and "scans" (queries answered by a scan).
        """
        if not isinstance(params, IvfpqSearch):
            raise InvalidParams(f"an IVF-PQ shard takes IvfpqSearch, not {type(params).__name__}")
        xq = np.ascontiguousarray(xq, dtype=np.float32)
        eligible = self.n if allow is None else kernel.count_rows(self.n, allow=allow)
        if allow is not None and eligible <= self._scan_limit(k, params):
            return self._scan(xq, k, allow, threads)
        wanted, nprobe, pool = min(k, eligible), self._start(params, eligible), min(self.n, max(k, params.rescore))
        rows, scores, work = self._probe(xq, k, nprobe, pool, allow, threads)
        short = np.flatnonzero(rows[:, wanted - 1] == NO_ROW) if wanted else np.empty(0, np.int64)
        while len(short) and nprobe < self.nlist:
            nprobe = min(self.nlist, nprobe * _WIDEN)
            rows[short], scores[short], more = self._probe(xq[short], k, nprobe, pool, allow, threads)
            work = {name: count + more[name] for name, count in work.items()}
            short = short[rows[short, wanted - 1] == NO_ROW]
        if len(short):
            scanned = self._scan(xq[short], k, allow, threads)
            rows[short], scores[short] = scanned.rows, scanned.scores
            work = {name: count + scanned.work[name] for name, count in work.items()}
        return Neighbors(rows=rows, scores=scores, work=work)

    def score(self, xq: F32, rows: I32) -> F32:
        """Exact scores float32 [q, r] of the rows int32 [q, r]; -inf where a row is NO_ROW."""
        return kernel.score(self._vectors, xq, rows, self.metric)

    def trace(self, xq: F32, row: int, k: int, params: IvfpqSearch, *, allow: U8 | None = None) -> Trace | None:
        """How `search` for one query [1, d] meets an allowed row; None where it scans all allowed rows instead."""
        eligible = self.n if allow is None else kernel.count_rows(self.n, allow=allow)
        if allow is not None and eligible <= self._scan_limit(k, params):
            return None
        wanted, pool = min(k, eligible), min(self.n, max(k, params.rescore))
        nprobe = self._start(params, eligible)
        while self._probe(xq, k, nprobe, pool, allow, 1)[0][0, wanted - 1] == NO_ROW:
            if nprobe == self.nlist:
                return None
            nprobe = min(self.nlist, nprobe * _WIDEN)
        _, order = self._index.quantizer.search(xq, self.nlist)
        rank = 1 + next(place for place, number in enumerate(order[0]) if self._lists_row(int(number), row))
        candidates = self._candidates(xq, nprobe, self.n, allow, 1)[0][0]
        place = np.flatnonzero(candidates == row)
        return Trace(
            list_rank=rank, nprobe=nprobe, approximate_rank=int(place[0]) + 1 if place.size else None, pool=pool
        )

    def _lists_row(self, number: int, row: int) -> bool:
        size = int(self._list_sizes[number])
        return size > 0 and bool((faiss.rev_swig_ptr(self._index.invlists.get_ids(number), size) == row).any())

    def _scan_limit(self, k: int, params: IvfpqSearch) -> int:
        # that many exact scores cost what the search would spend on its candidates and codes
        codes: int = params.nprobe * self.n // self.nlist
        return SCAN_FACTOR * max(k, params.rescore) + min(self.n, codes) * 2 // 5

    def _start(self, params: IvfpqSearch, eligible: int) -> int:
        """Lists visited at first: more, the fewer rows are allowed, since the k best of those lie further away.

        The fourth root holds recall@100 level from all rows to a twentieth of them, below which a scan takes over
        (200,000 x 256 of 894 lists: 0.953 by 128 lists at a half, 0.983 by 256 at a tenth, 0.968 at a twentieth).
        """
        growth: float = (self.n / max(eligible, 1)) ** 0.25
        return min(self.nlist, math.ceil(params.nprobe * growth))

    def _probe(
        self, xq: F32, k: int, nprobe: int, pool: int, allow: U8 | None, threads: int
    ) -> tuple[I32, F32, dict[str, int]]:
        candidates, lists = self._candidates(xq, nprobe, pool, allow, threads)
        rows, scores = kernel.rescore(self._vectors, xq, candidates, k, self.metric, threads=threads)
        codes = int(self._list_sizes[lists].sum())
        return rows, scores, {"codes": codes, "distances": int(np.count_nonzero(candidates >= 0)), "scans": 0}

    def _candidates(self, xq: F32, nprobe: int, pool: int, allow: U8 | None, threads: int) -> tuple[I32, I64]:
        """The best rows int32 [q, pool] by their codes, best first, and the lists int64 [q, nprobe] they are from."""
        q = len(xq)
        if allow is None:
            params = _parameters(nprobe)
        else:
            params = faiss.SearchParametersIVF(nprobe=nprobe, sel=faiss.IDSelectorBitmap(np.ascontiguousarray(allow)))
        lists, distances = np.empty((q, nprobe), dtype=np.int64), np.empty((q, nprobe), dtype=np.float32)
        labels, unused = np.empty((q, pool), dtype=np.int64), np.empty((q, pool), dtype=np.float32)
        ptr = faiss.swig_ptr
        before = faiss.omp_get_max_threads()
        # the setting belongs to the calling thread, and goes back to what it was
        faiss.omp_set_num_threads(threads)
        try:
            # Through the C++ signatures: the Python wrappers take no parameters for the second, and cost 20 us each.
            # In two steps, to know which lists were visited.
            self._index.quantizer.search_c(q, ptr(xq), nprobe, ptr(distances), ptr(lists))
            self._index.search_preassigned_c(
                q, ptr(xq), pool, ptr(lists), ptr(distances), ptr(unused), ptr(labels), False, params
            )
        finally:
            faiss.omp_set_num_threads(before)
        return labels.astype(np.int32), lists

    def _scan(self, xq: F32, k: int, allow: U8 | None, threads: int) -> Neighbors:
        rows, scores, distances = kernel.scan(self._vectors, xq, k, self.metric, allow=allow, threads=threads)
        return Neighbors(rows=rows, scores=scores, work={"codes": 0, "distances": distances, "scans": len(xq)})


@lru_cache(maxsize=64)
def _parameters(nprobe: int) -> Any:
    """Unfiltered search parameters, which faiss only reads: making them costs as much as a small search."""
    return faiss.SearchParametersIVF(nprobe=nprobe)


def _check(index: Any, described: IvfpqDescription, file: Path) -> I64:
    """Size int64 [nlist] of each list; DamagedData unless the index is the described one and holds each row once."""
    if not isinstance(index, faiss.IndexIVF):
        raise DamagedData(f"{file} holds a {type(index).__name__}, not inverted lists")
    faiss_metric = faiss.METRIC_INNER_PRODUCT if described.metric == "ip" else faiss.METRIC_L2
    found = (index.ntotal, index.d, index.nlist, index.metric_type, index.pq.nbits, index.d // index.pq.M)
    expected = (described.n, described.d, described.nlist, faiss_metric, described.pq_bits, described.pq_dims)
    if found != expected:
        raise DamagedData(
            f"{file} has (rows, dimensions, lists, metric, bits, dimensions per code) {found}, index.json says "
            f"{expected}"
        )
    sizes = np.array([index.invlists.list_size(i) for i in range(index.nlist)], dtype=np.int64)
    if sizes.sum() != described.n:
        raise DamagedData(f"the lists of {file} hold {sizes.sum()} rows, index.json says {described.n}")
    seen = np.zeros(described.n, dtype=np.bool_)
    for i in np.flatnonzero(sizes):
        ids = faiss.rev_swig_ptr(index.invlists.get_ids(int(i)), int(sizes[i]))
        if ids.min() < 0 or ids.max() >= described.n:
            raise DamagedData(f"list {i} of {file} names a row outside 0..{described.n - 1}")
        seen[ids] = True
    if not seen.all():
        raise DamagedData(f"the lists of {file} hold a row twice and leave out row {int(np.argmin(seen))}")
    return sizes
