"""When calls of an open loop are due and which request each carries, drawn before the first is sent.

An open loop does not wait for answers, so that a slow server meets the same arrivals as a fast one, and latency counts
from the instant a call was due (G. Tene, "How not to measure latency": a loop that waits leaves out the calls that it
did not send). Knows nothing about gRPC.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from retrieval.errors import InvalidParams

Arrivals = Literal["constant", "poisson"]
MAX_RATE, MAX_SECONDS = 1_000_000.0, 3_600.0


def check_load(rate: float, seconds: float) -> None:
    """InvalidParams for a rate or a duration that no schedule is made for."""
    if not 0 < rate <= MAX_RATE:
        raise InvalidParams(f"a rate of {rate:g} calls a second is not acceptable: give above 0 to {MAX_RATE:g}")
    if not 0 < seconds <= MAX_SECONDS:
        raise InvalidParams(f"{seconds:g} seconds of load is not acceptable: give above 0 to {MAX_SECONDS:g}")
    if rate * seconds < 1:
        raise InvalidParams(f"{rate:g} calls a second make no call in {seconds:g} s: raise one of them")


def check_zipf(zipf: float) -> None:
    """InvalidParams for an exponent outside 0 to 5."""
    if not 0 <= zipf <= 5:
        raise InvalidParams(f"a Zipf exponent of {zipf:g} is not acceptable: give 0 (all alike) to 5")


def due_ns(rate: float, seconds: float, arrivals: Arrivals, seed: int) -> npt.NDArray[np.int64]:
    """Nanoseconds from the start at which calls are due, int64 [n], ascending, below `seconds`.

    constant: one every 1/rate s; poisson: independent exponential gaps of that mean, the same for the same seed.
    Raises InvalidParams for a rate or duration outside its limits.
    """
    check_load(rate, seconds)
    if arrivals == "constant":
        at = np.arange(int(rate * seconds)) / rate
    else:
        # given their number, the arrivals of a Poisson process are independent and uniform
        rng = np.random.default_rng([seed, 0])
        at = np.sort(rng.random(max(1, int(rng.poisson(rate * seconds))))) * seconds
    return (at * 1e9).astype(np.int64)


def draw_requests(calls: int, requests: int, zipf: float, seed: int) -> npt.NDArray[np.int64]:
    """Which of `requests` each call carries, int64 [calls]: number r with probability ~ 1 / (r + 1)^zipf.

    zipf = 0 draws all alike. Raises InvalidParams for an exponent outside 0 to 5.
    """
    check_zipf(zipf)
    weights: npt.NDArray[Any] = 1.0 / np.arange(1, requests + 1) ** zipf
    steps = np.cumsum(weights / weights.sum())
    drawn = np.searchsorted(steps, np.random.default_rng([seed, 1]).random(calls), side="right")
    return np.minimum(drawn, requests - 1).astype(np.int64)
