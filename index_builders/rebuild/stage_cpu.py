"""CPU seconds by stage of a job, told from the progress that it reports anyway.

What was spent before an event counts for the stage of that event. Shard processes have one figure of their own, which
the system knows once they have ended. Knows nothing about what stages do.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable

START, SHARDS, REST = "start", "shard processes", "rest"


class StageCpu:
    """Counts from its construction on; `start` is what the process had spent before."""

    def __init__(self, progress: Callable[[str, int, int], None] | None) -> None:
        self._progress, self._spent = progress, defaultdict[str, float](float)
        self._last, self._children = time.process_time(), _children()
        self._spent[START] = self._last

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Count what was spent since the last event for `stage`, and pass the event on."""
        self._count(stage)
        if self._progress is not None:
            self._progress(stage, done, total)

    def seconds(self) -> dict[str, float]:
        """CPU seconds by stage, in the order in which the stages were first heard of."""
        self._count(REST)
        found = self._spent | {SHARDS: _children() - self._children}
        return {stage: round(spent, 3) for stage, spent in found.items()}

    def _count(self, stage: str) -> None:
        now = time.process_time()
        self._spent[stage] += now - self._last
        self._last = now


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system
