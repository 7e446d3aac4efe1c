"""Saturation: the highest rate at which a server keeps a bound, from a few loads.

Grows the rate until the bound breaks, then halves the gap. Knows nothing about what a load is.
"""

from __future__ import annotations

from collections.abc import Callable

GROWTH, PRECISION = 1.6, 0.06
MAX_LOADS = 14


def saturation(keeps: Callable[[float], bool], start: float) -> float:
    """The highest rate known to be kept, within 6 % of one that was not; 0 when none was.

    keeps: whether the bound holds at a rate, asked at most 14 times. A rate that breaks is asked once more, because
    another program on the machine breaks it too.
    """
    low, high, rate, asked = 0.0, 0.0, start, 0
    while asked < MAX_LOADS:
        kept = keeps(rate)
        asked += 1
        if not kept and asked < MAX_LOADS:
            kept = keeps(rate)
            asked += 1
        if kept:
            low = rate
        else:
            high = rate
        if high and low and high / low <= 1 + PRECISION:
            break
        if not high:
            rate = low * GROWTH
        elif not low:
            rate = high / GROWTH**2
        else:
            rate = (low * high) ** 0.5
    return low
