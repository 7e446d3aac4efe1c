"""A count-min sketch (Cormode and Muthukrishnan 2005): how often each key was seen, in little memory, never too low.

Training counts the entities of its positives on line and takes the estimate over the total as the probability with
which an entity becomes an in-batch negative, which the loss corrects for. Plain numpy, vectorised, deterministic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.errors import DamagedData, InvalidParams

U64 = npt.NDArray[np.uint64]
F64 = npt.NDArray[np.float64]

MIN_WIDTH, MAX_WIDTH = 16, 1 << 26
MIN_DEPTH, MAX_DEPTH = 1, 16

_STEP = np.uint64(0x9E3779B97F4A7C15)


class CountMinSketch:
    """Counts int64 [depth, width]; the estimate of a key exceeds its count by more than 2 / width of the total with
    probability at most 2^-depth.
    """

    def __init__(self, *, width: int = 1 << 18, depth: int = 4) -> None:
        """InvalidParams for a width or depth out of limits."""
        if not MIN_WIDTH <= width <= MAX_WIDTH:
            raise InvalidParams(f"sketch width = {width} is not acceptable: choose {MIN_WIDTH} to {MAX_WIDTH:,}")
        if not MIN_DEPTH <= depth <= MAX_DEPTH:
            raise InvalidParams(f"sketch depth = {depth} is not acceptable: choose {MIN_DEPTH} to {MAX_DEPTH}")
        self._counts = np.zeros((depth, width), dtype=np.int64)
        self._seeds = (np.arange(1, depth + 1, dtype=np.uint64) * _STEP)[:, None]
        self.total = 0

    def add(self, keys: U64) -> None:
        """Count each of keys uint64 [n] once more; a repeated key counts as often as it is there."""
        cells = self._cells(keys)
        for row in range(len(cells)):
            np.add.at(self._counts[row], cells[row], 1)
        self.total += len(keys)

    def estimate(self, keys: U64) -> npt.NDArray[np.int64]:
        """Estimated counts int64 [n], each at least the true one."""
        cells = self._cells(keys)
        return np.asarray(np.take_along_axis(self._counts, cells, axis=1).min(axis=0))

    def log_probability(self, keys: U64) -> F64:
        """Log of the share of each key among all keys seen, float64 [n]; a key never seen counts as seen once."""
        return np.asarray(np.log(np.maximum(self.estimate(keys), 1)) - np.log(max(self.total, 1)))

    def state(self) -> dict[str, npt.NDArray[np.int64]]:
        """Arrays from which `load` makes an equal sketch."""
        return {"counts": self._counts.copy(), "total": np.array([self.total], dtype=np.int64)}

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take over a state; DamagedData when it is of another width or depth."""
        counts = state["counts"]
        if counts.shape != self._counts.shape:
            raise DamagedData(f"the saved sketch is {list(counts.shape)}, this one {list(self._counts.shape)}")
        self._counts = np.array(counts, dtype=np.int64)
        self.total = int(state["total"][0])

    def _cells(self, keys: U64) -> npt.NDArray[np.int64]:
        mixed = keys[None, :] + self._seeds
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
        return np.asarray((mixed % np.uint64(self._counts.shape[1])).astype(np.int64))
