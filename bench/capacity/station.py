"""Queues on a simulated clock: stations that serve in order of arrival, and one that serves in batches.

A station stands for a process, a host's cores or a tower. A process may need a core of its host for as long as it
works. A job whose caller has gone is dropped when its turn comes, as the server does. On simpy's clock and event queue.
Knows nothing about what the jobs are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import simpy

Done = Callable[[], None]


def _always() -> bool:
    return True


@dataclass(slots=True)
class _Job:
    seconds: float
    done: Done
    wanted: Callable[[], bool]
    came: float


class Station:
    """`servers` alike and one queue. on: the station whose servers a job here occupies too, while it is served."""

    def __init__(self, env: simpy.Environment, servers: int, *, on: Station | None = None) -> None:
        self._env, self.servers, self._on = env, servers, on
        self._free = servers
        self._queue: deque[_Job] = deque()
        self.jobs = self.dropped = 0
        self.busy_s = self.waited_s = 0.0

    def submit(self, seconds: float, done: Done, wanted: Callable[[], bool] = _always) -> None:
        """Serve a job of so many seconds and call `done`; one that is not wanted when its turn comes is dropped."""
        job = _Job(seconds, done, wanted, self._env.now)
        if self._free:
            self._free -= 1
            self._start(job)
        else:
            self._queue.append(job)

    def _start(self, job: _Job) -> None:
        self.waited_s += self._env.now - job.came
        self.jobs += 1
        self.busy_s += job.seconds
        if self._on is not None:
            self._on.submit(job.seconds, lambda: self._finish(job))
            return
        after(self._env, job.seconds, lambda: self._finish(job))

    def _finish(self, job: _Job) -> None:
        self._free += 1
        while self._queue and self._free:
            following = self._queue.popleft()
            if not following.wanted():
                self.dropped += 1
                continue
            self._free -= 1
            self._start(following)
        job.done()

    def mean_wait_s(self) -> float:
        """Mean time from the arrival to the start, of jobs that were served."""
        return self.waited_s / max(1, self.jobs)

    def utilisation(self, seconds: float) -> float:
        """Share of the servers' time that was work, over so many seconds."""
        return self.busy_s / (self.servers * seconds)


class BatchStation:
    """One server that takes all that waits, up to `most`, in call_s + n each_s seconds for n jobs."""

    def __init__(self, env: simpy.Environment, *, call_s: float, each_s: float, most: int) -> None:
        self._env, self._call_s, self._each_s, self._most = env, call_s, each_s, most
        self._queue: deque[Done] = deque()
        self._busy = False
        self.busy_s = 0.0
        self.jobs = self.batches = 0

    def submit(self, done: Done) -> None:
        """Join the next batch; `done` is called at its end."""
        self._queue.append(done)
        if not self._busy:
            self._start()

    def _start(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(self._most, len(self._queue)))]
        seconds = self._call_s + self._each_s * len(batch)
        self._busy = True
        self.busy_s += seconds
        self.jobs += len(batch)
        self.batches += 1
        after(self._env, seconds, lambda: self._finish(batch))

    def _finish(self, batch: Sequence[Done]) -> None:
        self._busy = False
        if self._queue:
            self._start()
        for done in batch:
            done()


def after(env: simpy.Environment, seconds: float, do: Done) -> None:
    """Call `do` so many simulated seconds from now."""

    def fire(_: Any) -> None:
        do()

    event = env.timeout(seconds)
    assert event.callbacks is not None  # they are taken away when it fires, which is later
    event.callbacks.append(fire)
