"""Readers of shard indexes, one file per kind behind one interface. Bytes are verified before they come here."""

from __future__ import annotations

from pathlib import Path

from retrieval.indexes.interface import ShardIndex
from retrieval.types import IndexKind

__all__ = ["ShardIndex", "open_index"]


def open_index(kind: IndexKind, path: Path) -> ShardIndex:
    """Open the shard in folder `path`; DamagedData when its files do not hold together.

    Raises MissingDependency when the kind needs a library that is not installed.
    """
    # imported here so that a server without IVF-PQ shards needs no faiss
    if kind is IndexKind.IVFPQ:
        from retrieval.indexes.ivfpq import IvfpqIndex

        return IvfpqIndex.open(path)
    if kind is IndexKind.HNSW:
        from retrieval.indexes.hnsw import HnswIndex

        return HnswIndex.open(path)
    from retrieval.indexes.flat import FlatIndex

    return FlatIndex.open(path)
