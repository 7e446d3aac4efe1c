"""Grouped searches: the answers of the index itself, nobody waits for ever, and groups do form."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from retrieval import kernel, topk
from retrieval.errors import InvalidArgument
from retrieval.indexes.flat import FlatIndex
from retrieval.indexes.grouped import MOST_QUERIES, GroupedIndex
from retrieval.params import FlatSearch
from retrieval.types import Metric, Neighbors

N, D = 400, 16


def vectors(n: int, seed: int) -> np.ndarray:
    return topk.normalise(np.random.default_rng(seed).standard_normal((n, D)).astype(np.float32))


class Slow(FlatIndex):
    """An exact index that counts its searches, takes a while, and fails for a query of zeros."""

    def __init__(self) -> None:
        super().__init__(vectors(N, 1), Metric.COSINE)
        self.sizes: list[int] = []
        self.running = self.most = 0
        self._count = threading.Lock()

    def search(self, xq, k, params, *, allow=None, threads=1) -> Neighbors:
        with self._count:
            self.sizes.append(len(xq))
            self.running += 1
            self.most = max(self.most, self.running)
        time.sleep(0.003)
        try:
            if not xq.any(axis=1).all():
                raise InvalidArgument("a query of zeros")
            return super().search(xq, k, params, allow=allow, threads=threads)
        finally:
            with self._count:
                self.running -= 1


@pytest.mark.parametrize("at_once", [1, 2])
def test_many_at_once_get_their_own_answers(at_once: int) -> None:
    slow = Slow()
    index = GroupedIndex(slow, at_once=at_once)
    bitmaps = [None, kernel.bitmap(np.arange(0, N, 3), N), kernel.bitmap(np.arange(50), N)]
    xq = vectors(120, 2)

    def ask(i: int) -> Neighbors:
        return index.search(xq[i : i + 1 + i % 3], 5 + i % 2, FlatSearch(), allow=bitmaps[i % 3])

    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(ask, range(100)))
    for i, each in enumerate(found):
        alone = FlatIndex.search(slow, xq[i : i + 1 + i % 3], 5 + i % 2, FlatSearch(), allow=bitmaps[i % 3])
        assert each.rows.tolist() == alone.rows.tolist()
        assert each.scores.tolist() == alone.scores.tolist()
    assert slow.most == at_once
    assert index.grouped > 0
    assert len(slow.sizes) < 100
    assert max(slow.sizes) <= MOST_QUERIES


def test_a_lone_search_goes_at_once() -> None:
    slow = Slow()
    index = GroupedIndex(slow, at_once=1)
    for i in range(3):
        index.search(vectors(1, i), 3, FlatSearch())
    assert slow.sizes == [1, 1, 1]
    assert index.grouped == 0
    assert index._running == 0


def test_a_search_that_fails_fails_alone() -> None:
    slow = Slow()
    index = GroupedIndex(slow, at_once=1)
    xq = vectors(40, 3)
    xq[7] = 0

    def ask(i: int) -> object:
        try:
            return index.search(xq[i : i + 1], 3, FlatSearch()).rows.tolist()
        except InvalidArgument as error:
            return str(error)

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(ask, range(40)))
    assert index.grouped > 0
    assert found[7] == "a query of zeros"
    assert [i for i, each in enumerate(found) if each == "a query of zeros"] == [7]
    assert index._running == 0
    assert not index._queue
