"""Generations on disk and at URLs: manifest, checksums, the CURRENT pointer, leases.

Knows nothing about what is inside an index file.
"""

from retrieval.store.generation import Generation, ShardFiles
from retrieval.store.lease import Lease
from retrieval.store.local import Store
from retrieval.store.manifest import Manifest, ShardManifest
from retrieval.store.mirror import Mirror
from retrieval.store.place import RemoteSettings
from retrieval.store.remote import RemoteStore

__all__ = [
    "Generation",
    "Lease",
    "Manifest",
    "Mirror",
    "RemoteSettings",
    "RemoteStore",
    "ShardFiles",
    "ShardManifest",
    "Store",
]
