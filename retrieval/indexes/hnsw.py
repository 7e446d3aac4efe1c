"""The graph index: a proximity graph (Malkov and Yashunin, 2016) over 8-bit codes, exact scores from the vectors.

A shard directory holds index.json and plain arrays, all memory-mapped and shared between processes:

    index.neighbors.npy        uint32 [n, width]       base layer, 0xffffffff after a row's last neighbour
    index.upper.rows.npy       uint32 [slots]          upper layers, layer 1 first (see `retrieval.kernel.Graph`)
    index.upper.down.npy       uint32 [slots]
    index.upper.neighbors.npy  uint32 [slots, upper_width]
    index.codes.npy            uint8 [n, w]            absent where codes would cost recall (see `kernel.Codes`)
    index.codes.scale.npy      float32 [n]             absent for unit vectors
    index.codes.bias.npy       float32 [n]             only for l2
    vectors.npy                float16 or float32 [n, d]

Everything the search trusts is checked at opening. Knows nothing about how it was built (`index_builders.hnsw`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from retrieval import kernel
from retrieval.errors import DamagedData, InvalidParams
from retrieval.indexes.arrays import VECTORS, Description, open_array, read_at_random, read_description
from retrieval.params import MAX_DIM, HnswSearch, SearchParams
from retrieval.types import F32, I32, I64, U8, IndexKind, Metric, Neighbors

FORMAT, VERSION = "retrieval.hnsw", 1
NEIGHBORS, CODES, SCALE, BIAS = (
    "index.neighbors.npy",
    "index.codes.npy",
    "index.codes.scale.npy",
    "index.codes.bias.npy",
)
UPPER_ROWS, UPPER_DOWN, UPPER_NEIGHBORS = "index.upper.rows.npy", "index.upper.down.npy", "index.upper.neighbors.npy"


class CodesDescription(BaseModel):
    """How the codes were made, and how many of their 8 bits a walk reads; error: largest |vector - code| in steps."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    walk_bits: Literal[4, 8]
    seed: int = Field(ge=0, lt=2**63)
    unit: bool
    error: float = Field(ge=0, le=1e30)


class HnswDescription(Description):
    """index.json of an HNSW shard."""

    n: int = Field(ge=1, lt=2**31)
    d: int = Field(ge=1, le=MAX_DIM)
    metric: Literal["cosine", "ip", "l2"]
    vectors: Literal["float16", "float32"]
    m: int = Field(ge=1, le=2_048)
    ef_construction: int = Field(ge=1)
    seed: int = Field(ge=0)
    width: int = Field(ge=1, le=4_096)
    upper_width: int = Field(ge=1, le=4_096)
    layer_first: list[int] = Field(min_length=1, max_length=65)
    entry: int = Field(ge=0, lt=2**32 - 1)
    codes: CodesDescription | None


class HnswIndex:
    """An opened HNSW shard; see `retrieval.indexes.interface.ShardIndex`."""

    kind = IndexKind.HNSW

    def __init__(self, path: Path, description: HnswDescription) -> None:
        a = description
        self.n, self.d = a.n, a.d
        self.metric = Metric(a.metric)
        self.has_codes = a.codes is not None
        self._vectors = open_array(path, VECTORS, a.vectors, (a.n, a.d))
        if self.has_codes:
            read_at_random(self._vectors)  # only the rows of an answer are read, so they may well stay on disk
        slots = a.layer_first[-1]
        if not 0 <= slots < 2**32 - 1:
            raise DamagedData(f"{path / 'index.json'}: layer_first ends with {slots}, which is no number of slots")
        try:
            self.graph = kernel.Graph(
                self._vectors,
                open_array(path, NEIGHBORS, np.uint32, (a.n, a.width)),
                open_array(path, UPPER_ROWS, np.uint32, (slots,)),
                open_array(path, UPPER_DOWN, np.uint32, (slots,)),
                open_array(path, UPPER_NEIGHBORS, np.uint32, (slots, a.upper_width)),
                a.layer_first,
                a.entry,
                self.metric,
                codes=self._open_codes(path, a.codes),
            )
        except DamagedData as error:
            raise DamagedData(f"{path}: {error}") from None

    @classmethod
    def open(cls, path: Path) -> HnswIndex:
        """Map the shard directory `path` and check it; DamagedData when it cannot be searched safely."""
        return cls(path, read_description(path, HnswDescription, FORMAT, VERSION))

    def _open_codes(self, path: Path, codes: CodesDescription | None) -> kernel.Codes | None:
        if codes is None:
            return None
        if codes.unit and self.metric is Metric.L2:
            raise DamagedData("codes of an l2 index say that they carry no norms")
        data = open_array(path, CODES, np.uint8, (self.n, kernel.code_width(self.d)))
        scale = None if codes.unit else open_array(path, SCALE, np.float32, (self.n,))
        bias = open_array(path, BIAS, np.float32, (self.n,)) if self.metric is Metric.L2 else None
        return kernel.Codes(data, scale, bias, codes.seed, codes.error, codes.walk_bits)

    def search(
        self,
        xq: F32,
        k: int,
        params: SearchParams,
        *,
        allow: U8 | None = None,
        deleted: U8 | None = None,
        threads: int = 1,
    ) -> Neighbors:
        """Nearest rows among the allowed and not deleted ones, with exact scores.

        The graph is walked unless scanning the eligible rows is cheaper (`kernel.scan_is_cheaper`), in which case the
        answer is exact. work counts "distances", "hops" and "scans" (queries answered by a scan).
        """
        if not isinstance(params, HnswSearch):
            raise InvalidParams(f"an HNSW shard takes HnswSearch, not {type(params).__name__}")
        scanned = False
        if allow is not None or deleted is not None:
            eligible = kernel.count_rows(self.n, allow=allow, deleted=deleted)
            scanned = kernel.scan_is_cheaper(self.n, eligible, max(k, params.ef))
        if scanned:
            rows, scores, distances, hops = self.graph.scan(xq, k, allow=allow, deleted=deleted, threads=threads)
        else:
            rows, scores, distances, hops = self.graph.search(
                xq, k, params.ef, max_distances=params.max_distances, allow=allow, deleted=deleted, threads=threads
            )
        work = {"distances": _total(distances), "hops": _total(hops), "scans": len(xq) if scanned else 0}
        return Neighbors(rows=rows, scores=scores, work=work)

    def score(self, xq: F32, rows: I32) -> F32:
        """Exact scores float32 [q, r] of the rows int32 [q, r]; -inf where a row is NO_ROW."""
        return kernel.score(self._vectors, xq, rows, self.metric)


def _total(counts: I64) -> int:
    return int(counts[0]) if len(counts) == 1 else int(counts.sum())  # sum() costs a microsecond
