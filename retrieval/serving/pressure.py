"""The brown-out ladder: what the server gives up, step by step, when calls wait too long for their turn.

Steps go up while the median wait of the last second stays over a bound, and down when it has stayed under a lower one
for longer, so that the ladder does not flutter. What a step costs in recall comes from the generation's frontier
(`effort.Efforts.lower`). Knows nothing about efforts, queues or calls.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from statistics import median

from pydantic import BaseModel, ConfigDict, Field


class Step(IntEnum):
    """What is given up; each step includes those below it."""

    NONE = 0
    LESS_RESCORE = 1
    LESS_EFFORT = 2
    CACHED_ONLY = 3  # texts that are not in the query cache are refused
    SHED_BATCH = 4  # calls of the batch class are refused

    @property
    def label(self) -> str:
        """The step in words."""
        return self.name.lower().replace("_", " ")


class PressureSettings(BaseModel):
    """When the brown-out ladder is climbed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    up_ms: float = Field(
        default=20.0,
        gt=0,
        le=60_000,
        description="median wait for a turn above which a step is taken; below the callers' slack",
    )
    down_ms: float = Field(
        default=5.0,
        ge=0,
        le=60_000,
        description="median wait below which a step is taken back; well under up_ms, or it flutters",
    )
    hold_seconds: float = Field(
        default=0.5,
        gt=0,
        le=600,
        description="how long the wait is over up_ms before a step; short bursts pass without one",
    )
    calm_seconds: float = Field(
        default=1.0,
        gt=0,
        le=600,
        description="how long the wait is under down_ms before a step back; four steps make the return",
    )
    floor_recall: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="measured recall below which no step lowers an effort, whatever the pressure",
    )


class Ladder:
    """The step that the server is on, from the waits that it is told. Any number of threads may use it."""

    def __init__(self, settings: PressureSettings | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings or PressureSettings()
        self._clock = clock
        self._lock = threading.Lock()
        self._waits: deque[tuple[float, float]] = deque(maxlen=_MOST)
        self._step = Step.NONE
        self._over_since: float | None = None
        self._under_since: float | None = None
        self._looked = -1.0
        self.floor = self._settings.floor_recall

    def waited(self, seconds: float) -> None:
        """A call waited this long for its turn, or was refused after it."""
        with self._lock:
            self._waits.append((self._clock(), seconds))
            self._look()

    @property
    def step(self) -> Step:
        """The step now; without calls the pressure falls."""
        with self._lock:
            self._look()
            return self._step

    def _look(self) -> None:
        now = self._clock()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        while self._waits and self._waits[0][0] < now - _WINDOW_S:
            self._waits.popleft()
        wait_ms = 1e3 * median(wait for _, wait in self._waits) if self._waits else 0.0
        settings = self._settings
        if wait_ms > settings.up_ms:
            self._under_since = None
            self._over_since = now if self._over_since is None else self._over_since
            if now - self._over_since >= settings.hold_seconds and self._step < Step.SHED_BATCH:
                self._step, self._over_since = Step(self._step + 1), now
        elif wait_ms < settings.down_ms or wait_ms == 0:
            self._over_since = None
            self._under_since = now if self._under_since is None else self._under_since
            if now - self._under_since >= settings.calm_seconds and self._step > Step.NONE:
                self._step, self._under_since = Step(self._step - 1), now
        else:
            self._over_since = self._under_since = None


_WINDOW_S = 1.0
_LOOK_S = 0.05  # the median of a thousand waits is not taken for every call
_MOST = 1_000
