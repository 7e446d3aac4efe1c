"""How long the caller of this thread still waits, for work that goes on to other hosts. Knows nothing else."""

from __future__ import annotations

import time
from contextvars import ContextVar

_ends: ContextVar[float | None] = ContextVar("deadline", default=None)


def note(remaining_s: float | None) -> None:
    """The call that this thread answers has so many seconds left; None without a deadline."""
    _ends.set(None if remaining_s is None else time.monotonic() + remaining_s)


def remaining_s() -> float | None:
    """Seconds left, from 0; None without a deadline."""
    ends = _ends.get()
    return None if ends is None else max(0.0, ends - time.monotonic())
