"""The exact index: every eligible row is scored. Its files are index.json and vectors.npy.

Knows nothing about how it was built (`index_builders.flat`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from retrieval import kernel
from retrieval.errors import InvalidParams
from retrieval.indexes.arrays import VECTORS, Description, open_array, read_description
from retrieval.params import MAX_DIM, FlatSearch, SearchParams
from retrieval.types import F16, F32, I32, U8, IndexKind, Metric, Neighbors

FORMAT, VERSION = "retrieval.flat", 1


class FlatDescription(Description):
    """index.json of a flat shard."""

    n: int = Field(ge=1, lt=2**31)
    d: int = Field(ge=1, le=MAX_DIM)
    metric: Literal["cosine", "ip", "l2"]
    vectors: Literal["float16", "float32"]


class FlatIndex:
    """An opened flat shard; see `retrieval.indexes.interface.ShardIndex`."""

    kind = IndexKind.FLAT

    def __init__(self, vectors: F16 | F32, metric: Metric) -> None:
        self.n, self.d = vectors.shape
        self.metric = metric
        self._vectors = vectors

    @classmethod
    def open(cls, path: Path) -> FlatIndex:
        """Map the shard directory `path`; DamagedData when a file is not what index.json says."""
        description = read_description(path, FlatDescription, FORMAT, VERSION)
        vectors = open_array(path, VECTORS, description.vectors, (description.n, description.d))
        return cls(vectors, Metric(description.metric))

    def search(self, xq: F32, k: int, params: SearchParams, *, allow: U8 | None = None, threads: int = 1) -> Neighbors:
        """Exact nearest rows among the allowed ones; work counts "distances"."""
        if not isinstance(params, FlatSearch):
            raise InvalidParams(f"a flat shard takes FlatSearch, not {type(params).__name__}")
        rows, scores, distances = kernel.scan(self._vectors, xq, k, self.metric, allow=allow, threads=threads)
        return Neighbors(rows=rows, scores=scores, work={"distances": distances})

    def score(self, xq: F32, rows: I32) -> F32:
        """Exact scores float32 [q, r] of the rows int32 [q, r]; -inf where a row is NO_ROW."""
        return kernel.score(self._vectors, xq, rows, self.metric)
