"""A tower whose vectors tell the text they are of, that can be held, and that keeps a record of its batches."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from retrieval.types import F32

D = 6


def vector_of(text: str) -> F32:
    rng = np.random.default_rng(zlib.crc32(text.encode()))
    x = rng.standard_normal(D).astype(np.float32)
    return x / np.float32(np.linalg.norm(x))


class SlowTower:
    """`hold` keeps a batch in the tower until `release`; `failing` makes a batch with such a text fail."""

    space_id, compatible, d = "space-a", ("space-old",), D

    def __init__(self, failing: Callable[[str], bool] = lambda text: False) -> None:
        self.batches: list[list[str]] = []
        self.failing = failing
        self.entered = threading.Semaphore(0)
        self._open = threading.Event()
        self._open.set()

    def hold(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def encode(self, texts: Sequence[str]) -> F32:
        self.batches.append(list(texts))
        self.entered.release()
        assert self._open.wait(10)
        if any(self.failing(text) for text in texts):
            raise RuntimeError("the tower broke")
        return np.stack([vector_of(text) for text in texts])
