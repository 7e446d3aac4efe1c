"""Vectors of query texts that were encoded before: bounded in bytes, the least recently used goes first.

One cache belongs to one space, and a key is a normalised text, so a hit is what the tower would give, bit for bit.
Entries age on the wall clock, because they outlive the process (`query_cache_file`). An own table in place of
`cachetools`: what is saved has to be in the order of use, which its caches keep to themselves. Knows no tower.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.types import F32, AnyArray

# array header, tuple, float, and two table slots with their share of growth, on 64-bit CPython; a test measures it
ENTRY_BYTES = 480


@dataclass(frozen=True, kw_only=True)
class CacheStats:
    """Counters since the start, and what is held now."""

    hits: int
    misses: int
    evictions: int  # for want of bytes
    expired: int  # over their age when asked for
    entries: int
    size_bytes: int
    max_bytes: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One text with its vector float32 [d] and the end of its age in seconds of the clock."""

    text: str
    vector: F32
    expires: float


class QueryCache:
    """Normalised text -> unit vector float32 [d], of one space. Any number of threads may use it.

    max_bytes: of keys, vectors and their overhead together; 0 keeps nothing. ttl_seconds: age at which an entry is no
    longer used. clock: seconds since the epoch.
    """

    def __init__(
        self, space_id: str, *, max_bytes: int, ttl_seconds: float, clock: Callable[[], float] = time.time
    ) -> None:
        self.space_id = space_id
        self.max_bytes = max_bytes
        self.ttl_seconds = ttl_seconds
        self.clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, tuple[F32, float]] = OrderedDict()
        self._bytes = self._hits = self._misses = self._evictions = self._expired = 0

    def get(self, text: str) -> F32 | None:
        """The vector of a normalised text, read-only, or None; counted as a hit or a miss."""
        now = self.clock()
        with self._lock:
            return self._get(text, now)

    def get_many(self, texts: Iterable[str]) -> dict[str, F32]:
        """Those of the texts that are held, each counted as `get` counts it."""
        now = self.clock()
        with self._lock:
            found = {text: self._get(text, now) for text in texts}
        return {text: vector for text, vector in found.items() if vector is not None}

    def peek(self, text: str) -> F32 | None:
        """As `get`, without counting and without making the entry more recent."""
        now = self.clock()
        with self._lock:
            held = self._entries.get(text)
        return held[0] if held is not None and self._in_time(held[1], now) else None

    def put(self, text: str, vector: AnyArray, *, expires: float | None = None) -> None:
        """Keep a copy of the vector; one that is over its age, or larger than the whole cache, is not kept.

        expires: for an entry that was made earlier.
        """
        now = self.clock()
        end = now + self.ttl_seconds if expires is None else expires
        copy = np.array(vector, dtype=np.float32)
        copy.setflags(write=False)
        size = _size_bytes(text, copy)
        with self._lock:
            self._drop(text)
            if size > self.max_bytes or not self._in_time(end, now):
                return
            while self._bytes + size > self.max_bytes:
                self._drop(next(iter(self._entries)))
                self._evictions += 1
            self._entries[text] = (copy, end)
            self._bytes += size

    def has_room(self, texts: Collection[str], d: int) -> bool:
        """Whether vectors of d dimensions of these texts can be put without evicting another."""
        size = sum(map(_text_bytes, texts)) + len(texts) * (4 * d + ENTRY_BYTES)
        with self._lock:
            return self._bytes + size <= self.max_bytes

    def entries(self) -> list[Entry]:
        """All that is in time, the least recently used first."""
        now = self.clock()
        with self._lock:
            held = list(self._entries.items())
        return [
            Entry(text=text, vector=vector, expires=expires)
            for text, (vector, expires) in held
            if self._in_time(expires, now)
        ]

    def fill(self, entries: Sequence[Entry]) -> int:
        """Put entries in their order; the number that is held afterwards."""
        for entry in entries:
            self.put(entry.text, entry.vector, expires=entry.expires)
        return self.stats().entries

    def stats(self) -> CacheStats:
        """The counters."""
        with self._lock:
            return CacheStats(
                hits=self._hits,
                misses=self._misses,
                evictions=self._evictions,
                expired=self._expired,
                entries=len(self._entries),
                size_bytes=self._bytes,
                max_bytes=self.max_bytes,
            )

    def _get(self, text: str, now: float) -> F32 | None:
        held = self._entries.get(text)
        if held is not None:
            if self._in_time(held[1], now):
                self._entries.move_to_end(text)
                self._hits += 1
                return held[0]
            self._drop(text)
            self._expired += 1
        self._misses += 1
        return None

    def _in_time(self, expires: float, now: float) -> bool:
        # an end further off than a whole age was written by a clock that has been set back since: not trusted
        return now < expires <= now + self.ttl_seconds

    def _drop(self, text: str) -> None:
        held = self._entries.pop(text, None)
        if held is not None:
            self._bytes -= _size_bytes(text, held[0])


def _size_bytes(text: str, vector: F32) -> int:
    return _text_bytes(text) + vector.nbytes + ENTRY_BYTES


def _text_bytes(text: str) -> int:
    # not sys.getsizeof(text), which grows once something has asked for the string's UTF-8 form
    width = 1 if text.isascii() else 4
    return sys.getsizeof("") + width * len(text)
