"""Admission: so many calls at work at once, so many waiting, and a quick no to the rest.

Interactive calls go first; a waiting batch call gets at least every n-th turn, so it is late but not starved. A call
that would not be answered within its time, by the time that calls took lately, is refused at once or when its turn
comes: work on answers that come too late is how an overloaded server ends up giving none. A refusal tells when to come
again. Knows nothing about gRPC, queries or efforts.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from pydantic import BaseModel, ConfigDict, Field

from retrieval.errors import Overloaded
from retrieval.serving.calls import Priority
from retrieval.serving.pressure import Ladder, Step

_MOST_RETRY_MS = 10_000
_POLL_S = 0.1  # how often a waiting call looks whether its caller is still there


class AdmissionSettings(BaseModel):
    """How many calls are at work and how many wait."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_queue: int = Field(
        default=8,
        ge=0,
        le=4_096,
        description="calls that wait for a turn, each in a thread of its own; longer queues only make answers late",
    )
    batch_every: int = Field(
        default=8,
        ge=2,
        le=1_000,
        description="a waiting batch call gets at least every so manieth turn, so that it ends some day",
    )


@dataclass(frozen=True, kw_only=True)
class AdmissionStats:
    """Calls at work and waiting now; admitted, refused and expired since the start."""

    at_work: int
    waiting: int
    admitted: int
    refused: int
    expired: int


class _Ticket:
    def __init__(self) -> None:
        self.turn = threading.Event()


class Admission:
    """At most `limit` calls at work; batch calls take at most half of the queue.

    ladder: told the seconds that each call waited; on its last step batch calls are refused.
    """

    def __init__(
        self,
        limit: int,
        settings: AdmissionSettings | None = None,
        *,
        ladder: Ladder | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._settings = settings or AdmissionSettings()
        self._ladder = ladder
        self._clock = clock
        self._lock = threading.Lock()
        self._queues: dict[Priority, deque[_Ticket]] = {priority: deque() for priority in Priority}
        self._at_work = self._since_batch = 0
        self._admitted = self._refused = self._expired = 0
        self._mean_s = 0.01  # of a call at work, lately

    @contextmanager
    def turn(
        self,
        priority: Priority = Priority.INTERACTIVE,
        *,
        remaining_s: Callable[[], float | None] = lambda: None,
        check_alive: Callable[[], None] = lambda: None,
    ) -> Iterator[None]:
        """Wait for a turn and hold it.

        remaining_s: time the caller still has, None for any. check_alive raises once nobody waits. Raises Overloaded
        when the queue is full, when the time does not reach for the wait and the work, and what check_alive raises.
        """
        began = self._clock()
        if self._ladder is not None and priority is Priority.BATCH and self._ladder.step is Step.SHED_BATCH:
            with self._lock:
                self._refuse("batch calls are shed while the server is under pressure")
        ticket = self._enter(priority, remaining_s())
        if ticket is not None:
            self._wait(ticket, priority, remaining_s, check_alive)
        started = self._clock()
        try:
            self._waited(started - began)
            yield
        finally:
            self._leave(self._clock() - started)

    def check_room(self) -> None:
        """Overloaded when a call of any class would be refused: the cheap question, before a message is parsed."""
        with self._lock:
            if self._at_work >= self._limit and self._waiting() >= self._settings.max_queue:
                self._refuse()

    def stats(self) -> AdmissionStats:
        """The counters."""
        with self._lock:
            return AdmissionStats(
                at_work=self._at_work,
                waiting=self._waiting(),
                admitted=self._admitted,
                refused=self._refused,
                expired=self._expired,
            )

    def is_idle(self) -> bool:
        """Whether nobody waits and a turn is free."""
        with self._lock:
            return self._waiting() == 0 and self._at_work < self._limit

    def _enter(self, priority: Priority, remaining_s: float | None) -> _Ticket | None:
        with self._lock:
            if self._at_work < self._limit and self._waiting() == 0:
                self._at_work += 1
                self._admitted += 1
                return None
            most = self._settings.max_queue
            if self._waiting() >= most:
                self._refuse()
            if priority is Priority.BATCH and len(self._queues[priority]) >= max(1, most // 2):
                self._refuse()
            ahead = self._waiting() if priority is Priority.BATCH else len(self._queues[priority])
            if remaining_s is not None and self._mean_s * (1 + (ahead + 1) / self._limit) > remaining_s:
                self._refuse(f"{ahead} calls wait already, which takes longer than this one's deadline leaves")
            ticket = _Ticket()
            self._queues[priority].append(ticket)
            return ticket

    def _wait(
        self,
        ticket: _Ticket,
        priority: Priority,
        remaining_s: Callable[[], float | None],
        check_alive: Callable[[], None],
    ) -> None:
        began = self._clock()
        try:
            while True:
                remaining = remaining_s()
                if ticket.turn.wait(_POLL_S if remaining is None else max(0.0, min(_POLL_S, remaining))):
                    check_alive()  # a turn that comes too late is handed on
                    remaining = remaining_s()
                    if remaining is not None and remaining < self._mean_s:
                        raise Overloaded("the turn came too late for this call's deadline", retry_after_ms=1)
                    return
                check_alive()
                if remaining is not None and remaining <= 0:
                    raise Overloaded("the deadline passed while the call waited for its turn", retry_after_ms=1)
        except BaseException:
            self._give_up(ticket, priority)
            self._waited(self._clock() - began)
            raise

    def _give_up(self, ticket: _Ticket, priority: Priority) -> None:
        with self._lock:
            self._expired += 1
            if not ticket.turn.is_set():
                self._queues[priority].remove(ticket)
                return
            self._at_work -= 1
            self._admitted -= 1
            self._hand_on()

    def _leave(self, seconds: float) -> None:
        with self._lock:
            self._mean_s += 0.05 * (seconds - self._mean_s)
            self._at_work -= 1
            self._hand_on()

    def _hand_on(self) -> None:
        interactive, batch = self._queues[Priority.INTERACTIVE], self._queues[Priority.BATCH]
        while self._at_work < self._limit and (interactive or batch):
            late = bool(batch) and self._since_batch >= self._settings.batch_every - 1
            batch_turn = late or not interactive
            self._since_batch = 0 if batch_turn or not batch else self._since_batch + 1
            ticket = batch.popleft() if batch_turn else interactive.popleft()
            self._at_work += 1
            self._admitted += 1
            ticket.turn.set()

    def _waiting(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def _waited(self, seconds: float) -> None:
        if self._ladder is not None:
            self._ladder.waited(seconds)

    def _refuse(self, reason: str = "") -> NoReturn:
        self._refused += 1
        reason = reason or f"{self._at_work} calls are at work and {self._waiting()} wait, which is the most"
        wait_ms = math.ceil(1e3 * self._mean_s * (self._waiting() + 1) / self._limit)
        wait_ms = min(max(wait_ms, 1), _MOST_RETRY_MS)
        raise Overloaded(f"{reason}: come again in {wait_ms} ms", retry_after_ms=wait_ms)
