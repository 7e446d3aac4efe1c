"""Generations on disk: manifest, checksums, the CURRENT pointer. Knows nothing about what is inside an index file."""

from retrieval.store.generation import Generation, ShardFiles
from retrieval.store.local import Store
from retrieval.store.manifest import Manifest, ShardManifest

__all__ = ["Generation", "Manifest", "ShardFiles", "ShardManifest", "Store"]
