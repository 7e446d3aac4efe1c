"""One shard as the engine sees it, and the shard that lives in this process.

The engine asks four things of a shard: search, score, vectors, attributes. A shard on another host answers the same
four from the same arguments, which is why ids, not rows, go out beside the scores. Knows nothing about merging,
entity types or spaces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from retrieval.errors import DamagedData
from retrieval.indexes import ShardIndex, open_index
from retrieval.params import MAX_K, SearchParams
from retrieval.serving.rows import Rows
from retrieval.store import Generation, ShardFiles
from retrieval.store.generation import ROWS_FILE, VECTORS_FILE
from retrieval.types import F32, I32, I64, NO_ROW, AnyArray, Bool, IndexKind, Neighbors


@dataclass(frozen=True, kw_only=True)
class Hits:
    """A shard's answer to q queries, the padding taken off and the queries laid end to end.

    ids: int64 [m] or object [m] of str; rows: int32 [m]; scores: float32 [m]; bounds: int64 [q + 1], query i has the
    hits bounds[i] to bounds[i + 1], best first. There may be more than k, so that the merge can cut a tie by id.
    """

    ids: AnyArray
    rows: I32
    scores: F32
    bounds: I64


class Shard(Protocol):
    """A part of a generation that can be searched, here or elsewhere."""

    @property
    def name(self) -> str:
        """The shard's name in the manifest."""
        ...

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        ...

    @property
    def kind(self) -> IndexKind:
        """Its index kind, which chooses the search parameters."""
        ...

    def search(self, xq: F32, k: int, params: SearchParams) -> Hits:
        """The k best rows for each of xq [q, d], with exact scores."""
        ...

    def score(self, xq: F32, ids: AnyArray) -> tuple[F32, Bool]:
        """Exact scores float32 [q, n] of the ids [n], and bool [n] which of them this shard holds."""
        ...

    def vectors(self, ids: AnyArray) -> tuple[F32, Bool]:
        """Stored vectors float32 [n, d] of the ids [n], and bool [n] which of them this shard holds."""
        ...

    def attributes(self, rows: I32, columns: Sequence[str]) -> dict[str, pa.Array]:
        """Attribute columns of rows [n] that `search` gave."""
        ...


class LocalShard:
    """A shard opened in this process."""

    def __init__(self, name: str, index: ShardIndex, rows: Rows, stored: AnyArray) -> None:
        self.name = name
        self.rows = index.n
        self.d = index.d
        self.kind = index.kind
        self.metric = index.metric
        self._index = index
        self._rows = rows
        self._stored = stored

    @classmethod
    def open(cls, files: ShardFiles) -> LocalShard:
        """Open the files of a verified generation; DamagedData when index, rows and vectors do not fit together."""
        index = open_index(files.manifest.kind, files.path)
        rows = Rows(files.rows(), files.id_type, where=str(files.path / ROWS_FILE))
        try:
            stored = np.load(files.path / VECTORS_FILE, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise DamagedData(f"{files.path / VECTORS_FILE} is not a numpy array: {error}") from error
        if stored.shape != (index.n, index.d) or len(rows) != index.n:
            raise DamagedData(
                f"{files.path} does not hold together: index {index.n} x {index.d}, vectors {stored.shape}, "
                f"{len(rows)} rows"
            )
        return cls(files.manifest.name, index, rows, stored)

    @property
    def columns(self) -> list[str]:
        """Names of the attribute columns."""
        return self._rows.columns

    def sample(self, n: int) -> F32:
        """Some stored vectors, float32 [at most n, d], spread over the shard."""
        places = np.unique(np.linspace(0, self.rows - 1, n).astype(np.int64))
        return np.asarray(self._stored[places], np.float32)

    def search(self, xq: F32, k: int, params: SearchParams) -> Hits:
        """See `Shard.search`."""
        found = self._search(xq, min(k, self.rows), params)
        q, width = found.rows.shape
        if NO_ROW not in found.rows[:, -1].tolist():  # padding is a tail, so its last column tells
            rows, scores = found.rows.reshape(-1), found.scores.reshape(-1)
            bounds = np.arange(0, q * width + 1, width)
        else:
            kept = found.rows != NO_ROW
            rows, scores = found.rows[kept], found.scores[kept]
            bounds = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int64)
        if not np.isfinite(scores).all():
            raise DamagedData(f"{self.name} gave a score that is not a finite number")
        return Hits(ids=self._rows.ids(rows), rows=rows, scores=scores, bounds=bounds)

    def _search(self, xq: F32, k: int, params: SearchParams) -> Neighbors:
        # an index breaks ties by row; where that is not the order of ids, an answer must not be cut inside a tie
        most = min(self.rows, MAX_K)
        if self._rows.ascending or k == most:
            return self._index.search(xq, k, params)
        found = self._index.search(xq, k + 1, params)
        if not _tied(found, k):
            return Neighbors(rows=found.rows[:, :k], scores=found.scores[:, :k], work=found.work)
        width = k + 1
        while _tied(found, k) and width < most:
            width = min(2 * width, most)
            found = self._index.search(xq, width, params)
        beyond = found.scores < found.scores[:, k - 1 : k]
        return Neighbors(rows=np.where(beyond, NO_ROW, found.rows), scores=found.scores, work=found.work)

    def score(self, xq: F32, ids: AnyArray) -> tuple[F32, Bool]:
        """See `Shard.score`."""
        rows = self._rows.find(ids)
        found = rows != NO_ROW
        scores = np.zeros((len(xq), len(ids)), np.float32)
        if found.any():
            held = np.ascontiguousarray(np.broadcast_to(rows[found], (len(xq), int(found.sum()))))
            scores[:, found] = self._index.score(xq, held)
        return scores, found

    def vectors(self, ids: AnyArray) -> tuple[F32, Bool]:
        """See `Shard.vectors`."""
        rows = self._rows.find(ids)
        found = rows != NO_ROW
        vectors = np.zeros((len(ids), self._stored.shape[1]), np.float32)
        vectors[found] = self._stored[rows[found]]
        return vectors, found

    def attributes(self, rows: I32, columns: Sequence[str]) -> dict[str, pa.Array]:
        """See `Shard.attributes`."""
        return self._rows.take(rows, columns)


def _tied(found: Neighbors, k: int) -> bool:
    """Whether for some query the last candidate, beyond the k-th, still has the k-th's score."""
    last, cut = found.scores[:, -1].tolist(), found.scores[:, k - 1].tolist()
    return any(a == b and a != -math.inf for a, b in zip(last, cut, strict=True))


def open_shards(generation: Generation) -> list[LocalShard]:
    """Open every shard of a verified generation, each held against the manifest; DamagedData where they differ."""
    manifest = generation.manifest
    shards = []
    for files in generation.shards:
        shard = LocalShard.open(files)
        if (shard.rows, shard.d, shard.metric) != (files.manifest.rows, manifest.d, manifest.metric):
            raise DamagedData(
                f"{files.path} opens as {shard.rows} x {shard.d} {shard.metric}, the manifest says "
                f"{files.manifest.rows} x {manifest.d} {manifest.metric}"
            )
        shards.append(shard)
    return shards
