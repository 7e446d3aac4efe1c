"""The way of a query text: rules, cache, one flight per text, batch, tower.

It stands where a tower stands, so the engine needs no other code for it. Texts are checked before anything else, so
that a bad one costs its own call only. Only whole and good vectors reach the cache. Knows no shards and no gRPC.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrieval.errors import InvalidQuery, StoreError, Unavailable
from retrieval.serving.text.batching import Batcher, BatchStats, CheckAlive
from retrieval.serving.text.cache import CacheStats, QueryCache
from retrieval.serving.text.cache_file import check_cache_path, load_cache, save_cache, written_by_all
from retrieval.serving.text.encode import CallerAwareTower, TextTower
from retrieval.serving.text.settings import EncodeSettings
from retrieval.towers.text import query_texts
from retrieval.types import F32

_WARM_TEXTS = 8  # handed over at a time; no more than one background batch
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TextPathStats:
    """Counters of the cache and of the batches, and how far the warm-up is."""

    cache: CacheStats
    batch: BatchStats
    warmed: int  # texts of the list of top queries that were encoded


def _always() -> None:
    """The caller is still there."""


class TextPath(CallerAwareTower):
    """A tower behind a cache and a batcher. Any number of threads may call; `close` ends its threads."""

    def __init__(
        self, tower: TextTower, settings: EncodeSettings | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        """clock: seconds since the epoch, for the age of cached vectors.

        Reads the cache file if there is one. StoreError when that file cannot be written later, or when the list of top
        queries cannot be read.
        """
        self._settings = settings = settings or EncodeSettings()
        self._space_id, self._d, self._compatible = tower.space_id, tower.d, tower.compatible
        self._cache = QueryCache(
            tower.space_id, max_bytes=settings.cache_bytes, ttl_seconds=settings.cache_ttl_seconds, clock=clock
        )
        check_files(settings)
        if settings.cache_file is not None:
            for file in written_by_all(settings.cache_file):  # its own last, which counts as used most recently
                load_cache(self._cache, file, d=tower.d)
        to_warm = _read_queries(settings.warm_queries) if settings.warm_queries is not None else []
        self._warmed = 0
        self._closing = threading.Event()
        self.encode_anew = tower.encode  # past cache and batches, to hold the tower itself against what it made before
        self._batcher = Batcher(
            tower.encode,
            max_batch=settings.max_batch,
            max_wait_s=settings.max_wait_ms / 1e3,
            max_queue=settings.max_queue,
            recall=self._cache.peek,
            remember=self._cache.put,
        )
        self._threads = [threading.Thread(target=self._warm, args=(to_warm,), name="warm", daemon=True)]
        if settings.cache_file is not None:
            arguments = (settings.cache_file,)
            self._threads.append(threading.Thread(target=self._save, args=arguments, name="save", daemon=True))
        for thread in self._threads:
            thread.start()

    @property
    def space_id(self) -> str:
        """Space of the tower's vectors."""
        return self._space_id

    @property
    def compatible(self) -> Collection[str]:
        """Foreign spaces whose indexes the tower's vectors may search."""
        return self._compatible

    @property
    def d(self) -> int:
        """Dimension of the tower's vectors."""
        return self._d

    def encode(self, texts: Sequence[str]) -> F32:
        """Unit vectors float32 [n, d] of n texts; see `encode_for`."""
        return self.encode_for(texts, _always)

    def encode_for(self, texts: Sequence[str], check_alive: CheckAlive) -> F32:
        """Unit vectors float32 [n, d] of n texts for a caller that may go away; the array may be read-only.

        check_alive raises once nobody waits. Raises what it raises, InvalidQuery for a text that the tower's rules
        refuse, Overloaded when too many texts wait, Unavailable when the server is stopping, and what the tower raises.
        """
        keys = query_texts(texts)
        if len(keys) == 1:
            vector = self._cache.get(keys[0])
            if vector is not None:
                return vector[None, :]
        vectors = self._cache.get_many(dict.fromkeys(keys)) if len(keys) > 1 else {}
        # the tower gets the text as it was sent: its normal form can be longer than a text may be
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in vectors}
        if missing:
            vectors.update(self._batcher.encode(missing, check_alive))
        return np.stack([vectors[key] for key in keys]) if keys else np.empty((0, self._d), np.float32)

    def cached(self, texts: Sequence[str]) -> F32 | None:
        """Vectors float32 [n, d] if all texts are in the cache, else None; nothing is encoded.

        For a server under pressure. InvalidQuery as `encode_for`.
        """
        keys = query_texts(texts)
        vectors = self._cache.get_many(dict.fromkeys(keys))
        return np.stack([vectors[key] for key in keys]) if len(vectors) == len(set(keys)) > 0 else None

    def stats(self) -> TextPathStats:
        """The counters."""
        return TextPathStats(cache=self._cache.stats(), batch=self._batcher.stats(), warmed=self._warmed)

    def close(self, timeout_s: float | None = None) -> None:
        """Encode what callers wait for, refuse the rest, write the cache file."""
        if self._closing.is_set():
            return
        self._closing.set()
        if not self._batcher.close(timeout_s):
            _log.warning("texts were still being encoded %s s after the stop; they are given up", timeout_s)
        for thread in self._threads:
            thread.join(timeout_s)
        if self._settings.cache_file is not None:
            self._write(self._settings.cache_file)

    def _save(self, path: Path) -> None:
        while not self._closing.wait(self._settings.cache_save_seconds):
            self._write(path)

    def _write(self, path: Path) -> None:
        try:
            save_cache(self._cache, path, d=self._d)
        except StoreError as error:
            _log.warning("%s", error)  # the server answers without the file; the next writing may succeed

    def _warm(self, queries: Sequence[str]) -> None:
        texts, refused = _known_good(queries)
        texts = {key: text for key, text in texts.items() if self._cache.peek(key) is None}
        keys = list(texts)
        for start in range(0, len(keys), _WARM_TEXTS):
            part = keys[start : start + _WARM_TEXTS]
            if self._closing.is_set():
                return
            if not self._cache.has_room(part, self._d):
                _log.warning("the query cache is full after %d of %d top queries: give it more bytes", start, len(keys))
                return
            try:
                self._batcher.encode({key: texts[key] for key in part}, self._still_open, background=True)
            except Unavailable:
                return
            except Exception:
                _log.exception("the warm-up of the query cache ended after %d of %d top queries", start, len(keys))
                return
            self._warmed += len(part)
        if queries:
            _log.info("%d top queries are in the query cache, %d lines cannot be queries", len(keys), refused)

    def _still_open(self) -> None:
        if self._closing.is_set():
            raise Unavailable("the server is stopping")


def check_files(settings: EncodeSettings) -> list[str]:
    """A sentence on each file that the settings name; StoreError for one that cannot be used."""
    found = []
    if settings.cache_file is not None:
        check_cache_path(settings.cache_file)
        there = "is there" if settings.cache_file.exists() else "will be written"
        found.append(f"query cache {settings.cache_file}: {there}")
    if settings.warm_queries is not None:
        found.append(f"top queries {settings.warm_queries}: {len(_read_queries(settings.warm_queries)):,} lines")
    return found


def _read_queries(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise StoreError(
            f"the list of top queries {path} cannot be read: {(error.strerror or str(error)).lower()}; name a text file"
        ) from None
    except UnicodeDecodeError as error:
        raise StoreError(
            f"the list of top queries {path} is not UTF-8 at byte {error.start:,}: save it as UTF-8, one query a line"
        ) from None


def _known_good(queries: Sequence[str]) -> tuple[dict[str, str], int]:
    """Texts by normal form, in their order, and the number of lines that no tower takes."""
    texts: dict[str, str] = {}
    refused = 0
    for query in queries:
        try:
            texts.setdefault(query_texts([query])[0], query)
        except InvalidQuery:
            refused += 1
    return texts, refused
