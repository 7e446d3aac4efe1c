"""Which shard an id lives in: a stated, stable hash, the same on every machine and in every version.

`blake2b-8-mod`: the first 8 bytes of BLAKE2b (digest size 8) over the id's bytes, little-endian, modulo the number of
shards. A string id's bytes are its UTF-8; an int64 id's bytes are its 8 little-endian bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

from retrieval.types import I32

PLACEMENT = "blake2b-8-mod"


def shard_of(ids: Iterable[str] | Iterable[int], shards: int) -> I32:
    """Shard number int32 [n] in 0..shards-1 of each id."""
    keys = (
        entity.encode() if isinstance(entity, str) else int(entity).to_bytes(8, "little", signed=True) for entity in ids
    )
    hashes = np.fromiter(
        (int.from_bytes(blake2b(key, digest_size=8).digest(), "little") for key in keys), dtype=np.uint64
    )
    return np.asarray(hashes % np.uint64(shards), dtype=np.int32)
