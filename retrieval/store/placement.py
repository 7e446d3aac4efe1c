"""Which shard an id lives in: a stated, stable hash, the same on every machine and in every version.

`blake2b-8-mod`: the first 8 bytes of BLAKE2b (digest size 8) over the id's bytes, little-endian, modulo the number of
shards. A string id's bytes are its UTF-8; an int64 id's bytes are its 8 little-endian bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

from retrieval.types import I32, I64

PLACEMENT = "blake2b-8-mod"


def shard_of(ids: Iterable[str] | Iterable[int] | I64, shards: int) -> I32:
    """Shard number int32 [n] in 0..shards-1 of each id."""
    if isinstance(ids, np.ndarray) and ids.dtype.kind == "i":
        raw = ids.astype("<i8").tobytes()
        keys: Iterable[bytes] = [raw[start : start + 8] for start in range(0, len(raw), 8)]
    else:
        keys = (
            entity.encode() if isinstance(entity, str) else int(entity).to_bytes(8, "little", signed=True)
            for entity in ids
        )
    # one join and one view cost half of what a Python integer per id does: about 0.7 s for a million ids
    digests = b"".join([blake2b(key, digest_size=8).digest() for key in keys])
    return np.asarray(np.frombuffer(digests, dtype="<u8") % np.uint64(shards), dtype=np.int32)
