"""Who waits for the answer of a call: whether still, for how long, and how urgent it is to them.

The urgency is noted for the thread that answers, so that work which goes on to other hosts takes it along, as
`deadline` does with the time. Knows nothing about queries or about what is done for the caller.
"""

from __future__ import annotations

from contextvars import ContextVar

import grpc

from retrieval.serving.calls import Priority

_priority: ContextVar[Priority] = ContextVar("priority", default=Priority.INTERACTIVE)


class CallerGone(Exception):
    """Nobody waits for the answer any more."""

    def __init__(self, code: grpc.StatusCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class CheckAlive:
    """Asks a call whether somebody still waits, and for how long."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context

    def __call__(self) -> None:
        """CallerGone when the deadline has passed or the call was cancelled."""
        remaining = self.remaining_s()
        if remaining is not None and remaining <= 0:
            raise CallerGone(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the search began")
        if not self._context.is_active():
            raise CallerGone(grpc.StatusCode.CANCELLED, "the caller went away before the search began")

    def remaining_s(self) -> float | None:
        """Seconds until the deadline, None without one."""
        remaining: float | None = self._context.time_remaining()
        return remaining


def note_priority(priority: Priority) -> None:
    """The call that this thread answers is of this class."""
    _priority.set(priority)


def priority() -> Priority:
    """Class of the call that this thread answers; interactive outside one."""
    return _priority.get()
