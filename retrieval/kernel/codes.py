"""8-bit codes of vectors: what they hold, and how to make them (see codes.cpp for the arithmetic)."""

from __future__ import annotations

import math

import numpy as np

from retrieval.errors import InvalidArgument
from retrieval.kernel import _native
from retrieval.types import F16, F32, U8, Metric


class Codes:
    """8-bit codes of n vectors: rotated by `seed`, scalar-quantised (see codes.cpp).

    data: uint8 [n, w], w = d rounded up to 64: the upper four bits of all coordinates, then the lower four.
    scale: float32 [n], half of each row's step, None for unit vectors; bias: float32 [n], minus the squared norm, for
    L2 only; error: largest distance of a vector from its code, in steps; walk_bits: 4 where a graph walk reads the
    upper bits only.
    """

    __slots__ = ("bias", "data", "error", "scale", "seed", "walk_bits")

    def __init__(
        self, data: U8, scale: F32 | None, bias: F32 | None, seed: int, error: float, walk_bits: int = 8
    ) -> None:
        self.data, self.scale, self.bias, self.seed, self.error = data, scale, bias, seed, error
        self.walk_bits = walk_bits


def code_width(d: int) -> int:
    """Bytes of one row's code for d dimensions: d rounded up to a multiple of 64."""
    return _native.code_width(d)


def encode(
    vectors: F16 | F32, metric: Metric, *, unit: bool, seed: int, out: U8 | None = None, threads: int = 1
) -> tuple[Codes, float]:
    """Codes of vectors [n, d], and the root of the mean squared error relative to the mean squared norm.

    unit: all vectors have norm 1, so that one step serves them all (not for L2). out: uint8 [n, w] to fill.
    """
    n, d = vectors.shape
    data = np.empty((n, code_width(d)), dtype=np.uint8) if out is None else out
    if unit and metric is Metric.L2:
        raise InvalidArgument("unit codes carry no norms, which l2 needs; pass unit=False")
    scale = None if unit else np.empty(n, dtype=np.float32)
    bias = np.empty(n, dtype=np.float32) if metric is Metric.L2 else None
    try:
        largest, squared_error, squared_norm = _native.encode(vectors, data, scale, bias, seed, threads)
    except (ValueError, TypeError) as error:
        raise InvalidArgument(sentence(error)) from None
    relative = math.sqrt(squared_error / squared_norm) if squared_norm > 0 else 0.0
    return Codes(data, scale, bias, seed, largest), relative


def sentence(error: Exception) -> str:
    """What a mistake found by the native module was, in one line."""
    # nanobind's TypeError lists every overload; its first line says what happened
    return str(error).split("\n")[0]
