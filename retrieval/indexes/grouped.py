"""Searches that arrive side by side, done as one batch where an index gains by it.

The first `at_once` searches run as they come, so a lone one never waits. Those that arrive while so many are running
wait, and each that ends hands its place to the oldest group of waiting ones with equal parameters, which go as one
batch (flat combining, after Hendler et al., 2010). Inverted lists gain, because a batch reads each list once for all
its queries; `bench.grouped` measures it. Knows nothing about shards, or filters beyond their bitmaps.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable

import numpy as np

from retrieval.indexes.interface import ShardIndex
from retrieval.params import SearchParams
from retrieval.types import F32, I32, U8, Neighbors

MOST_QUERIES = 32  # of one group: beyond it an index gains little, and the first of the group waits for the last


class _Waiting:
    """One search that waits for its turn."""

    __slots__ = ("allow", "found", "group", "woken", "xq")

    def __init__(self, xq: F32, allow: U8 | None) -> None:
        self.xq, self.allow = xq, allow
        self.woken = threading.Event()
        self.found: Neighbors | None = None  # what another one found for it
        self.group: _Group | None = None  # what it has to search for itself and others


class _Group:
    """Waiting searches with equal parameters, oldest first."""

    __slots__ = ("key", "queries", "searches")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.searches: list[_Waiting] = []
        self.queries = 0


class GroupedIndex:
    """An index, searched by groups; see `retrieval.indexes.interface.ShardIndex`.

    at_once: searches that run at the same time before others are grouped, best the cores that are theirs.
    """

    def __init__(self, index: ShardIndex, *, at_once: int) -> None:
        self.kind, self.metric, self.n, self.d = index.kind, index.metric, index.n, index.d
        self._index, self._at_once = index, at_once
        self._lock = threading.Lock()
        self._running = 0
        self._queue: deque[_Group] = deque()
        self._open: dict[Hashable, _Group] = {}  # of the queue, those that may still grow
        self.grouped = 0  # searches that went in a group with others

    def search(self, xq: F32, k: int, params: SearchParams, *, allow: U8 | None = None, threads: int = 1) -> Neighbors:
        """As the index searches; `work` is that of the whole group."""
        waiting = self._board(xq, (k, params, threads, None if allow is None else id(allow)), allow)
        if waiting is None:
            try:
                return self._index.search(xq, k, params, allow=allow, threads=threads)
            finally:
                self._hand_over()
        waiting.woken.wait()
        if waiting.group is not None:
            self._lead(waiting.group, k, params, allow, threads)
        if waiting.found is None:  # the group failed: whose search it was, shows when each is done alone
            return self._index.search(xq, k, params, allow=allow, threads=threads)
        return waiting.found

    def score(self, xq: F32, rows: I32) -> F32:
        """As the index scores."""
        return self._index.score(xq, rows)

    def _board(self, xq: F32, key: Hashable, allow: U8 | None) -> _Waiting | None:
        """A place in the queue, or None when there is no need to wait."""
        with self._lock:
            if self._running < self._at_once:
                self._running += 1
                return None
            waiting = _Waiting(xq, allow)  # holds the bitmap, so that its id stays its own while the group waits
            group = self._open.get(key)
            if group is None or group.queries + len(xq) > MOST_QUERIES:
                group = self._open[key] = _Group(key)
                self._queue.append(group)
            group.searches.append(waiting)
            group.queries += len(xq)
            return waiting

    def _lead(self, group: _Group, k: int, params: SearchParams, allow: U8 | None, threads: int) -> None:
        searches = group.searches
        try:
            xq = searches[0].xq if len(searches) == 1 else np.concatenate([each.xq for each in searches])
            found = self._index.search(xq, k, params, allow=allow, threads=threads)
            first = 0
            for each in searches:
                last = first + len(each.xq)
                each.found = Neighbors(rows=found.rows[first:last], scores=found.scores[first:last], work=found.work)
                first = last
        except Exception:
            for each in searches:
                each.found = None
        finally:
            self._hand_over()
            for each in searches[1:]:
                each.woken.set()

    def _hand_over(self) -> None:
        """Give this search's place to the oldest group, or give it up."""
        with self._lock:
            if not self._queue:
                self._running -= 1
                return
            group = self._queue.popleft()
            if self._open.get(group.key) is group:
                del self._open[group.key]
            if len(group.searches) > 1:
                self.grouped += len(group.searches)
        leader = group.searches[0]
        leader.group = group
        leader.woken.set()
