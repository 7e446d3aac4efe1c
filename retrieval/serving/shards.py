"""One shard as the engine sees it, and the shard that lives in this process.

The engine asks five things of a shard: search, explain, score, vectors, attributes. A shard on another host answers the
same five from the same arguments, which is why ids, not rows, go out beside the scores. Knows nothing about merging,
entity types or spaces.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import pyarrow as pa

from retrieval import kernel
from retrieval.errors import DamagedData
from retrieval.indexes import ShardIndex, open_index
from retrieval.indexes.grouped import GroupedIndex
from retrieval.params import SearchParams
from retrieval.serving.explaining.shard import ShardExplanation, explain_shard
from retrieval.serving.filtering.bitmaps import DEFAULT_CACHE_BYTES, Allowed, RowFilters
from retrieval.serving.filtering.filters import UNRESTRICTED, Filter, Restriction
from retrieval.serving.ranked_rows import Hits, RankedRows
from retrieval.serving.rows import Rows
from retrieval.store import Generation, ShardFiles
from retrieval.store.generation import ROWS_FILE, VECTORS_FILE
from retrieval.types import F32, I32, NO_ROW, U8, AnyArray, Bool, IndexKind

__all__ = ["Hits", "LocalShard", "Shard", "ShardExplanation", "open_shards"]


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

    @property
    def schema(self) -> pa.Schema:
        """Names and types of its attribute columns."""
        ...

    def search(self, xq: F32, k: int, params: SearchParams, *, restriction: Restriction = UNRESTRICTED) -> Hits:
        """The k best rows for each of xq [q, d] that the restriction lets through, with exact scores."""
        ...

    def explain(
        self,
        xq: F32,
        ids: AnyArray,
        k: int,
        params: SearchParams,
        *,
        restriction: Restriction = UNRESTRICTED,
        score: float | None = None,
    ) -> ShardExplanation:
        """What becomes of the entity ids [1] in the search for one query [1, d], crowding left aside.

        score: that of an entity which another shard holds; this one's `rank` then tells where it would stand here.
        """
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

    def __init__(
        self,
        name: str,
        index: ShardIndex,
        rows: Rows,
        stored: AnyArray,
        *,
        filter_cache_bytes: int = DEFAULT_CACHE_BYTES,
        searches_at_once: int = 0,
    ) -> None:
        self.name = name
        self.rows = index.n
        self.d = index.d
        self.kind = index.kind
        self.metric = index.metric
        self._index = index
        # inverted lists gain by searching side by side, graphs do not
        grouped = searches_at_once > 0 and index.kind is IndexKind.IVFPQ
        self._searched: ShardIndex = GroupedIndex(index, at_once=searches_at_once) if grouped else index
        self._rows = rows
        self._stored = stored
        self._filters = RowFilters(rows.columns, index.n, filter_cache_bytes)
        self._visible: U8 | None = None  # bitmap of rows that may be answered with, None for all

    @classmethod
    def open(
        cls, files: ShardFiles, *, filter_cache_bytes: int = DEFAULT_CACHE_BYTES, searches_at_once: int = 0
    ) -> LocalShard:
        """Open the files of a verified generation; DamagedData when index, rows and vectors do not fit together.

        searches_at_once: of an IVF-PQ shard, before others wait and go together (`indexes.grouped`); 0 never groups.
        """
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
        return cls(
            files.manifest.name,
            index,
            rows,
            stored,
            filter_cache_bytes=filter_cache_bytes,
            searches_at_once=searches_at_once,
        )

    @property
    def columns(self) -> list[str]:
        """Names of the attribute columns."""
        return list(self._rows.columns)

    @property
    def schema(self) -> pa.Schema:
        """See `Shard.schema`."""
        return self._filters.schema

    def sample(self, n: int) -> F32:
        """Some stored vectors, float32 [at most n, d], spread over the shard."""
        places = np.unique(np.linspace(0, self.rows - 1, n).astype(np.int64))
        return np.asarray(self._stored[places], np.float32)

    def search(self, xq: F32, k: int, params: SearchParams, *, restriction: Restriction = UNRESTRICTED) -> Hits:
        """See `Shard.search`."""
        hits = self._ranked(self._allowed(restriction.filter)).search(xq, k, params, restriction.crowding)
        return hits if restriction.filter is not None or self._visible is None else replace(hits, matches=None)

    def hiding(self, hidden: Bool) -> LocalShard:
        """The same shard without the rows where hidden bool [rows] is set: what is open is shared."""
        other = copy.copy(self)
        other._visible = np.packbits(~hidden, bitorder="little")
        return other

    def find(self, ids: AnyArray) -> I32:
        """Row int32 [n] of each id, hidden or not; NO_ROW where the shard does not hold it."""
        return self._rows.find(ids)

    def explain(
        self,
        xq: F32,
        ids: AnyArray,
        k: int,
        params: SearchParams,
        *,
        restriction: Restriction = UNRESTRICTED,
        score: float | None = None,
    ) -> ShardExplanation:
        """See `Shard.explain`."""
        allowed = self._allowed(restriction.filter)
        hits = self.search(xq, k, params, restriction=Restriction(filter=restriction.filter))
        row = int(self._held(ids)[0])
        return explain_shard(self.name, self._index, self._rows, allowed, hits, xq, ids, row, k, params, score)

    def _ranked(self, allowed: Allowed | None) -> RankedRows:
        return RankedRows(self.name, self._searched, self._rows, self._filters, allowed)

    def _allowed(self, condition: Filter | None) -> Allowed | None:
        found = None if condition is None else self._filters.allowed(condition)
        if self._visible is None:
            return found
        bits = self._visible if found is None else self._visible & found.bits
        return Allowed(bits=bits, count=kernel.count_rows(self.rows, allow=bits))

    def _held(self, ids: AnyArray) -> I32:
        rows = self._rows.find(ids)
        if self._visible is None:
            return rows
        seen = self._visible[np.maximum(rows, 0) >> 3] >> (np.maximum(rows, 0) & 7) & 1
        return np.where(seen.astype(bool), rows, NO_ROW).astype(np.int32)

    def matches(self, condition: Filter) -> int:
        """How many rows a filter allows."""
        allowed = self._allowed(condition)
        assert allowed is not None
        return allowed.count

    def exact(self, xq: F32, k: int, restriction: Restriction = UNRESTRICTED) -> F32:
        """Scores float32 [q, k] of the exact k best allowed rows, -inf behind the last, from the stored vectors."""
        allowed = self._allowed(restriction.filter)
        allow = None if allowed is None else allowed.bits
        return kernel.scan(self._stored, xq, k, self.metric, allow=allow)[1]

    def score(self, xq: F32, ids: AnyArray) -> tuple[F32, Bool]:
        """See `Shard.score`."""
        rows = self._held(ids)
        found = rows != NO_ROW
        scores = np.zeros((len(xq), len(ids)), np.float32)
        if found.any():
            held = np.ascontiguousarray(np.broadcast_to(rows[found], (len(xq), int(found.sum()))))
            scores[:, found] = self._index.score(xq, held)
        return scores, found

    def vectors(self, ids: AnyArray) -> tuple[F32, Bool]:
        """See `Shard.vectors`."""
        rows = self._held(ids)
        found = rows != NO_ROW
        vectors = np.zeros((len(ids), self._stored.shape[1]), np.float32)
        vectors[found] = self._stored[rows[found]]
        return vectors, found

    def attributes(self, rows: I32, columns: Sequence[str]) -> dict[str, pa.Array]:
        """See `Shard.attributes`."""
        return self._rows.take(rows, columns)


def open_shards(
    generation: Generation, *, filter_cache_bytes: int | None = None, searches_at_once: int = 0
) -> list[LocalShard]:
    """Open every shard of a verified generation, each held against the manifest; DamagedData where they differ.

    filter_cache_bytes: for the bitmaps of filters of all shards together; None gives each shard its default.
    searches_at_once: see `LocalShard.open`.
    """
    manifest = generation.manifest
    shards = []
    each = DEFAULT_CACHE_BYTES if filter_cache_bytes is None else filter_cache_bytes // len(generation.shards)
    for files in generation.shards:
        shard = LocalShard.open(files, filter_cache_bytes=each, searches_at_once=searches_at_once)
        if (shard.rows, shard.d, shard.metric) != (files.manifest.rows, manifest.d, manifest.metric):
            raise DamagedData(
                f"{files.path} opens as {shard.rows} x {shard.d} {shard.metric}, the manifest says "
                f"{files.manifest.rows} x {manifest.d} {manifest.metric}"
            )
        shards.append(shard)
    return shards
