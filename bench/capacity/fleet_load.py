"""An open load on a fleet of this machine, and who worked how long for it. Knows nothing about costs or models."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.load_generator import Generator
from bench.load_schedule import draw_requests, due_ns
from bench.load_store import ServerProcess

_DEADLINE_S = 10.0
_BEFORE_ALL = -20


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What became of a load. cpu_s: of each server, in order, and of the sender; seconds: over which it was taken.

    background: share of the machine's cores that other programs took; lag_p99_ms: how late calls left.
    """

    calls: int
    failed: int
    lag_p99_ms: float
    p50_ms: float
    p99_ms: float
    cpu_s: tuple[float, ...]
    sender_cpu_s: float
    seconds: float
    background: float

    @property
    def cores(self) -> float:
        """Cores that all of them used together."""
        return (sum(self.cpu_s) + self.sender_cpu_s) / self.seconds


def send(
    sender: Generator, servers: Sequence[ServerProcess], *, requests: int, rate: float, seconds: float, seed: int
) -> Sent:
    """Poisson arrivals at `rate` of any of so many requests."""
    due = due_ns(rate, seconds, "poisson", seed)
    which = draw_requests(len(due), requests, 0.0, seed)

    def look() -> tuple[float, float, tuple[float, ...]]:
        return time.monotonic(), _idle_s(), tuple(each.cpu_seconds() for each in servers)

    looks = [look()]
    # as the load ends: the sender then reads the answers, which is work of its own and no part of the load
    timer = threading.Timer(seconds, lambda: looks.append(look()))
    timer.start()
    outcome = sender.send(due, which, _DEADLINE_S)
    timer.join()
    (began, idle, before), (ended, idle_then, after) = looks
    used = tuple(then - at_first for at_first, then in zip(before, after, strict=True))
    total = len(os.sched_getaffinity(0)) * (ended - began)
    ok = outcome.status == "OK"
    p50, p99 = np.quantile(outcome.latency_ns[ok], [0.5, 0.99]) / 1e6 if ok.any() else (np.nan, np.nan)
    return Sent(
        calls=len(due),
        failed=int((~ok).sum()),
        lag_p99_ms=float(np.quantile(outcome.lag_ns, 0.99)) / 1e6,
        p50_ms=float(p50),
        p99_ms=float(p99),
        cpu_s=used,
        sender_cpu_s=outcome.cpu_s,
        seconds=ended - began,
        background=max(0.0, (total - (idle_then - idle) - sum(used) - outcome.cpu_s) / total),
    )


def go_first() -> bool:
    """Put this process, and those it starts from now on, before all other work; False where that is not allowed."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, 0, _BEFORE_ALL)
        return True
    return False


def _idle_s() -> float:
    """Seconds that the machine's cores had nothing to do, all together."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")
