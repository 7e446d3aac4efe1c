"""The query cache on disk, so that a restarted server does not begin cold.

A safetensors file: texts (UTF-8, joined) with offsets, ends of age and vectors, least recently used first; its
metadata has the format, the version, the space id and a SHA-256 over all of these. It is written under another name and
moved into place; of several workers each writes a file of its own and reads all of them. A cache is worth nothing next
to a wrong answer: a file that is damaged, of another space or of a version that is not known is left out with one
warning and never read in part. Knows no tower.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from retrieval.errors import StoreError
from retrieval.serving.text.cache import Entry, QueryCache
from retrieval.topk import check_vectors
from retrieval.types import AnyArray

_WORKER = ".worker-"
FORMAT, VERSION = "retrieval-query-cache", 1
_TENSORS = {"text": np.uint8, "offsets": np.int64, "expires": np.float64, "vectors": np.float32}

_log = logging.getLogger(__name__)


def check_cache_path(path: Path) -> None:
    """StoreError when no cache file can be written at `path`; called at the start and not hours later."""
    if path.is_dir():
        raise StoreError(f"the query cache cannot be written to {path}: it is a folder; name a file in it")
    if not path.parent.is_dir():
        raise StoreError(f"the query cache cannot be written to {path}: {path.parent} is no folder; create it")
    if not os.access(path.parent, os.W_OK):
        raise StoreError(f"the query cache cannot be written to {path}: no right to write to {path.parent}; grant it")


def worker_path(path: Path, number: int) -> Path:
    """The file that worker `number` writes where the cache file is `path`."""
    return path.with_name(f"{path.name}{_WORKER}{number}")


def written_by_all(path: Path) -> list[Path]:
    """The cache files of all workers and of a server without any, that of `path` last; those that are there.

    Whichever worker a query meets after a restart, and however many there are then, it was seen before.
    """
    name, sign, number = path.name.rpartition(_WORKER)
    base = path.with_name(name) if sign and number.isdigit() else path
    found = sorted(base.parent.glob(f"{glob.escape(base.name)}{_WORKER}[0-9]*"))
    return [each for each in (base, *found) if each != path and each.is_file()] + [path]


def save_cache(cache: QueryCache, path: Path, *, d: int) -> int:
    """Write what the cache holds, all or nothing; the number of entries. StoreError when it cannot be written.

    Processes that share a path, as a worker and its successor, each write whole files; the last one stays.
    """
    entries = cache.entries()
    texts = [entry.text.encode() for entry in entries]
    tensors: dict[str, AnyArray] = {
        "text": np.frombuffer(b"".join(texts), np.uint8),
        "offsets": np.cumsum([0, *map(len, texts)], dtype=np.int64),
        "expires": np.array([entry.expires for entry in entries], np.float64),
        "vectors": np.array([entry.vector for entry in entries], np.float32).reshape(len(entries), d),
    }
    metadata = {"format": FORMAT, "version": str(VERSION), "space_id": cache.space_id}
    metadata["sha256"] = _checksum(metadata, tensors)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, temporary, metadata=metadata)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or error
        raise StoreError(f"the query cache cannot be written to {path}: {reason}; free space or name a path") from error
    return len(entries)


def load_cache(cache: QueryCache, path: Path, *, d: int) -> int:
    """Fill the cache from a file; the number of entries, 0 without a file or with one that is left out."""
    if not path.exists():
        return 0
    try:
        entries = _read(path, cache.space_id, d)
    except (OSError, ValueError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        _log.warning("the query cache %s is left out, starting cold: %s", path, reason)
        return 0
    return cache.fill(entries)


def _read(path: Path, space_id: str, d: int) -> list[Entry]:
    """ValueError says why the file is not to be trusted."""
    with safe_open(path, framework="numpy") as file:
        metadata = dict(file.metadata() or {})
        expected = metadata.pop("sha256", "")
        if metadata.get("format") != FORMAT:
            raise ValueError("it is not a query cache")
        if metadata.get("version") != str(VERSION):
            raise ValueError(f"it has format version {metadata.get('version')}, this server reads {VERSION}")
        if metadata.get("space_id") != space_id:
            raise ValueError(f"it is of space {metadata.get('space_id')}, the tower makes {space_id}")
        if set(file.keys()) != set(_TENSORS):
            raise ValueError(f"it holds {', '.join(sorted(file.keys())) or 'nothing'}, not a query cache's columns")
        tensors = {name: file.get_tensor(name) for name in _TENSORS}
    if _checksum(metadata, tensors) != expected:
        raise ValueError("its checksum does not match, so it is damaged")
    n = len(tensors["expires"])
    if tensors["vectors"].shape != (n, d) or tensors["offsets"].shape != (n + 1,):
        raise ValueError(f"its vectors have shape {list(tensors['vectors'].shape)}, expected {[n, d]}")
    if not check_vectors(tensors["vectors"]).all():
        raise ValueError("it holds vectors that are not finite or of zero norm")
    joined, offsets, ends = tensors["text"].tobytes(), tensors["offsets"].tolist(), tensors["expires"].tolist()
    return [
        Entry(text=joined[offsets[row] : offsets[row + 1]].decode(), vector=tensors["vectors"][row], expires=ends[row])
        for row in range(n)
    ]


def _checksum(metadata: dict[str, str], tensors: dict[str, AnyArray]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, dtype in _TENSORS.items():
        tensor = tensors[name]
        if tensor.dtype != dtype:
            raise ValueError(f"its column {name} is {tensor.dtype}, expected {np.dtype(dtype)}")
        digest.update(f"{name}{tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data if tensor.size else b"")
    return digest.hexdigest()
